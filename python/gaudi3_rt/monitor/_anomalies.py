"""What is wrong with the figures of a step: emitted once an episode."""

from __future__ import annotations

from gaudi3_rt import events
from gaudi3_rt.monitor._divergence import Divergence, DivergenceWatch
from gaudi3_rt.monitor._values import is_bad


class FigureWatch:
    """Looks at the figures of each completed step.

    Args:
        rank: of this process.
        rule: when a loss counts as diverged; None: never.
    """

    def __init__(self, rank: int, rule: Divergence | None) -> None:
        self._rank = rank
        self._divergence = None if rule is None else DivergenceWatch(rule)
        self._bad_loss = self._bad_gradient = False

    def look(self, step: int, loss: float | None, gradient_norm: float | None, *, skipped: bool) -> None:
        """Emits what is wrong with a step, unless it was wrong with the one before."""
        if loss is not None:
            bad, before = is_bad(loss), self._bad_loss
            self._bad_loss = bad
            if bad and not before:
                events.emit(events.NonFiniteLoss, step=step, rank=self._rank, loss=loss)
            if self._divergence is not None and (found := self._divergence.update(loss)) is not None:
                events.emit(
                    events.LossDiverged,
                    step=step,
                    rank=self._rank,
                    loss=found.loss,
                    usual_loss=found.usual_loss,
                    limit=found.limit,
                )
        bad, before = skipped or is_bad(gradient_norm), self._bad_gradient
        self._bad_gradient = bad
        if bad and not before:
            events.emit(
                events.NonFiniteGradient, step=step, rank=self._rank, gradient_norm=gradient_norm, skipped=skipped
            )
