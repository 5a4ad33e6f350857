"""The records of a training: steps, checkpoints, what should not happen. Units as in ``_records.py``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gaudi3_rt.events._records import Event


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """One rank begins, or goes on with, a training run.

    Attributes:
        run_id: the same on all ranks, and after a restart.
        rank: of this process; 0 if it is alone.
        local_rank: among those on its machine.
        world_size: how many ranks there are.
        start_step: number of the last step that was completed before; 0 in a new run.
    """

    run_id: str
    rank: int
    local_rank: int
    world_size: int
    start_step: int


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """One rank leaves its training run.

    Attributes:
        step: number of the last completed step.
        outcome: ``completed``, ``failed`` by an exception, or ``interrupted`` by Ctrl-C or a call of exit.
        error: class of the exception; None if it completed.
        code: stable code of what a failure means; None if it did not fail.
        rank: of this process.
    """

    step: int
    outcome: str
    error: str | None = None
    code: int | None = None
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class StepCompleted(Event):
    """One optimizer step is done. What was not measured or given is None.

    Attributes:
        step: its number, counted from 1 over the whole run.
        seconds: from its beginning to its end, its wait for data included.
        phases: seconds by phase: ``data``, ``forward``, ``backward``, ``optimizer``, ``checkpoint`` or names of the
            user; what none of them covers is ``rest``. Their sum is ``seconds``. Empty if nothing was told apart.
        samples: how many it trained on, on this rank.
        tokens: how many it trained on, on this rank.
        loss: as given; can be NaN or infinite.
        accuracy: as given, 0 to 1.
        gradient_norm: before clipping; can be NaN or infinite.
        learning_rate: of the first parameter group.
        skipped: no optimizer has changed the parameters, as when a gradient is not finite.
        rank: of this process.
    """

    log_level: ClassVar[int] = logging.DEBUG

    step: int
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    tokens: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    skipped: bool = False
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointCompleted(Event):
    """A checkpoint was written.

    Attributes:
        step: after which.
        seconds: that training waited for it.
        bytes: its size; None if not known.
        rank: of this process.
    """

    step: int
    seconds: float
    bytes: int | None = None
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Anomaly(Event):
    """Base of what should not happen in training.

    Attributes:
        kind: one word for it, the same for all records of a class.
        step: in which, or after which, it was seen.
        rank: which it concerns.
    """

    log_level: ClassVar[int] = logging.WARNING
    kind: ClassVar[str] = "anomaly"

    step: int
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class NonFiniteLoss(Anomaly):
    """A loss is NaN or infinite; told at the first of a row of such steps.

    Attributes:
        loss: as it was.
    """

    kind: ClassVar[str] = "non_finite_loss"

    loss: float


@dataclass(frozen=True, kw_only=True)
class NonFiniteGradient(Anomaly):
    """A gradient has a NaN or an infinity; told at the first of a row of such steps.

    Attributes:
        gradient_norm: if one was computed.
        skipped: the optimizer left the parameters as they were.
    """

    kind: ClassVar[str] = "non_finite_gradient"

    gradient_norm: float | None = None
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class LossDiverged(Anomaly):
    """The loss has risen above its own noise and stays there; told once, until it is back.

    Attributes:
        loss: median of the last steps.
        usual_loss: median of those before.
        limit: above which a loss counts as diverged.
    """

    log_level: ClassVar[int] = logging.ERROR
    kind: ClassVar[str] = "loss_divergence"

    loss: float
    usual_loss: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class TrainingStalled(Anomaly):
    """No step has ended for much longer than a step takes; told once, until one ends.

    Attributes:
        seconds: since the last one ended, or the last other sign of life.
        limit_seconds: how long it may take.
        phase: in which training is; None if it is in none.
    """

    log_level: ClassVar[int] = logging.ERROR
    kind: ClassVar[str] = "stall"

    seconds: float
    limit_seconds: float
    phase: str | None = None


@dataclass(frozen=True, kw_only=True)
class StragglerDetected(Anomaly):
    """One rank takes longer for a step than the others, lastingly; told once, until it no longer does.

    Attributes:
        seconds: median of a step on that rank, its waits for the others left out as far as they are known.
        usual_seconds: median over the other ranks.
        reported_by: the rank that emits.
    """

    kind: ClassVar[str] = "straggler"

    seconds: float
    usual_seconds: float
    reported_by: int


@dataclass(frozen=True, kw_only=True)
class TrainingResumed(Event):
    """After ``TrainingStalled``, training goes on.

    Attributes:
        step: number of the last completed step.
        seconds: that there was no sign of life.
        rank: of this process.
    """

    step: int
    seconds: float
    rank: int = 0
