"""What do a retry decorator and a circuit breaker add to a call that succeeds?"""

from __future__ import annotations

from collections.abc import Callable

import tenacity
from harness import OURS, Lab, Rival, Row, Wanted

from gaudi3_rt.retry import CircuitBreaker, retry_on_failure

CALLS = 2000
TENACITY = "tenacity"
PLAIN = "plain"
BREAKER = "breaker"


def _nothing() -> None:
    pass


def _calls(function: Callable[[], None]) -> Rival:
    def run() -> None:
        for _ in range(CALLS):
            function()

    return Rival(run)


def test_retry(lab: Lab) -> None:
    """An empty function, by itself and in decorators."""
    lab.benchmark.group = "retry"
    stop, wait = tenacity.stop_after_attempt(3), tenacity.wait_exponential()
    samples = lab.race(
        {
            OURS: _calls(retry_on_failure()(_nothing)),
            TENACITY: _calls(tenacity.retry(stop=stop, wait=wait, reraise=True)(_nothing)),
            BREAKER: _calls(CircuitBreaker()(_nothing)),
            PLAIN: _calls(_nothing),
        }
    )
    lab.rows.append(
        Row(
            f"{CALLS} calls in retry, against tenacity",
            "",
            samples,
            rival=TENACITY,
            wanted=[Wanted("speed", 10, TENACITY)],
        )
    )
    lab.rows.append(Row(f"{CALLS} calls in a breaker, against tenacity", "", samples, ours=BREAKER, rival=TENACITY))
