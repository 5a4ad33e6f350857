"""What sections of a configuration share: strict frozen models, rules, types whose verdicts JSON Schema can repeat."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from gaudi3_rt._forms import has_credentials

MAX_FLOAT = sys.float_info.max
RULE = "rule"
"""Type of pydantic's errors that stand for a rule between fields, which no JSON Schema can say."""


@dataclass(frozen=True)
class Broken:
    """A rule that a section's values break."""

    path: tuple[str | int, ...]
    seen: Any
    message: str


def _whole(value: Any) -> Any:
    """1.0 is an integer in JSON Schema, so it is one here."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _dtype_name(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fit_to_share(text: str) -> str:
    if "${" in text:
        message = "${...} is not replaced here; write the value, or give it by a GAUDI3_RT_ variable or --set"
        raise PydanticCustomError(RULE, "{message}", {"message": message})
    if has_credentials(text):
        message = "a URL with a user name or password; give them to the tool that connects by its own variable or file"
        raise PydanticCustomError(RULE, "{message}", {"message": message})
    return text


def form(pattern: str, allowed: str) -> AfterValidator:
    """Text has to match as a whole; a rule, because JSON Schema's patterns differ between its readers."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError(RULE, "{message}", {"message": f"has to be {allowed}"})
        return text

    return AfterValidator(check)


# Those that look at a value first stand last: pydantic leaves constraints that follow them out of the JSON Schema.
AsInteger = BeforeValidator(_whole)
AsList = BeforeValidator(_as_list)
AsDtypeName = BeforeValidator(_dtype_name)
Number = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_FLOAT, le=MAX_FLOAT)]
NotNegative = Annotated[float, Field(allow_inf_nan=False, ge=0, le=MAX_FLOAT)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0, le=MAX_FLOAT)]
Ratio = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**64), AsInteger]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_fit_to_share)]
PathText = Annotated[Text, BeforeValidator(_path_text)]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], AsDtypeName]


def setting(default: Any, description: str, unit: str | None = None) -> Any:
    """A field with what it means and, for a number, its unit (``"1"`` for a plain number); ``...`` for no default."""
    extra: dict[str, Any] = {} if unit is None else {"unit": unit}
    return Field(default, description=description, json_schema_extra=extra)


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, no conversion between types."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        revalidate_instances="always",  # an object may have been made without validation
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    def _broken(self) -> Iterator[Broken]:
        """The rules between fields that these values break."""
        return iter(())

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        if broken := list(self._broken()):
            raise _as_error(type(self).__name__, broken)
        return self


def _as_error(title: str, broken: Sequence[Broken]) -> ValidationError:
    # A value of the message may hold braces, so the message is a value itself.
    errors = [
        InitErrorDetails(
            type=PydanticCustomError(RULE, "{message}", {"message": one.message}), loc=one.path, input=one.seen
        )
        for one in broken
    ]
    return ValidationError.from_exception_data(title, errors)
