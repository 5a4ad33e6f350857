"""The ranks that reduce together, and their one verdict when one of them breaks the reduction."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import NetworkConnectionError
from gaudi3_rt.reduce._failure import Court, Report, error_of, store_of
from gaudi3_rt.reduce._pipeline import CLOSING
from gaudi3_rt.reduce._transport import TransferError, Transport, Turns

logger = logging.getLogger(__name__)

VERDICT_SHARE, LONGEST_VERDICT = 0.25, 10.0
"""So much of the group's timeout, and at most so many seconds, is left for the survivors to find out who failed."""


class Membership:
    """This process among those that reduce together; alone where torch.distributed is not initialised.

    Attributes:
        rank: of this process.
        world: how many there are.
        transport: to the others; ``None`` if there are none.
        device: on which the backend communicates.
        seconds: after which a transfer has failed; what is left of the group's timeout is for the verdict.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device, clock: Clock) -> None:
        self.rank, self.world = 0, self.world_of(group)
        self.transport: Transport | None = None
        self.device = device
        self._court: Court | None = None
        self._clock = clock
        if self.world == 1:
            return
        given = dist.group.WORLD if group is None else group
        assert given is not None  # noqa: S101 (initialised, or there would be one process)
        timeout = timeout_of(given, device)
        self.seconds = timeout - min(VERDICT_SHARE * timeout, LONGEST_VERDICT)
        name = given.group_name
        number = _made[name] = _made.get(name, 0) + 1
        self.transport = Transport(given, device, self.seconds, Turns(given, number))
        self.rank = self.transport.rank
        self._court = Court(store_of(given, f"reduce/{number}"), self.rank, self.world, timeout, clock)

    @staticmethod
    def world_of(group: dist.ProcessGroup | None) -> int:
        """How many ranks a group has; 1 without torch.distributed."""
        return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1

    def now(self) -> float:
        """Seconds, by the clock."""
        return self._clock.monotonic()

    def agree(self, compare: Callable[[Transport], None]) -> None:
        """Lets ranks compare something before the first step.

        Raises:
            NetworkConnectionError: one of them does not answer.
        """
        if self.transport is None:
            return
        started = self.now()
        try:
            compare(self.transport)
        except TransferError as error:
            what = "the comparison of parameters"
            raise self.failure(0, CLOSING, error, lambda _: what, started) from error.__cause__

    def failure(
        self, step: int, bucket: int, error: TransferError, describe: Callable[[int], str], started: float
    ) -> NetworkConnectionError:
        """Finds out with the other survivors who broke the reduction; the error that all of them raise.

        Args:
            step: of the reducer.
            bucket: that did not arrive.
            error: what was seen.
            describe: how to call a bucket.
            started: when this rank began to wait, by the clock.
        """
        assert self._court is not None  # noqa: S101 (nothing travels without other ranks)
        assert self.transport is not None  # noqa: S101 (same)
        accused = self.transport.lost_peers() if error.peer is None else {error.peer}
        report = Report(self.rank, step, bucket, error.kind, tuple(sorted(accused)), str(error)[:300])
        verdict = self._court.accuse(report, started)
        raised = error_of(verdict, describe(verdict.bucket), self.seconds)
        if verdict.author == self.rank:
            logger.error("%s", raised)
            events.emit(
                events.ReductionFailed,
                ranks=verdict.ranks,
                bucket=verdict.bucket,
                step=verdict.step,
                cause=verdict.kind,
                reported_by=self.rank,
            )
        return raised

    def give_up(self, step: int, bucket: int, error: BaseException) -> None:
        """Tells the others that this rank cannot go on."""
        if self._court is not None:
            report = Report(self.rank, step, bucket, "own", (), f"{type(error).__name__}: {error}".rstrip(": ")[:300])
            try:
                self._court.publish(report)
            except (RuntimeError, OSError):  # DistStoreError, DistNetworkError: they see that this rank is gone
                logger.warning("the other ranks could not be told: the group's store does not answer")


_made: dict[str, int] = {}
"""How many reducers the groups of each name have had; the same on all of their ranks.

A group that is made after another was destroyed may have its name and its store, with the reports in it.
"""


def timeout_of(group: dist.ProcessGroup, device: torch.device) -> float:
    """Seconds after which a collective of a group fails."""
    options: Any = getattr(group._get_backend(device), "options", None)  # torch has no public way to ask
    timeout: dt.timedelta = getattr(options, "_timeout", dist.distributed_c10d.default_pg_timeout)
    return timeout.total_seconds()
