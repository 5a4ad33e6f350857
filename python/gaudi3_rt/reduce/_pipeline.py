"""One step's buckets on their way: sent in one order by all ranks, advanced as they arrive, handed out together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gaudi3_rt.errors import OptimizerError
from gaudi3_rt.reduce._buffers import Buffers
from gaudi3_rt.reduce._closing import Closing
from gaudi3_rt.reduce._exchange import Lost, Phases
from gaudi3_rt.reduce._layout import Bucket, Layout, Slice
from gaudi3_rt.reduce._norms import sum_squares
from gaudi3_rt.reduce._shard_sums import ShardSums
from gaudi3_rt.reduce._transport import Pending, TransferError, Transport

DEPTH = 2
"""So many buckets travel before backward looks after the oldest: it waits only for a network that is slower than it."""

CLOSING = -1
"""The number of what is exchanged after all buckets."""


class Algorithm(Protocol):
    """How one bucket is reduced; its phases are asked to go on in the same order on every rank."""

    @property
    def node_dtype(self) -> torch.dtype: ...
    @property
    def node_scale(self) -> float: ...
    @property
    def measures(self) -> bool: ...
    @property
    def lost(self) -> Lost: ...
    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor, /) -> Phases: ...


@dataclass
class Station:
    """One bucket: its memory, how it is reduced, and what was sent of it last.

    Attributes:
        bucket: the bucket.
        slices: what of it each rank measures.
        buffers: its memory.
        algorithm: how it is reduced.
        sums: of the shards so far; ``None`` if each rank holds one.
        number: of the buffer that the mean is in.
        grads: gradients of this rank that were sent.
        versions: of these, when they were sent.
        used: which parameters had one in this step.
        handed: version of the buffer when it was handed out; -1 before.
    """

    bucket: Bucket
    slices: list[Slice]
    buffers: Buffers
    algorithm: Algorithm
    sums: ShardSums | None
    number: int = 0
    grads: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    used: list[bool] = field(default_factory=list)
    handed: int = -1


class ArrivalError(Exception):
    """A bucket did not arrive. Only seen inside this package.

    Attributes:
        bucket: its number.
        cause: what went wrong.
    """

    def __init__(self, bucket: int, cause: TransferError) -> None:
        super().__init__(f"bucket {bucket}: {cause}")
        self.bucket, self.cause = bucket, cause


class Pipeline:
    """All buckets of a layout.

    Args:
        params: the parameters, by their numbers.
        layout: the buckets.
        transport: ``None`` without other ranks.
        build: makes the slices, the algorithm and the sums of shards of a bucket.
        device: on which the backend communicates.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        layout: Layout,
        transport: Transport | None,
        build: Callable[[Bucket], tuple[list[Slice], Algorithm, ShardSums | None]],
        device: torch.device,
    ) -> None:
        self.layout, self._transport = layout, transport
        self._rank = transport.rank if transport else 0
        self._device = device
        self.stations = []
        for bucket in layout.buckets:
            slices, algorithm, sums = build(bucket)
            self.stations.append(Station(bucket, slices, Buffers(bucket, params), algorithm, sums))
        self.closing = Closing(layout, device)
        self._under_way: list[_Journey] = []
        self.measures = False
        """Take sums of squares also of buckets whose algorithm does not, because somebody wants the norm."""

    def begin(self) -> None:
        """Starts a step; what is under way of one that was not joined is waited for, and forgotten.

        Raises:
            ArrivalError: it did not arrive.
        """
        for station in self.stations:
            station.used = [False] * len(station.bucket.params)
            if station.sums:
                station.sums.drop()
        self.finish()
        self.closing.begin()

    def keep(self, index: int) -> None:
        """Adds a bucket's gradients to the sums of shards, and takes them from the parameters."""
        station = self.stations[index]
        self._add_shard(station)
        station.grads = []
        for param in station.buffers.params:
            param.grad = None

    def launch(self, index: int) -> None:
        """Sends a bucket, and then looks after those that were sent some time ago.

        Raises:
            ArrivalError: one of them did not arrive.
        """
        station = self.stations[index]
        nodes = self._packed(station) if station.sums is None else self._add_shard(station).take()
        station.versions = [grad._version for grad in station.grads]
        if not all(station.used):
            self.closing.note(station.bucket.params, station.used)
        out = station.buffers.flat(station.number)
        chunk_sums = self.closing.chunk_sums(station.slices[self._rank])
        self._under_way.append(_Journey(index, station.algorithm.run(nodes, out, chunk_sums)))
        self._advance(self._under_way[-1])
        for journey in self._under_way[:-DEPTH]:
            self._advance(journey)

    def finish(self) -> None:
        """Waits until all buckets that were sent have arrived.

        Raises:
            ArrivalError: one did not.
        """
        while self._under_way:
            for journey in list(self._under_way):
                self._advance(journey)

    def close_step(self) -> None:
        """Tells the other ranks about this step, and hears what they have to tell.

        Raises:
            ArrivalError: a rank did not tell.
            OptimizerError: the buckets were mixed up with those of another reducer.
        """
        measured = self.measures or all(station.algorithm.measures for station in self.stations)
        if self._transport is None:
            self.closing.mark(measured=measured)
            return
        try:
            for pending in self.closing.send(self._transport, measured=measured):
                pending.wait()
        except TransferError as error:
            raise ArrivalError(CLOSING, error) from error
        if not self.closing.receive(self._transport.world):
            msg = (
                "ranks have sent the buckets of several GradientReducers of one process group in different orders, as "
                "happens if they use different parameters: their sums are mixed up. Give each reducer a group of its "
                "own, made by torch.distributed.new_group()"
            )
            raise OptimizerError(msg)

    def changed(self) -> Tensor | None:
        """A parameter whose gradient is not the one that was sent; ``None`` if there is no such parameter."""
        for station in self.stations:
            grads = iter(zip(station.grads, station.versions, strict=True))
            for param, (grad, version) in zip(station.buffers.params, grads, strict=True):
                now = param.grad
                if now is not grad and not (now is None and station.buffers.is_zero(grad)):
                    return param
                if grad.numel() and grad._version != version:  # one without memory counts as any buffer's
                    return param
        return None

    def hand_out(self) -> None:
        """Makes the mean the gradient of every parameter that was used on some rank."""
        unused = self.closing.unused()
        for station in self.stations:
            for i, param, view in zip(
                station.bucket.params, station.buffers.params, station.buffers.views(station.number), strict=True
            ):
                if i not in unused:
                    param.grad = view
            station.grads = []
            station.handed = station.buffers.version(station.number)

    def give_back(self) -> None:
        """After a failure: makes the sum of this rank's shards so far the gradients, as backward alone would."""
        for station in self.stations:
            total = station.sums.total() if station.sums else None
            if station.sums is None or total is None:
                continue
            views = station.buffers.views_of(total)
            for param, view, used in zip(station.buffers.params, views, station.used, strict=True):
                if param.grad is not None and not station.sums.is_taken:
                    view.add_(param.grad)
                if param.grad is not None or used:
                    param.grad = view.to(param.dtype)

    def sum_squares(self, params: Sequence[Tensor], numbers: Sequence[int | None]) -> float:
        """Of the gradients of these parameters; reads only those of which it is not known.

        Args:
            params: the parameters.
            numbers: theirs; ``None`` for one that is not of this layout.
        """
        world = self._transport.world if self._transport else 1
        known = self._known() if self.closing.all_measured(world) else {}
        self.measures = True
        total = 0.0
        for param, number in zip(params, numbers, strict=True):
            grad = param.grad
            if grad is None:
                continue
            if number is not None and known.get(number) is grad:
                total += self.closing.sum_squares(number)
            else:
                total += sum_squares([grad])
        return total

    def lost(self) -> Lost:
        """Of all buckets."""
        every = [station.algorithm.lost for station in self.stations]
        return Lost(sum((lost.contributions for lost in every), ()), sum((lost.means for lost in every), ()))

    def _known(self) -> dict[int, Tensor]:
        """Gradients that were handed out, by parameter, where nothing was written since."""
        return {
            number: view
            for station in self.stations
            if station.handed >= 0 and station.buffers.version(station.number) == station.handed
            for number, view in zip(station.bucket.params, station.buffers.views(station.number), strict=True)
        }

    def from_first_rank(self, numbers: Sequence[int]) -> list[int]:
        """What rank 0 gives.

        Raises:
            ArrivalError: it does not come.
        """
        if self._transport is None:
            return list(numbers)
        given = torch.tensor(numbers, dtype=torch.int32, device=self._device) * (self._rank == 0)
        self.add_up([given])
        result: list[int] = given.tolist()
        return result

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over all ranks.

        Raises:
            ArrivalError: they do not come.
        """
        if self._transport is None:
            return
        try:
            for tensor in tensors:
                for pending in self._transport.all_reduce(tensor):
                    pending.wait()
        except TransferError as error:
            raise ArrivalError(CLOSING, error) from error

    def _look(self, station: Station) -> None:
        """Takes note of the gradients that the parameters of a bucket have now."""
        station.grads, used = station.buffers.gradients()
        station.used = used if all(used) else [a or b for a, b in zip(station.used, used, strict=True)]
        station.number = station.buffers.free(station.grads)

    def _packed(self, station: Station) -> list[Tensor]:
        self._look(station)
        is_float32 = station.algorithm.node_dtype is torch.float32
        flat = station.buffers.float32(station.number) if is_float32 else station.buffers.flat(station.number)
        station.buffers.pack(station.grads, flat, station.algorithm.node_scale)
        return [flat]

    def _add_shard(self, station: Station) -> ShardSums:
        self._look(station)
        assert station.sums is not None  # noqa: S101 (only called with several shards)
        station.sums.add([grad.detach().reshape(-1) for grad in station.buffers.in_memory_order(station.grads)])
        return station.sums

    def _advance(self, journey: _Journey) -> None:
        """Waits for what a bucket waits for, and lets it go on."""
        try:
            for pending in journey.awaited:
                pending.wait()
            following = next(journey.phases, None)
        except TransferError as error:
            raise ArrivalError(journey.bucket, error) from error
        if following is not None:
            journey.awaited = following
        else:
            self._under_way.remove(journey)
            station = self.stations[journey.bucket]
            if self.measures and not station.algorithm.measures:
                mine = station.slices[self._rank]
                station.buffers.measure(station.number, mine, self.closing.chunk_sums(mine))


@dataclass
class _Journey:
    """A bucket under way."""

    bucket: int
    phases: Phases
    awaited: list[Pending] = field(default_factory=list)
