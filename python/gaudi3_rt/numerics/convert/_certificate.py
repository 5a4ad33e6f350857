"""The record of a conversion: what was compared, how far the target goes on as the source would have, what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a conversion was measured to do.

    The source and the target each take ``steps`` updates from the same parameters, with the same gradients, whose size
    is that of the state's own second moments, in float32, whatever dtype the moments have.

    Attributes:
        source: layout that was read.
        evidence: what it was recognised by; empty if it was named.
        target: layout that was written.
        source_ran: what took the source's updates: a class, or a model of a formula.
        target_ran: the same of the target.
        steps: how many updates were compared.
        parameters: how many parameters have a state, and how many of them were compared; of large states their first
            elements.
        elements: the same in elements.
        state_equal: whether counts and moments, read back from the target, have the bits of the source's.
        ulp: largest difference after the last update, of parameters and of each moment, in units in the last place of
            the largest magnitude that the element had.
        update_error: by step, the norm of the difference of a parameter's two values, over the length of the way that
            it went in the source, update by update; the largest over parameters.
        rounding: an update error up to this may be due to rounding the parameters alone.
        changed: options, counts, names and kinds of moments that the target reads back otherwise.
        differs: where the formulas are not the same.
        lost: what the target has no place for.
        notes: what was recovered or assumed, and how to load it.
    """

    source: str
    evidence: tuple[str, ...]
    target: str
    source_ran: str
    target_ran: str
    steps: int
    parameters: tuple[int, int]
    elements: tuple[int, int]
    state_equal: bool
    ulp: Mapping[str, float]
    update_error: Mapping[int, float]
    rounding: float
    changed: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reproduces(self) -> bool:
        """Whether the target's options and counts are the source's, and its updates but for rounding."""
        return not self.shortfall

    @property
    def shortfall(self) -> tuple[str, ...]:
        """Why it does not reproduce; nothing if it does."""
        apart = {step: error for step, error in self.update_error.items() if not error <= self.rounding}
        errors = ", ".join(f"{error:.1e} after {step}" for step, error in apart.items())
        said = f"updates are apart by {errors}, where rounding is up to {self.rounding:.1e}"
        return (*self.changed, *((said, *self.differs) if apart else ()))

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON."""
        return {**asdict(self), "reproduces": self.reproduces}

    def rows(self) -> list[tuple[str, str]]:
        """As pairs of a label and a text."""
        (have, compared), (elements, looked_at) = self.parameters, self.elements
        sample = f"all {have:,}, {elements:,} elements"
        if elements != looked_at:
            sample = f"the first elements of {compared:,} of {have:,}: {looked_at:,} of {elements:,} elements"
        ulps = ", ".join(f"{name} {value:.3g}" for name, value in self.ulp.items())
        errors = ", ".join(f"{error:.1e} after {step}" for step, error in self.update_error.items())
        found = f" ({'; '.join(self.evidence)})" if self.evidence else ""
        verdict = f"the same but for rounding, which is up to {self.rounding:.1e}"
        if not all(error <= self.rounding for error in self.update_error.values()):
            verdict = f"not the same; rounding is up to {self.rounding:.1e}"
        rows = [
            ("source", f"{self.source}{found}"),
            ("target", self.target),
            ("compared", f"{self.steps} updates by {self.source_ran} with as many by {self.target_ran}"),
            ("parameters", f"{sample}" if have else "none has a state yet: nothing to compare"),
            (
                "state",
                "equal, bit for bit" + " in these" * (elements != looked_at) if self.state_equal else "not equal",
            ),
        ]
        if self.ulp:
            rows += [
                ("difference, ulp", ulps),
                ("updates", f"relative error {errors}: {verdict}"),
            ]
        several = (("changed", self.changed), ("differs", self.differs), ("lost", self.lost), ("note", self.notes))
        return rows + [(label, text) for label, texts in several for text in texts]

    def __str__(self) -> str:
        """One line for each fact."""
        return "\n".join(f"{label:17}{text}" for label, text in self.rows())
