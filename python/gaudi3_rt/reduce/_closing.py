"""What ranks tell each other at the end of a step: parameters that were used, sums of squares, the order of calls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.reduce._layout import Layout, Slice
from gaudi3_rt.reduce._transport import Pending, Transport


class Closing:
    """One small sum of integers over all ranks, after everything else of a step has arrived.

    A sum of squares belongs to one rank, and is zero on all others; so the bits of a float64 survive the sum of its two
    halves as integers. Who has heard the result knows that every rank has the whole mean.

    Args:
        layout: the buckets.
        device: on which the backend communicates.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._n_halves = 2 * layout.n_chunks
        self._values = torch.zeros(self._n_halves + len(layout.bucket_of) + 2, dtype=torch.int32)
        self._sums = self._values[: self._n_halves].view(torch.float64)
        self._used = self._values[self._n_halves : -2]
        self._sum_of: list[float] | None = None
        self._order = 0

    def begin(self) -> None:
        """Forgets the step before."""
        self._values.zero_()
        self._used.fill_(1)
        self._sum_of = None

    def chunk_sums(self, piece: Slice) -> Tensor:
        """Where the sums of squares of a slice belong; float64."""
        return self._sums[piece.first_chunk : piece.first_chunk + piece.n_chunks]

    def note(self, params: Sequence[int], used: Sequence[bool]) -> None:
        """Says which parameters of a bucket have a gradient on this rank."""
        self._used[list(params)] = torch.tensor(used, dtype=torch.int32)

    def mark(self, *, measured: bool) -> None:
        """Says whether this rank has filled in the sums of squares of all its slices."""
        self._values[-1] = int(measured)

    def send(self, transport: Transport, *, measured: bool) -> list[Pending]:
        """Starts the sum over all ranks.

        Args:
            transport: to the other ranks.
            measured: this rank has filled in the sums of squares of all its slices.
        """
        self.mark(measured=measured)
        self._order = self._values[-2] = transport.turns.digest
        self._sent = self._values.to(self._device)
        return transport.all_reduce(self._sent)

    def receive(self, world: int) -> bool:
        """Takes what the sum over all ranks has brought; whether all have made their calls in the same order."""
        self._values.copy_(self._sent)
        return int(self._values[-2]) == world * self._order

    def all_measured(self, world: int) -> bool:
        """Whether every rank has filled in its sums of squares."""
        return int(self._values[-1]) == world

    def unused(self) -> set[int]:
        """Parameters without a gradient on any rank."""
        return set() if int(self._used.min()) else set((self._used == 0).nonzero().flatten().tolist())

    def sum_squares(self, param: int) -> float:
        """Of the mean gradient of a parameter, with the bits of ``gaudi3_rt.reduce.sum_squares([grad])``."""
        if self._sum_of is None:
            self._sum_of = self._sums.tolist()
        first, count = self._layout.chunks_of[param]
        total = 0.0
        for value in itertools.islice(self._sum_of, first, first + count):
            total += value
        return total
