"""What a check is: settings that a configuration can write down, and a question that they ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict

from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import Positive, Section, Text, form, setting
from gaudi3_rt.health._status import HealthStatus, Outcome

Label = Annotated[Text, form(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}", "up to 63 letters, digits and _ . : -")]


class HealthCheck(Protocol):
    """Whatever a monitor can run. Its runs never overlap."""

    @property
    def label(self) -> str:
        """What it is called in results."""
        ...

    @property
    def type(self) -> str:
        """What kind of check it is."""
        ...

    @property
    def critical(self) -> bool:
        """Whether it counts for the whole."""
        ...

    @property
    def timeout_seconds(self) -> float:
        """After so long a run counts as hanging."""
        ...

    def open(self) -> None:
        """A monitor begins to watch."""

    def prepare(self) -> None:
        """Starts what the first run would have to wait for; in the thread of that run, which it is not counted to.

        It has a timeout of its own, as long as that of a run. What it raises is CRITICAL, and it is called again.
        """

    def close(self) -> None:
        """It has ended."""

    def run(self, clock: Clock) -> Outcome:
        """Looks once. What it raises is CRITICAL."""
        ...


def _require_type(schema: dict[str, Any]) -> None:
    """In a configuration the type is what tells checks apart; in code the class does."""
    schema["required"] = ["type", *schema.get("required", [])]


class Check(Section):
    """Base of the checks that a configuration can name."""

    model_config = ConfigDict(json_schema_extra=_require_type)

    name: Label | None = setting(
        None, "What it is called in results: letters, digits and _ . : - (everybody may see it); null for its type."
    )
    critical: bool = setting(True, "Whether it counts for the whole; false: it can only degrade it.")
    timeout_seconds: Positive = setting(5.0, "After so long a run counts as hanging.", "seconds")

    type: str

    @property
    def label(self) -> str:
        """What it is called in results."""
        return self.name or self._usual_name()

    def __eq__(self, other: object) -> bool:
        """By settings: what a check remembers between looks is none."""
        return type(self) is type(other) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash((type(self), self.label))

    def _usual_name(self) -> str:
        return self.type

    def open(self) -> None:
        """A monitor begins to watch."""

    def prepare(self) -> None:
        """Starts what the first run would have to wait for."""

    def close(self) -> None:
        """It has ended."""

    def run(self, clock: Clock) -> Outcome:
        """Looks once."""
        raise NotImplementedError


@dataclass(frozen=True)
class FunctionCheck:
    """A check of your own, from a function.

    Attributes:
        name: what it is called in results; everybody may see it.
        function: is called in a thread. It returns an :class:`Outcome`, or whether all is well. What it raises is
            CRITICAL; of that only the type is shown to others, the text is ``detail``.
        critical: whether it counts for the whole.
        timeout_seconds: after so long a run counts as hanging.
    """

    name: str
    function: Callable[[], Outcome | bool]
    critical: bool = True
    timeout_seconds: float = 5.0
    type: str = "function"

    @property
    def label(self) -> str:
        """Its name."""
        return self.name

    def open(self) -> None:
        """Nothing has to be opened."""

    def prepare(self) -> None:
        """Nothing has to be started."""

    def close(self) -> None:
        """Nothing has to be closed."""

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (the function has its own)
        """Calls the function."""
        found = self.function()
        if isinstance(found, Outcome):
            return found
        if not isinstance(found, bool):
            msg = f"the function returned {type(found).__name__}; it has to be an Outcome, True or False"
            raise TypeError(msg)
        status = HealthStatus.HEALTHY if found else HealthStatus.CRITICAL
        return Outcome(status=status, message="ok" if found else "not ok")
