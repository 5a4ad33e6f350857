"""The structure of a configuration as JSON Schema, for editors and for other languages."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from gaudi3_rt._section import Section
from gaudi3_rt.config._models import TrainingConfig
from gaudi3_rt.config._optimizers import AnyOptimizer, OptimizerConfig
from gaudi3_rt.errors import ParameterValidationError

Draft = Literal["2020-12", "draft-7"]

_DIALECTS = {"2020-12": GenerateJsonSchema.schema_dialect, "draft-7": "http://json-schema.org/draft-07/schema#"}


def json_schema(draft: Draft = "2020-12", model: type[Section] = TrainingConfig) -> dict[str, Any]:
    """Keys, types and ranges of a configuration. A new mapping at each call.

    Both drafts accept the same documents, and the models accept the same as both, but for what no schema says: rules
    between values, ``${`` and credentials in texts, and lone surrogates, which are no Unicode text.

    Args:
        draft: the dialect.
        model: of which section; the whole configuration if not given.

    Raises:
        ParameterValidationError: there is no such draft.
    """
    if draft not in _DIALECTS:
        msg = f"draft={draft!r}: must be one of {', '.join(get_args(Draft))}"
        raise ParameterValidationError(msg)
    adapter: TypeAdapter[Any] = TypeAdapter(AnyOptimizer if model is OptimizerConfig else model)
    schema = adapter.json_schema()
    if draft == "draft-7":
        schema = _in_draft_7(schema)
    return {"$schema": _DIALECTS[draft], **schema}


def _in_draft_7(node: Any) -> Any:
    """Draft 7 keeps shared parts under another name; nothing else that the models use differs between the two."""
    if isinstance(node, list):
        return [_in_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/definitions/") if isinstance(node, str) else node
    return {"definitions" if key == "$defs" else key: _in_draft_7(value) for key, value in node.items()}
