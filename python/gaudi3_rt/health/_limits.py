"""Rules between two limits of one value."""

from __future__ import annotations

from collections.abc import Iterator

from gaudi3_rt._section import Broken, Section


def ordered(section: Section, warning: str, critical: str, *, falling: bool = False) -> Iterator[Broken]:
    """The warning comes before the critical limit: below it, or above it where small values are the bad ones."""
    first, second = getattr(section, warning), getattr(section, critical)
    if first is None or second is None or (first > second if falling else first < second):
        return
    relation = "above" if falling else "below"
    yield Broken((warning,), first, f"must be {relation} {critical}={second!r}, or the warning comes too late")
