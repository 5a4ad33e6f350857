"""Which rank broke a reduction: survivors meet in the group's store, agree on one verdict, and raise it.

Nothing is written there while all goes well. A rank whose reduction fails writes a report: where it was, and whom it
waited for in vain. A rank that is accused and does not report is dead or hangs; one that reports is at most a victim.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch.distributed as dist

from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import NetworkConnectionError

POLL_SECONDS = 0.02

AGREEING_SECONDS = 1.0
"""Time for writing and reading a verdict; after that the store is taken for gone."""

VICTIM_SECONDS = 3.0
"""From one report to the next, where several ranks are accused: one that fails closes its connections to all others."""


@dataclass(frozen=True)
class Report:
    """What one rank knows of a failure.

    Attributes:
        rank: that rank.
        step: of the reducer, counted from 0.
        bucket: which did not arrive; -1 for the numbers at the end of a step or at construction.
        kind: ``lost``, ``timeout``, or ``own`` if the rank itself gave up.
        accused: ranks that it waited for.
        detail: the error that it saw.
    """

    rank: int
    step: int
    bucket: int
    kind: str
    accused: tuple[int, ...]
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What all survivors raise.

    Attributes:
        ranks: who broke the reduction.
        step: in which step.
        bucket: the first bucket that some rank waited for in vain.
        kind: as of a report.
        detail: an error that a survivor saw, or the one for which a rank gave up.
        silent: ranks that nobody accused, but that did not report in time either.
        author: the rank that wrote it.
    """

    ranks: tuple[int, ...]
    step: int
    bucket: int
    kind: str
    detail: str
    silent: tuple[int, ...]
    author: int


def judge(reports: Sequence[Report], world: int, author: int) -> Verdict:
    """Whom the reports incriminate.

    Args:
        reports: at least one, of different ranks.
        world: how many ranks there are.
        author: who asks.
    """
    heard = {report.rank for report in reports}
    gave_up = [report for report in reports if report.kind == "own"]
    accused = {rank for report in reports for rank in report.accused} - heard
    silent = set(range(world)) - heard - accused
    if gave_up:
        ranks, telling, silent = {report.rank for report in gave_up}, gave_up, set()  # nobody was waited for
    elif accused:
        ranks, telling = accused, [report for report in reports if accused & set(report.accused)]
    elif silent:
        ranks, telling, silent = silent, list(reports), set()
    else:  # everybody is there: it was a connection between two of them
        ranks, telling = {rank for report in reports for rank in report.accused}, list(reports)
    first = min(telling, key=lambda report: (report.step, report.bucket % 2**31, report.rank))
    return Verdict(
        tuple(sorted(ranks)), first.step, first.bucket, first.kind, first.detail, tuple(sorted(silent)), author
    )


@dataclass
class Court:
    """Where the survivors of one group meet.

    Attributes:
        store: that all ranks reach; ``None`` if there is none.
        rank: this one.
        world: how many there are.
        timeout: seconds from the start of a transfer until its failure has to be known.
        clock: tells the time and waits.
    """

    store: Any
    rank: int
    world: int
    timeout: float
    clock: Clock
    _reports: dict[int, Report] = field(default_factory=dict)

    def accuse(self, report: Report, started: float) -> Verdict:
        """Reports, waits for the reports of the others, and gives the verdict that the first of them has reached.

        Args:
            report: of this rank.
            started: when it began to wait for what did not come, by the clock.
        """
        self._reports[self.rank] = report
        agreed: list[Verdict] = []

        def meet() -> None:
            # DistStoreError, DistNetworkError: whoever kept the store is gone
            with contextlib.suppress(RuntimeError, OSError):
                self.publish(report)
                self._hear(started + self.timeout)
                agreed.append(self._agree(judge(list(self._reports.values()), self.world, self.rank)))

        # In a thread, because a store whose keeper hangs does not answer, and has no timeout for that.
        meeting = threading.Thread(target=meet, name="gaudi3_rt verdict", daemon=True)
        meeting.start()
        meeting.join(max(0.0, started + self.timeout - self.clock.monotonic()) + AGREEING_SECONDS)
        return agreed[0] if agreed else judge(list(self._reports.values()), self.world, self.rank)

    def publish(self, report: Report) -> None:
        """Tells the others."""
        if self.store is not None:
            self.store.set(f"report/{report.rank}", json.dumps(asdict(report)))

    def _hear(self, deadline: float) -> None:
        """Until all have reported who may be victims, a rank says that it gave up, or time is over."""
        heard = self.clock.monotonic()
        while True:
            for rank in range(self.world):
                if rank not in self._reports and self.store.check([f"report/{rank}"]):
                    fields = json.loads(self.store.get(f"report/{rank}"))
                    self._reports[rank] = Report(**{**fields, "accused": tuple(fields["accused"])})
                    heard = self.clock.monotonic()
            reports, now = self._reports.values(), self.clock.monotonic()
            accused = {rank for report in reports for rank in report.accused} - self._reports.keys()
            missing = set(range(self.world)) - self._reports.keys() - accused
            waits = missing or (len(accused) > 1 and now < heard + VICTIM_SECONDS)
            gave_up = any(report.kind == "own" for report in reports)
            if not waits or gave_up or self.store.check(["verdict"]) or now >= deadline:
                return
            self.clock.sleep(POLL_SECONDS)

    def _agree(self, verdict: Verdict) -> Verdict:
        """The first verdict holds for all."""
        if self.store.add("judges", 1) == 1:
            self.store.set("verdict", json.dumps(asdict(verdict)))
            return verdict
        self.store.wait(["verdict"], dt.timedelta(seconds=AGREEING_SECONDS))
        fields = json.loads(self.store.get("verdict"))
        return Verdict(**{**fields, "ranks": tuple(fields["ranks"]), "silent": tuple(fields["silent"])})


def store_of(group: dist.ProcessGroup, name: str) -> Any:
    """A part of the group's store that nobody else uses."""
    find = getattr(group, "get_group_store", None)
    store = dist.distributed_c10d._get_default_store() if find is None else find()
    return dist.distributed_c10d.PrefixStore(f"gaudi3_rt/{name}", store)


def error_of(verdict: Verdict, what: str, waited: float) -> NetworkConnectionError:
    """The error that all survivors raise.

    Args:
        verdict: the verdict.
        what: how to call the bucket.
        waited: seconds.
    """
    ranks = f"rank{'s' * (len(verdict.ranks) > 1)} {', '.join(map(str, verdict.ranks))}"
    where = f" at {what}" * (verdict.bucket >= 0)
    happened = {
        "lost": f"{ranks} died: the connection broke before {what} of step {verdict.step} had arrived",
        "timeout": f"{ranks} did not deliver {what} of step {verdict.step} within {waited:.3g} s",
        "own": f"{ranks} gave up in step {verdict.step}{where}: {verdict.detail}",
    }[verdict.kind]
    return NetworkConnectionError(
        f"{happened}. The gradients of this rank are as backward left them; this reducer cannot be used any more",
        context={
            "ranks": list(verdict.ranks),
            "bucket": verdict.bucket,
            "step": verdict.step,
            "kind": verdict.kind,
            "silent_ranks": list(verdict.silent),
            "reported_by": verdict.author,
            "detail": verdict.detail,
        },
        suggestions=(
            f"Read the log of rank {verdict.ranks[0] if verdict.ranks else '?'}: its own error is the cause",
            "If it still runs: py-spy dump --pid PID shows where it hangs",
            "Restart all ranks from the last checkpoint (torchrun --max-restarts does)",
        ),
        retryable=False,
    )
