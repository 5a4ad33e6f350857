"""How the buckets of DDP travel: slices exchanged, summed in float32 along the tree, gathered; buckets side by side.

Each rank sums one slice of a bucket. It gets that slice from all ranks (``all_to_all_single``), adds it up in the order
of ranks (``_tree.py``), and sends the result to all (one ``broadcast`` a slice: in place, and slices may be of any
length). So a value is rounded to the wire's dtype twice on its way, once as it is sent and once as a result, however
many ranks there are, while a ring rounds it at every hop; and all ranks store the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, MutableMapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from gaudi3_rt import _core
from gaudi3_rt.reduce._accumulate import accumulate_
from gaudi3_rt.reduce._buckets import pack_, unpack_
from gaudi3_rt.reduce._checks import FLOATS
from gaudi3_rt.reduce._compress import compress, compressed_numel, decompress
from gaudi3_rt.reduce._shards import MOST_SHARDS, reduce_shards

Stages: TypeAlias = Generator[list[dist.Work], None, None]  # yields what has to arrive before it goes on

ALIGNMENT = 64  # bytes at which slices begin


class Memory:
    """Buffers that are used again: each page of fresh memory would be faulted in during every backward."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A 1-d tensor of unknown content: of the buffers that fit the smallest, else a new one."""
        nbytes = numel * dtype.itemsize
        fitting = [i for i, b in enumerate(self._free) if b.device == device and b.numel() >= nbytes]
        if fitting:
            buffer = self._free.pop(min(fitting, key=lambda i: self._free[i].numel()))
        else:
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        return buffer[:nbytes].view(dtype)

    def give(self, tensor: Tensor) -> None:
        """Takes back what nobody reads or writes any more."""
        self._free.append(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()))


@dataclass
class _Reduction:
    """One bucket under way."""

    stages: Stages
    buffer: Tensor
    future: Future[Tensor]
    awaited: list[dist.Work] = field(default_factory=list)

    def go_on(self) -> bool:
        """Waits for what is on the wire and does what comes next; false when the bucket is complete."""
        for work in self.awaited:
            work.wait()
        try:
            self.awaited = next(self.stages)
        except StopIteration:
            self.future.set_result(self.buffer)
            return False
        return True


