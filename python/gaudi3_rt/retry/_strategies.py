"""How long to wait before the next attempt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum

import tenacity
from tenacity.wait import wait_base

from gaudi3_rt.errors import ParameterValidationError

_LAST_GROWTH = 100  # the 100th Fibonacci number exceeds any delay in seconds


class Strategy(Enum):
    """How delays grow from attempt to attempt, from ``base_delay`` b on.

    Attributes:
        EXPONENTIAL: b, b m, b m^2, b m^3 and so on, with the multiplier m.
        LINEAR: b, 2 b, 3 b, 4 b.
        FIBONACCI: b, b, 2 b, 3 b, 5 b.
        FIXED: b each time.
    """

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    FIBONACCI = "fibonacci"
    FIXED = "fixed"


def wait_of(
    strategy: Strategy | Callable[[int], float], base_delay: float, multiplier: float, max_delay: float
) -> wait_base:
    """The strategy as tenacity has it, without jitter."""
    if callable(strategy):
        return _Custom(strategy, max_delay)
    if strategy is Strategy.EXPONENTIAL:
        return tenacity.wait_exponential(multiplier=base_delay, exp_base=multiplier, max=max_delay)
    if strategy is Strategy.LINEAR:
        return tenacity.wait_incrementing(start=base_delay, increment=base_delay, max=max_delay)
    if strategy is Strategy.FIBONACCI:
        return _Custom(lambda attempt: base_delay * _fibonacci(attempt), max_delay)
    return tenacity.wait_fixed(min(base_delay, max_delay))


def jittered(seconds: float, jitter: float, rng: random.Random) -> float:
    """Less than ``seconds`` by a random part of up to ``jitter`` of it, so that many callers do not come at once."""
    return seconds * (1 - jitter * rng.random())


class _Custom(wait_base):
    def __init__(self, seconds: Callable[[int], float], max_delay: float) -> None:
        self.seconds = seconds
        self.max_delay = max_delay

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        seconds = self.seconds(retry_state.attempt_number)
        if math.isnan(seconds):
            message = f"the strategy's delay after attempt {retry_state.attempt_number} is {seconds}; give seconds"
            raise ParameterValidationError(message, context={"parameter": "strategy"})
        return min(max(seconds, 0.0), self.max_delay)


def _fibonacci(n: int) -> int:
    this, following = 1, 1
    for _ in range(min(n, _LAST_GROWTH) - 1):
        this, following = following, this + following
    return this
