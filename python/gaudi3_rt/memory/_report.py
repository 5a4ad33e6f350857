"""Who holds the memory: the record, as a table and as a dictionary."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt._units import bytes_text
from gaudi3_rt.memory._format import percent_text, shorten, shorten_name, table

Owner = Literal["parameter", "gradient", "optimizer state", "buffer", "other"]

_NAME_WIDTH = 23
_FORM_WIDTH = 29
_SHORT: dict[Owner, str] = {
    "parameter": "param",
    "gradient": "grad",
    "optimizer state": "state",
    "buffer": "buffer",
    "other": "other",
}


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Tensors of one name, or others of one shape and dtype.

    Attributes:
        owner: what they are.
        name: of the parameter or buffer, or the parameter that the gradient or state is of; empty for others.
        key: of state; empty for what is none.
        shape: of one of them; of a DTensor, this rank's part.
        dtype: of one of them.
        device: where they are.
        bytes: of their storages, without those that a holding before this one has.
        count: how many tensors have these storages, with views.
        shared_with: names of others that have the same storage.
    """

    owner: Owner
    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    bytes: int
    key: str = ""
    count: int = 1
    shared_with: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What it is and of whom."""
        name = f"{self.key} of {self.name}" if self.key and self.name else self.key or self.name
        return f"{self.owner}: {name}" if name else self.owner

    @property
    def form(self) -> str:
        """How many, dtype and shape."""
        times = f"{self.count} of " if self.owner == "other" and self.count > 1 else ""
        return f"{times}{self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class MemoryReport:
    """Who holds how much; ``str()`` of it is a table of at most 80 columns.

    Attributes:
        holdings: the largest first.
        stats: what the device said at the same time; None if it was not asked.
        top: how many holdings the table shows.
    """

    holdings: tuple[Holding, ...]
    stats: MemoryStats | None = None
    top: int = 20

    @property
    def total(self) -> int:
        """Bytes of all holdings."""
        return sum(holding.bytes for holding in self.holdings)

    def by_owner(self) -> dict[str, int]:
        """Bytes of each kind of owner, the largest first."""
        sums: dict[str, int] = defaultdict(int)
        for holding in self.holdings:
            sums[holding.owner] += holding.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @property
    def unseen(self) -> int | None:
        """What the device has allocated beyond the holdings: saved for backward, code, caches of the allocator."""
        return None if self.stats is None else max(self.stats.allocated - self.total, 0)

    def table(self) -> str:
        """As text."""
        whole = self.total if self.stats is None else max(self.stats.allocated, self.total)
        shown = self.holdings[: self.top]
        several = len({one.device for one in self.holdings}) > 1
        rows = [
            [
                bytes_text(one.bytes),
                percent_text(one.bytes, whole),
                _SHORT[one.owner],
                shorten_name(one.name, _NAME_WIDTH),
                shorten(" ".join(filter(None, (one.key, one.device if several else "", one.form))), _FORM_WIDTH),
            ]
            for one in shown
        ]
        rest = self.holdings[self.top :]
        if rest:
            size = sum(one.bytes for one in rest)
            rows.append([bytes_text(size), percent_text(size, whole), "", f"{len(rest)} smaller ones", ""])
        lines = [self._summary(), ""] if self.stats is not None else []
        lines.append(table(["memory", "share", "", "of", "as"], rows, right=(0, 1)))
        lines.append("")
        lines.extend(f"{bytes_text(size):>12}  {owner}" for owner, size in self.by_owner().items())
        if self.unseen is not None:
            lines.append(f"{bytes_text(self.unseen):>12}  not seen: saved for backward, code, caches of the allocator")
        return "\n".join(lines)

    def _summary(self) -> str:
        stats = self.stats
        if stats is None:
            return ""
        limit = "" if stats.limit is None else f" of {bytes_text(stats.limit)}"
        workspace = "" if stats.workspace is None else f", workspace {bytes_text(stats.workspace)}"
        simulated = " (simulated)" if stats.simulated else ""
        peak = f"peak {bytes_text(stats.peak)}{workspace}"
        return f"allocated {bytes_text(stats.allocated)}{limit}{simulated}\n{peak}"

    def __str__(self) -> str:
        """The table."""
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON; bytes."""
        stats = self.stats
        return {
            "total": self.total,
            "by_owner": self.by_owner(),
            "unseen": self.unseen,
            "simulated": stats is not None and stats.simulated,
            "stats": None
            if stats is None
            else {
                "allocated": stats.allocated,
                "reserved": stats.reserved,
                "peak": stats.peak,
                "limit": stats.limit,
                "workspace": stats.workspace,
            },
            "holdings": [
                {
                    "owner": one.owner,
                    "name": one.name,
                    "key": one.key,
                    "shape": list(one.shape),
                    "dtype": one.dtype,
                    "device": one.device,
                    "bytes": one.bytes,
                    "count": one.count,
                    "shared_with": list(one.shared_with),
                }
                for one in self.holdings
            ],
        }
