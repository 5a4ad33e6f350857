"""Will it fit? Bytes of a training before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from gaudi3_rt._units import bytes_text
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._format import percent_text, shorten, table

Basis = Literal["exact", "estimated"]
Kind = Literal["parameters", "buffers", "gradients", "optimizer state", "step workspace", "activations"]

GAUDI_MEMORY: Mapping[str, int] = MappingProxyType({"gaudi2": 96 << 30, "gaudi3": 128 << 30})
"""Bytes of a device by its name: the vendor's 96 GB and 128 GB, which hl-smi shows as 98304 MiB and 131072 MiB."""

_NAME_WIDTH = 26


@dataclass(frozen=True, kw_only=True)
class PlanItem:
    """One line of a plan.

    Attributes:
        kind: what for.
        name: which: a key of the optimizer's state, or empty.
        dtype: of its tensors; empty where there are several.
        tensors: how many.
        bytes: of all of them.
        basis: ``exact``, or ``estimated`` where it depends on more than shapes.
    """

    kind: Kind
    name: str = ""
    dtype: str = ""
    tensors: int = 0
    bytes: int
    basis: Basis = "exact"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a plan fits; also usable as a ``bool``.

    Attributes:
        fits: the answer.
        needed: bytes.
        available: bytes of the device that may be used, without the headroom.
        reason: the same in a sentence.
    """

    fits: bool
    needed: int
    available: int
    reason: str

    def __bool__(self) -> bool:
        return self.fits


@dataclass(frozen=True)
class Plan:
    """What a training takes on this rank, in bytes.

    Attributes:
        items: line by line.
        notes: what is not in them, and why.
    """

    items: tuple[PlanItem, ...]
    notes: tuple[str, ...] = ()

    def bytes_of(self, *kinds: Kind) -> int:
        """Of all lines of these kinds."""
        return sum(item.bytes for item in self.items if item.kind in kinds)

    @property
    def kept(self) -> int:
        """What is there between steps: parameters, buffers, gradients and the optimizer's state."""
        return self.bytes_of("parameters", "buffers", "gradients", "optimizer state")

    @property
    def total(self) -> int:
        """The most at once: what is kept, and the larger of activations and the step's workspace, which alternate."""
        return self.kept + max(self.bytes_of("step workspace"), self.bytes_of("activations"))

    @property
    def has_activations(self) -> bool:
        """Whether they were estimated."""
        return any(item.kind == "activations" for item in self.items)

    @property
    def basis(self) -> Basis:
        """``exact`` only if every line is."""
        return "exact" if all(item.basis == "exact" for item in self.items) else "estimated"

    def fits(self, device: Any, headroom: float = 0.1) -> Verdict:
        """Whether it fits into a device.

        Args:
            device: bytes, ``"gaudi2"`` or ``"gaudi3"``, or a device with ``memory_stats()``.
            headroom: share of it that stays free for what a plan cannot know: driver, fragmentation, graphs.

        Raises:
            ParameterValidationError: the device is unknown or has no limit, or ``headroom`` is not in [0, 1).
        """
        if not 0 <= headroom < 1:
            msg = f"headroom={headroom!r}: must be a share of the device, from 0 to below 1"
            raise ParameterValidationError(msg)
        name, capacity = _capacity(device)
        available = int(capacity * (1 - headroom))
        needed = self.total
        share = f"{percent_text(needed, capacity)} of the {bytes_text(capacity)} of {name}"
        if needed <= available:
            reason = f"fits: {bytes_text(needed)} are {share}, {bytes_text(available - needed)} below the headroom"
        else:
            largest = max(self.items, key=lambda item: item.bytes)
            reason = (
                f"does not fit: {bytes_text(needed)} are {share}, {bytes_text(needed - available)} too much with "
                f"{headroom:.0%} headroom; most is {_title(largest)} ({bytes_text(largest.bytes)})"
            )
        if not self.has_activations:
            reason += "; activations are not included"
        return Verdict(fits=needed <= available, needed=needed, available=available, reason=reason)

    def table(self) -> str:
        """As text of at most 80 columns."""
        rows = [
            [
                shorten(f"state: {item.name}" if item.name else item.kind, _NAME_WIDTH),
                item.dtype,
                str(item.tensors or ""),
                bytes_text(item.bytes),
                percent_text(item.bytes, self.total),
                item.basis,
            ]
            for item in self.items
        ]
        rows.append(["at most at once", "", "", bytes_text(self.total), "", self.basis])
        lines = [table(["", "dtype", "tensors", "memory", "share", ""], rows, right=(2, 3, 4))]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        """The table."""
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON; bytes."""
        return {
            "total": self.total,
            "kept": self.kept,
            "basis": self.basis,
            "items": [
                {
                    "kind": item.kind,
                    "name": item.name,
                    "dtype": item.dtype,
                    "tensors": item.tensors,
                    "bytes": item.bytes,
                    "basis": item.basis,
                }
                for item in self.items
            ],
            "notes": list(self.notes),
        }


def _title(item: PlanItem) -> str:
    return f"{item.kind}: {item.name}" if item.name else item.kind


def _capacity(device: Any) -> tuple[str, int]:
    known = f"known are bytes, {', '.join(GAUDI_MEMORY)}, and devices with memory_stats()"
    if isinstance(device, str):
        name = device.lower().replace(" ", "").replace("-", "")
        if name not in GAUDI_MEMORY:
            msg = f"device {device!r} is unknown; {known}"
            raise ParameterValidationError(msg)
        return name, GAUDI_MEMORY[name]
    if isinstance(device, int) and not isinstance(device, bool) and device > 0:
        return "memory", device
    if hasattr(device, "memory_stats"):
        limit = device.memory_stats().limit
        if limit is None:
            msg = f"{device.name} does not say how much memory it has; give the bytes"
            raise ParameterValidationError(msg)
        return str(device.name), int(limit)
    msg = f"device {device!r} is none; {known}"
    raise ParameterValidationError(msg)
