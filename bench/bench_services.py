"""What do the services cost that run beside every training step: an event, a log entry, a look for secrets?

A thousand of each are one round, so that a millisecond in the table is a microsecond for one.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bench_training import Trainer
from harness import OURS, Lab, Rival, Row, Wanted

from gaudi3_rt import log, validation
from gaudi3_rt._redact import redact
from gaudi3_rt.events import Event, emit, subscribe
from gaudi3_rt.memory import MemoryMonitor
from gaudi3_rt.monitor import TrainingMonitor

COUNT = 1000
PLAIN = "plain logging"
WITHOUT = "without services"
TEXT = "epoch 3 done: loss 0.4512, lr 0.0003, grad norm 1.25, 1234 samples/s, checkpoint written to runs/a.pt"
FIELDS = {"loss": 0.4512, "lr": 3e-4, "grad_norm": 1.25, "tokens_per_second": 123456.7, "phase": "train"}


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """As training emits it."""

    step: int
    loss: float


class Nowhere(io.StringIO):
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        """Takes it."""
        return len(text)


def _event() -> None:
    emit(StepDone, step=3, loss=0.5)


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(COUNT):
            call()

    return run


def _row(
    lab: Lab, question: str, call: Callable[[], object], wanted: float | None, **rivals: Callable[[], object]
) -> None:
    lab.benchmark.group = question
    runs = {OURS: call, **rivals}
    samples = lab.race({name: Rival(_repeated(run)) for name, run in runs.items()})
    bounds = [] if wanted is None else [Wanted("ms", wanted)]
    lab.rows.append(Row(f"{COUNT} x {question}", "", samples, rival=next(iter(rivals), ""), wanted=bounds))


@pytest.mark.parametrize("hook", ["none", "inline", "queued"])
def test_event(lab: Lab, hook: str) -> None:
    """Without a hook, with one in the same thread, with one behind a queue."""
    with ExitStack() as stack:
        if hook != "none":
            stack.enter_context(subscribe(lambda _: None, inline=hook == "inline", capacity=COUNT))
        _row(lab, f"an event, hook: {hook}", _event, 1.0 if hook == "none" else None)


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "below the level"])
def test_log_entry(lab: Lab, is_written: bool) -> None:
    """As JSON with five fields, two bound ones, and redaction; against a line of logging's own, without either."""
    plain = logging.getLogger("bench.plain")
    plain.setLevel(logging.INFO)
    plain.propagate = False
    handler = logging.StreamHandler(Nowhere())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    with ExitStack() as stack:
        stack.callback(plain.removeHandler, handler)
        plain.addHandler(handler)
        stack.enter_context(log.configure_logging("json", "info", stream=Nowhere()))
        stack.enter_context(log.bind(step=3, epoch=1))
        ours = log.get_logger("bench")
        if is_written:
            rivals = {PLAIN: lambda: plain.info("step done: loss %g, lr %g", 0.4512, 3e-4)}
            _row(lab, f"a log entry, against {PLAIN}", lambda: ours.info("step done", **FIELDS), 25.0, **rivals)
        else:
            _row(lab, "a log entry below the level", lambda: ours.debug("step done", **FIELDS), None)


@pytest.mark.parametrize("what", ["a text of 100 characters", "five fields"])
def test_redaction(lab: Lab, what: str) -> None:
    """Of what has no secret, as almost everything."""
    value, wanted = (FIELDS, None) if what == "five fields" else (TEXT, 2.0)
    _row(lab, f"redaction of {what}", lambda: redact(value), wanted)


@pytest.mark.parametrize("hook", ["none", "inline"])
def test_monitored_step(lab: Lab, hook: str) -> None:
    """Three phases and a loss, and nothing else in the step."""
    loss = torch.tensor(0.5)
    with ExitStack() as stack:
        if hook == "inline":
            stack.enter_context(subscribe(lambda _: None, inline=True))
        monitor = stack.enter_context(TrainingMonitor())

        def step() -> None:
            with monitor.step(samples=8, tokens=4096) as one:
                for phase in ("forward", "backward", "optimizer"):
                    with one.phase(phase):
                        pass
                one.loss = loss

        _row(lab, f"a monitored step, hook: {hook}", step, 20.0)


def test_monitored_training(lab: Lab, tmp_path: Path) -> None:
    """A training step as it is, and monitored with its history and a hook behind a queue, as metrics have it."""
    trainers = {who: Trainer(lab.scale, OURS) for who in (OURS, WITHOUT)}
    with ExitStack() as stack:
        monitor = stack.enter_context(TrainingMonitor(tmp_path))
        stack.enter_context(subscribe(lambda _: None))
        loss = torch.tensor(0.5)

        def step() -> None:
            with monitor.step(samples=8, tokens=4096) as one, one.phase("forward"):
                trainers[OURS].step()
                one.loss = loss

        lab.benchmark.group = "monitor"
        samples = lab.race({OURS: Rival(step), WITHOUT: Rival(trainers[WITHOUT].step)})
    wanted = [Wanted("speed", 0.99, rival=WITHOUT)]
    lab.rows.append(Row("training step, monitored", "", samples, rival=WITHOUT, wanted=wanted))


def test_training_with_all_services(lab: Lab) -> None:
    """A training step as it is, and with a log entry, an event, its batch validated, and memory watched each second."""
    trainers = {who: Trainer(lab.scale, OURS) for who in (OURS, WITHOUT)}
    logger = log.get_logger("bench")
    with ExitStack() as stack:
        stack.enter_context(log.configure_logging("json", "info", stream=Nowhere()))
        stack.enter_context(subscribe(lambda _: None))
        monitor = stack.enter_context(MemoryMonitor())

        def step() -> None:
            trainer = trainers[OURS]
            validation.validate_tensor(trainer.tokens, shape=("batch", "length"), dtype=torch.int64)
            trainer.step()
            monitor.step()
            emit(StepDone, step=monitor.steps, loss=0.5)
            logger.info("step done", **FIELDS)

        lab.benchmark.group = "services"
        samples = lab.race({OURS: Rival(step), WITHOUT: Rival(trainers[WITHOUT].step)})
    wanted = [Wanted("speed", 0.99, rival=WITHOUT)]
    lab.rows.append(Row("training step, all services on", "", samples, rival=WITHOUT, wanted=wanted))
