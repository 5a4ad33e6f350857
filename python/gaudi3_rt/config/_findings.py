"""What is said about a configuration: errors, security findings, hints; where, what was seen, and who says so."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gaudi3_rt._redact import redact
from gaudi3_rt._show import show

Kind = Literal["structure", "rule", "security", "performance"]
Severity = Literal["error", "high", "medium", "low"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a configuration, or that its owner should know. It holds no secrets.

    Attributes:
        path: of the value, e.g. ``optimizer.betas[1]``.
        message: what is wrong and what to do.
        kind: ``structure`` (keys, types, ranges: what the JSON Schema says too), ``rule`` (between values),
            ``security``, or ``performance``.
        severity: ``error`` if the configuration cannot be used; else how much is at stake.
        seen: the value, shortened; None where there is none to show.
        allowed: what may stand there.
        origin: where the value comes from, if known: a file and line, a variable, an argument.
        source: who says so, where it is not obvious: a paper, a manual.
        missing: a value that is needed was given nowhere.
    """

    path: str
    message: str
    kind: Kind
    severity: Severity
    seen: str | None = None
    allowed: str | None = None
    origin: str | None = None
    source: str | None = None
    missing: bool = False

    def __str__(self) -> str:
        """One line: where, what, from where."""
        text = f"{self.path}: {self.message}" if self.path else self.message
        return text + (f" [{self.source}]" if self.source else "") + (f" ({self.origin})" if self.origin else "")

    def to_dict(self) -> dict[str, Any]:
        """Its attributes, for JSON."""
        return asdict(self)


def path_text(path: tuple[str | int, ...]) -> str:
    """``("optimizer", "betas", 1)`` as ``optimizer.betas[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_key(str(part))}" if text else _key(str(part))
    return text


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]{1,80}", key) and redact(key) == key else show(key)
