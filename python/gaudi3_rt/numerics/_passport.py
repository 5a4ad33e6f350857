"""What an audit found: the passport of an optimizer, and the checks in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

Status = Literal["pass", "differs", "fails", "not applicable"]
"""``differs``: another formula, default or set of options, that its author may have chosen, but not the one of the
specification. ``fails``: an option is taken and ignored, state is lost, results are not repeatable, or an error."""


_SINGULAR = {
    "bytes per parameter": "byte per parameter",
    "elements changed": "element changed",
    "elements differ": "element differs",
    "entries changed": "entry changed",
    "faults": "fault",
    "other defaults": "other default",
    "recompilations in 5 steps": "recompilation in 5 steps",
    "unknown keywords taken": "unknown keyword taken",
}
"""Units of a figure that is 1, as people read it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a check measured.

    Attributes:
        value: the number; NaN or infinite where the optimizer made it so.
        unit: what it is in, e.g. ``relative error``, ``ulp``, ``bytes per parameter``.
        bound: what the check compared it with, in the same unit; None for a figure that is only reported.
    """

    value: float
    unit: str
    bound: float | None = None

    def __str__(self) -> str:
        """The number with its unit."""
        return f"{self.value:.3g} {_SINGULAR.get(self.unit, self.unit) if self.value == 1 else self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON; numbers that JSON does not have are texts."""
        return {"value": _plain(self.value), "unit": self.unit, "bound": _plain(self.bound)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figure:
        """What ``to_dict`` made."""
        bound = values["bound"]
        return cls(value=float(values["value"]), unit=values["unit"], bound=None if bound is None else float(bound))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question, and what the optimizer answered.

    Attributes:
        name: stable identifier, e.g. ``eps-placement``.
        dtype: of the parameters, e.g. ``bfloat16``; empty for a check that does not depend on it.
        status: see ``Status``.
        figure: what was measured; None where nothing could be.
        consequence: one sentence, in plain words, with the figure in it.
        reproduce: a few lines of Python that print the figure last, or what was raised; empty where neither is.
        curve: pairs of step and relative update error, where the check has them.
    """

    name: str
    status: Status
    consequence: str
    dtype: str = ""
    figure: Figure | None = None
    reproduce: str = ""
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it neither differs nor fails."""
        return self.status in {"pass", "not applicable"}

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "status": self.status,
            "figure": None if self.figure is None else self.figure.to_dict(),
            "consequence": self.consequence,
            "reproduce": self.reproduce,
            "curve": [[step, _plain(error)] for step, error in self.curve],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Check:
        """What ``to_dict`` made."""
        figure = values["figure"]
        return cls(
            name=values["name"],
            dtype=values["dtype"],
            status=values["status"],
            figure=None if figure is None else Figure.from_dict(figure),
            consequence=values["consequence"],
            reproduce=values["reproduce"],
            curve=tuple((int(step), float(error)) for step, error in values["curve"]),
        )


@dataclass(frozen=True, kw_only=True)
class Passport:
    """All checks of one optimizer.

    Attributes:
        subject: what was audited, e.g. ``torch.optim.AdamW``.
        like: the specification that it was compared with.
        device: where its parameters were.
        dtypes: of its parameters.
        versions: of what the figures may depend on, by name: ``python``, ``torch``, the subject's package.
        seconds: that the audit took.
        checks: in the order of the battery.
    """

    subject: str
    like: str
    device: str
    dtypes: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: float
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check differs or fails."""
        return all(check.ok for check in self.checks)

    @property
    def curves(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """Relative update error against step, for each dtype: of the check ``formula``."""
        return {check.dtype: check.curve for check in self.checks if check.name == "formula" and check.curve}

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON."""
        return {
            "subject": self.subject,
            "like": self.like,
            "device": self.device,
            "dtypes": list(self.dtypes),
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "ok": self.ok,
            "checks": [check.to_dict() for check in self.checks],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Passport:
        """What ``to_dict`` made."""
        return cls(
            subject=values["subject"],
            like=values["like"],
            device=values["device"],
            dtypes=tuple(values["dtypes"]),
            versions=dict(values["versions"]),
            seconds=float(values["seconds"]),
            checks=tuple(map(Check.from_dict, values["checks"])),
        )

    def to_json(self) -> str:
        """As JSON, with line ends."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """As a Markdown table, with what reproduces the findings below it."""
        from gaudi3_rt.numerics import _render  # noqa: PLC0415 (what is shown builds on the records)

        return _render.markdown(self)

    def __rich__(self) -> RenderableType:
        """As a table of rich."""
        from gaudi3_rt.numerics import _render  # noqa: PLC0415 (the same; needs rich)

        return _render.rich_table(self)

    def plot(self, path: str | Path) -> None:
        """Writes a chart of the curves: relative update error against step. Needs matplotlib."""
        from gaudi3_rt.numerics import _plot  # noqa: PLC0415 (the same)

        _plot.plot(self, path)


def _plain(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
