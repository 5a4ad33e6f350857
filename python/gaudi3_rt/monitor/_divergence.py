"""Has the loss left its noise, upwards, and does it stay there?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median, median_low

from gaudi3_rt.errors import ParameterValidationError

_CONSISTENT = 1.4826
"""Median absolute deviation times this estimates the standard deviation of normal noise (Rousseeuw, Croux 1993)."""
_BLOCK = 10
"""Losses of which one median is taken."""
_MIN_BLOCKS = 8
"""Blocks before that anything can be said."""
_ABOVE_SWINGS = 1.5
"""How much higher than a swing a rise has to be."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """When a loss counts as diverged.

    The losses are cut into blocks of 10. The usual loss is the least median in the window, each smoothed over three
    blocks. Noise is the typical deviation inside a block, and of one block from the next; both are median absolute
    deviations, so that neither spikes nor a slope widen them.

    The loss has diverged when the low median of the last two blocks is above the usual loss by more than ``deviations``
    of that noise, by more than the share ``rise`` of the usual loss, and by more than 1.5 times the highest swing in
    the window: a rise from which the loss has come back by half or more. It is back when it is less than half as far
    above.

    Attributes:
        deviations: of the noise.
        rise: share of the usual loss.
        window: losses to compare with; what is older is forgotten, so that a new level becomes the usual one. It should
            be longer than a cycle of the learning rate.
        warmup: losses at the beginning of a run that say nothing.
    """

    deviations: float = 5.0
    rise: float = 0.1
    window: int = 3000
    warmup: int = 50

    def __post_init__(self) -> None:
        for wrong, msg in (
            (not self.deviations > 0, f"deviations={self.deviations!r}: must be above 0"),
            (not self.rise >= 0, f"rise={self.rise!r}: must be a share, 0 or more"),
            (
                self.window < _BLOCK * (_MIN_BLOCKS + 2),
                f"window={self.window!r}: must be at least {_BLOCK * (_MIN_BLOCKS + 2)} losses",
            ),
            (self.warmup < 0, f"warmup={self.warmup!r}: must be a number of losses, 0 or more"),
        ):
            if wrong:
                raise ParameterValidationError(msg)


@dataclass(frozen=True)
class Diverged:
    """What was seen: the loss of now, the usual one, and above which it counts as diverged."""

    loss: float
    usual_loss: float
    limit: float


class DivergenceWatch:
    """Takes losses one by one, and says once when they have diverged; constant memory, little time."""

    def __init__(self, rule: Divergence) -> None:
        self._rule = rule
        self._left = rule.warmup
        self._block: list[float] = []
        self._recent: list[float] = []  # the block before
        blocks = rule.window // _BLOCK
        self._medians: deque[float] = deque(maxlen=3)
        self._smooth: deque[float] = deque(maxlen=blocks)  # each of three medians in a row
        self._changes: deque[float] = deque(maxlen=blocks)  # from one median to the next
        self._deviations: deque[float] = deque(maxlen=blocks)
        self.diverged = False

    def update(self, loss: float) -> Diverged | None:
        """Takes a loss; those that are not finite count for nothing here."""
        if not math.isfinite(loss):
            return None
        if self._left > 0:
            self._left -= 1
            return None
        self._block.append(loss)
        if len(self._block) < _BLOCK:
            return None
        block, self._block = self._block, []
        found = self._judge(median_low(self._recent + block)) if len(self._smooth) >= _MIN_BLOCKS else None
        self._recent = block
        self._remember(block)
        return found

    def _remember(self, block: list[float]) -> None:
        middle = median(block)
        self._deviations.append(median([abs(value - middle) for value in block]))
        medians = self._medians
        if medians:
            self._changes.append(middle - medians[-1])
        medians.append(middle)
        if len(medians) == medians.maxlen:
            self._smooth.append(median(medians))

    def _judge(self, now: float) -> Diverged | None:
        usual = min(self._smooth)
        limit = usual + self._rule.rise * abs(usual)
        if now <= limit and not self.diverged:  # as almost always
            return None
        limit = usual + self._margin(limit - usual)
        if self.diverged:
            self.diverged = now > (usual + limit) / 2
            return None
        self.diverged = now > limit
        return Diverged(now, usual, limit) if self.diverged else None

    def _margin(self, least: float) -> float:
        typical = median(self._changes)
        between = median([abs(change - typical) for change in self._changes])
        # A change is the difference of two medians: its variance is twice that of one.
        noise = _CONSISTENT * math.hypot(median(self._deviations), between / math.sqrt(2))
        return max(least, self._rule.deviations * noise, _ABOVE_SWINGS * _highest_swing(self._smooth))


def _highest_swing(values: Iterable[float]) -> float:
    """The highest rise from which the values have come back by half or more."""
    highest = 0.0
    low = peak = math.inf
    for value in values:
        if value > peak:
            peak = value
        elif value < (low + peak) / 2 or low == math.inf:
            highest = max(highest, peak - low) if low < math.inf else 0.0
            low = peak = value
    return highest