class BucketQueue:
    """What one process group's buckets share: their order on the wire, and memory.

    A collective call has to be made in the same order on all ranks. So none is made when something happens to arrive,
    as in a callback of a future: each bucket that gets ready moves all those before it on by one stage, and the last
    one moves all to their end. This runs in the thread of backward, which waits only for what was sent one bucket ago.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Takes a group; see ``of``."""
        self.size, self.rank = group.size(), group.rank()
        self.memory = Memory()
        self._group = weakref.ref(group)
        self._under_way: list[_Reduction] = []

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> BucketQueue:
        """The one of a group, the default group for ``None``."""
        group = dist.group.WORLD if group is None else group
        if group is None:
            msg = "there is no default process group: call torch.distributed.init_process_group() first"
            raise ValueError(msg)
        found = _QUEUES.get(group)
        if found is None:
            found = _QUEUES[group] = cls(group)
        return found

    @property
    def group(self) -> dist.ProcessGroup:
        """The process group."""
        group = self._group()
        assert group is not None  # noqa: S101 (the table below forgets the queue with its group)
        return group

    def start(self, stages: Stages, buffer: Tensor, *, is_last: bool) -> Future[Tensor]:
        """Sends a bucket on its way; the future holds ``buffer`` when it has the mean over ranks.

        Raises:
            TypeError: gradients that the kernels do not sum; on every rank, before anything is sent.
        """
        if buffer.dtype not in FLOATS or buffer.layout != torch.strided:
            msg = f"gradients of {buffer.dtype}, {buffer.layout}: have to be dense float32, bfloat16 or float16"
            raise TypeError(msg)
        devices: list[int | str | torch.device] = [] if buffer.device.type == "cpu" else [buffer.device]
        earlier, self._under_way = self._under_way, []  # forgotten if something fails: nobody would await the rest
        new = _Reduction(stages, buffer, Future(devices=devices))
        going = [new] if new.go_on() else []
        going = [reduction for reduction in earlier if reduction.go_on()] + going
        while is_last and going:
            going = [reduction for reduction in going if reduction.go_on()]
        self._under_way = going
        return new.future

    def slices(self, numel: int, multiple: int) -> list[tuple[int, int]]:
        """Which elements each rank sums: all but the last begin and end at multiples; the last ones may be empty."""
        length = -(-numel // (self.size * multiple)) * multiple
        return [(min(i * length, numel), min((i + 1) * length, numel)) for i in range(self.size)]

    def scatter(self, tensor: Tensor, slices: list[tuple[int, int]]) -> tuple[Tensor, list[dist.Work]]:
        """Sends each rank its slice; returns where this rank's slice arrives from all ranks, a row from each."""
        begin, end = slices[self.rank]
        rows = self.memory.take(self.size * (end - begin), tensor.dtype, tensor.device)
        lengths = [end - begin for begin, end in slices]
        arriving = [end - begin] * self.size
        work = dist.all_to_all_single(rows, tensor, arriving, lengths, group=self.group, async_op=True)
        return rows.view(self.size, end - begin), [work]

    def gather(self, tensor: Tensor, slices: list[tuple[int, int]]) -> list[dist.Work]:
        """Sends each rank's slice to all."""
        return [
            dist.broadcast(tensor[begin:end], dist.get_global_rank(self.group, i), group=self.group, async_op=True)
            for i, (begin, end) in enumerate(slices)
            if begin < end
        ]

    def mean_of_floats(self, buffer: Tensor, dtype: torch.dtype, *, scale_first: bool = False) -> Stages:
        """The mean over ranks; values travel as ``dtype``, divided by the number of ranks before they do or after."""
        before, after = (1 / self.size, 1.0) if scale_first else (1.0, 1 / self.size)
        is_cast = buffer.dtype != dtype
        sent = buffer
        if is_cast:
            sent = pack_(self.memory.take(buffer.numel(), dtype, buffer.device), [buffer], scale=before)
        elif scale_first:
            sent.mul_(before)
        slices = self.slices(buffer.numel(), ALIGNMENT // dtype.itemsize)
        rows, awaited = self.scatter(sent, slices)
        yield awaited
        begin, end = slices[self.rank]
        sum_rows(rows, sent[begin:end], after)
        self.memory.give(rows)
        yield self.gather(sent, slices)
        if is_cast:
            unpack_([buffer], sent)
            self.memory.give(sent)

    def mean_of_int8(self, buffer: Tensor, residual: Tensor | None) -> Stages:
        """The mean over ranks; values travel as int8 in blocks, and what that loses is added to ``residual``."""
        nbytes = compressed_numel(buffer.numel(), "int8")
        sent = self.memory.take(nbytes, torch.uint8, buffer.device)
        compress(buffer, "int8", residual=residual, out=sent)
        elements = self.slices(buffer.numel(), _core.BLOCK)
        slices = [(compressed_numel(begin, "int8"), compressed_numel(end, "int8")) for begin, end in elements]
        rows, awaited = self.scatter(sent, slices)
        yield awaited
        begin, end = elements[self.rank]
        if begin < end:
            part = None if residual is None else residual[begin:end]
            self._mean_of_int8_rows(rows, sent[slice(*slices[self.rank])], end - begin, part)
        self.memory.give(rows)
        yield self.gather(sent, slices)
        decompress(sent, out=buffer)
        self.memory.give(sent)

    def _mean_of_int8_rows(self, rows: Tensor, out: Tensor, numel: int, residual: Tensor | None) -> None:
        """Compresses the mean of compressed rows, and adds what that loses to the residual."""
        values = self.memory.take((self.size + 1) * numel, torch.float32, rows.device).view(self.size + 1, numel)
        for row, value in zip(rows, values[1:], strict=True):
            decompress(row, out=value)
        mean = sum_rows(values[1:], values[0], 1 / self.size)
        lost = None if residual is None else values[1].zero_()
        compress(mean, "int8", residual=lost, out=out)
        if residual is not None and lost is not None:
            # The mean's loss counts once: as a part of this rank's next gradient it is divided by the number of ranks.
            accumulate_(residual, lost, scale=self.size)
        self.memory.give(values)


_QUEUES: MutableMapping[dist.ProcessGroup, BucketQueue] = weakref.WeakKeyDictionary()


def sum_rows(rows: Tensor, out: Tensor, scale: float) -> Tensor:
    """``scale`` times the sum of any number of rows along the tree, which may be stored in the first row."""
    if out.numel() == 0:
        return out
    if len(rows) == 1:
        return pack_(out, [rows[0]], scale=scale)
    if len(rows) <= MOST_SHARDS:
        return reduce_shards(rows, out, scale=scale)
    # Whole subtrees of the tree over all rows: each has 64 of them, the last one what is left.
    nodes = rows.new_empty((-(-len(rows) // MOST_SHARDS), rows.shape[1]), dtype=torch.float32)
    for node, some in zip(nodes, torch.split(rows, MOST_SHARDS), strict=True):
        sum_rows(some, node, 1.0)
    return sum_rows(nodes, out, scale)
