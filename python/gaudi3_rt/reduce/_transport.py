"""How buffers travel between ranks, and which rank is to blame when they do not arrive."""

from __future__ import annotations

import datetime as dt
import itertools
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Kind = Literal["lost", "timeout"]
PROBE_TAG = 0x47335254
"""Of messages, so that they are not taken for those of somebody else in the group; a reducer's tags come after it."""

ORDERS = 2**20
"""So many orders of calls are told apart; the sum of their digests over all ranks fits into 31 bits."""

PROBE_TIMEOUT = dt.timedelta(milliseconds=20)


class TransferError(Exception):
    """Something did not travel. Only seen inside this package.

    Attributes:
        peer: the rank at the other end; ``None`` if that cannot be told.
        kind: whether the connection is ``"lost"``, or nothing came until the ``"timeout"``.
    """

    def __init__(self, peer: int | None, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.peer = peer
        timed_out = isinstance(error, dist.DistError) and "timeout" in type(error).__name__.lower()
        text = str(error).lower()
        self.kind: Kind = "timeout" if timed_out or "timed out" in text or "timeout" in text else "lost"


@dataclass(frozen=True)
class Pending:
    """A transfer that is under way."""

    work: Any
    timeout: dt.timedelta
    peer: int | None = None

    def wait(self) -> None:
        """Returns when it has arrived.

        Raises:
            TransferError: it will not.
        """
        try:
            self.work.wait(self.timeout)
        except Exception as error:
            raise TransferError(self.peer, error) from error


Message = tuple[Tensor, int]
"""A contiguous tensor, and the rank that it goes to or comes from."""


class Turns:
    """In which order one reducer's calls come among those of all reducers of a group.

    Messages have tags, but backends match collectives by their order alone: where it differs between ranks, they add up
    what does not belong together.

    Args:
        group: the group.
        number: of the reducer among those of the group.

    Attributes:
        digest: of the order so far; the same on all ranks if that is.
    """

    def __init__(self, group: dist.ProcessGroup, number: int) -> None:
        self.number = number
        self.digest = number % ORDERS
        self._calls = _calls.setdefault(group, itertools.count())

    def take(self) -> None:
        """Notes a call that is matched by its order."""
        self.digest = (1_000_003 * self.digest + next(self._calls)) % ORDERS


_calls: MutableMapping[dist.ProcessGroup, Iterator[int]] = weakref.WeakKeyDictionary()


class Transport:
    """The ranks of a group, by their numbers in it.

    Args:
        group: the group.
        device: of what travels.
        seconds: after which a transfer has failed.
        turns: of the reducer.
        members: only these ranks.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device,
        seconds: float,
        turns: Turns,
        members: Sequence[int] | None = None,
    ) -> None:
        self.group, self._device = group, device
        self._seconds, self._timeout = seconds, dt.timedelta(seconds=seconds)
        self.turns, self._tag = turns, PROBE_TAG + turns.number
        self._members = list(range(dist.get_world_size(group))) if members is None else list(members)
        self.rank = self._members.index(dist.get_rank(group))
        self.world = len(self._members)
        # Only gloo takes messages one by one without a risk of deadlock; others want to see all that belong together.
        self._singly = group._get_backend(device).name() == "gloo"
        self._global = [dist.get_global_rank(group, rank) for rank in self._members]

    def among(self, ranks: Sequence[int]) -> Transport:
        """The same between some of the ranks, which are numbered anew; for ``exchange`` only."""
        members = [self._members[rank] for rank in ranks]
        return Transport(self.group, self._device, self._seconds, self.turns, members)

    def others(self) -> list[int]:
        """The other ranks, beginning with the one before this, so that not all ranks ask the same one first."""
        return [(self.rank - i) % self.world for i in range(1, self.world)]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> list[Pending]:
        """Starts to send and receive. Messages between two ranks arrive in the order in which they are sent.

        Raises:
            TransferError: a rank is known to be gone.
        """
        listed: list[tuple[Any, Tensor, int]] = [(dist.irecv, *message) for message in receives]
        listed += [(dist.isend, *message) for message in sends]
        listed = [(call, tensor, peer) for call, tensor, peer in listed if tensor.numel()]
        if self._singly:
            return [self._start(call, tensor, peer) for call, tensor, peer in listed]
        if not listed:
            return []
        self.turns.take()
        ops = [dist.P2POp(call, tensor, self._global[peer], self.group, self._tag) for call, tensor, peer in listed]
        try:
            works = dist.batch_isend_irecv(ops)
        except Exception as error:
            raise TransferError(None, error) from error
        peers: Sequence[int | None] = [self._members[peer] for _, _, peer in listed]
        peers = peers if len(works) == len(listed) else [None] * len(works)
        return [Pending(work, self._timeout, peer) for work, peer in zip(works, peers, strict=True)]

    def all_reduce(self, tensor: Tensor) -> list[Pending]:
        """Starts to sum a tensor over all ranks, in place."""
        return self._collective(dist.all_reduce, tensor)

    def reduce_scatter(self, output: Tensor, tensor: Tensor) -> list[Pending]:
        """Starts to sum a tensor over all ranks, of which this one gets its share."""
        return self._collective(_REDUCE_SCATTER, output, tensor)

    def all_gather(self, output: Tensor, tensor: Tensor) -> list[Pending]:
        """Starts to put together the tensors of all ranks."""
        return self._collective(_ALL_GATHER, output, tensor)

    def gather_texts(self, text: str) -> list[str]:
        """What every rank has to say.

        Raises:
            TransferError: one says nothing.
        """
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self._device)
        lengths = torch.zeros(self.world, dtype=torch.int64, device=self._device)
        for pending in self.all_gather(lengths, torch.tensor([own.numel()], device=self._device)):
            pending.wait()
        longest = int(lengths.max())
        padded = torch.nn.functional.pad(own, (0, longest - own.numel()))
        rows = torch.empty(self.world * longest, dtype=torch.uint8, device=self._device)
        for pending in self.all_gather(rows, padded):
            pending.wait()
        texts = rows.view(self.world, longest).cpu()
        return [row[:n].numpy().tobytes().decode() for row, n in zip(texts, lengths.tolist(), strict=True)]

    def lost_peers(self) -> set[int]:
        """Ranks whose connection is known to be broken, after a collective has failed that does not say which.

        A message to a rank that is gone fails at once; one to a rank that is there is not taken, but fails later. So
        the group cannot be used afterwards. Backends other than gloo are not asked.
        """
        lost = set()
        if self._singly:
            probe = torch.zeros(1)
            for peer in range(self.world):
                if peer != self.rank:
                    try:
                        work: Any = dist.isend(probe, self._global[peer], self.group, PROBE_TAG)
                        work.wait(PROBE_TIMEOUT)
                    except Exception as error:  # noqa: BLE001 (gloo raises what its transport threw)
                        if TransferError(peer, error).kind == "lost":
                            lost.add(peer)
        return lost

    def _start(self, call: Any, tensor: Tensor, peer: int) -> Pending:
        try:
            return Pending(call(tensor, self._global[peer], self.group, self._tag), self._timeout, self._members[peer])
        except Exception as error:
            raise TransferError(self._members[peer], error) from error

    def _collective(self, call: Any, *tensors: Tensor) -> list[Pending]:
        self.turns.take()
        try:
            return [Pending(call(*tensors, group=self.group, async_op=True), self._timeout)]
        except Exception as error:
            raise TransferError(None, error) from error


# torch 2.13 has new names for the same functions and warns of the old ones.
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
