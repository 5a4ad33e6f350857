"""A step that has ended, whose figures may still be on a device."""

from __future__ import annotations

import math

from gaudi3_rt import events
from gaudi3_rt.monitor._step import REST, Step
from gaudi3_rt.monitor._values import is_bad, is_held_elsewhere, read


class FinishedStep:
    """What becomes one ``StepCompleted``.

    Args:
        step: that has ended.
        time: at which, seconds since the epoch.
        stepped: an optimizer has taken a step in it, or none is watched.
    """

    __slots__ = ("_stepped", "_time", "step", "waits")

    def __init__(self, step: Step, time: float, *, stepped: bool) -> None:
        self.step = step
        self._time = time
        self._stepped = stepped
        self.waits = any(map(is_held_elsewhere, self._figures()))
        """Whether a figure is on a device, so that its reading waits for it."""

    def _figures(self) -> tuple[object, ...]:
        step = self.step
        return (
            step._loss,
            step._gradient_norm,
            step._suspect,
            step._found_inf,
            step._accuracy,
            step._learning_rate,
            step._samples,
            step._tokens,
        )

    def emit(self, rank: int) -> tuple[float | None, float | None]:
        """Emits the record.

        Returns:
            Loss and norm of the gradients.
        """
        step = self.step
        if step.skipped is None and read(step._found_inf):
            step.skipped = True
        phases = step._phases
        loss, suspect, gradient_norm = read(step._loss), read(step._suspect), read(step._gradient_norm)
        if is_bad(suspect) and not is_bad(loss):
            loss = suspect
        events.emit(
            events.StepCompleted,
            time=self._time,
            step=step.number,
            seconds=step._seconds or 0.0,
            phases={} if phases.keys() == {REST} else phases,
            samples=_count(read(step._samples)),
            tokens=_count(read(step._tokens)),
            loss=loss,
            accuracy=read(step._accuracy),
            gradient_norm=gradient_norm,
            learning_rate=read(step._learning_rate),
            skipped=not self._stepped if step.skipped is None else step.skipped,
            rank=rank,
        )
        return loss, gradient_norm


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None
