"""Something that was found wrong, with what to do about it and where that is known from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        severity: ``error`` if it is known not to work, ``warning`` if it may not do what was meant.
        subject: what it is about: the name of a variable or of a component.
        message: what was seen, and what is allowed.
        advice: what to do.
        source: where this is known from, e.g. ``containers/ai-lab-recipes#587``.
    """

    severity: Literal["error", "warning"]
    subject: str
    message: str
    advice: str
    source: str
