"""How to call again what failed and may succeed later, and how to stop calling what is down.

For what waits on others: acquiring a device, files on a network, services, rendezvous. Never around a kernel or a
training step: the decorator alone costs as much as many kernels, and a step that failed has to go back to a checkpoint.
"""

from gaudi3_rt.retry._breaker import BreakerState, CircuitBreaker
from gaudi3_rt.retry._budget import RetryBudget
from gaudi3_rt.retry._policy import RetryPolicy, execute_with_retry, execute_with_retry_async, retry_on_failure
from gaudi3_rt.retry._strategies import Strategy

__all__ = [
    "BreakerState",
    "CircuitBreaker",
    "RetryBudget",
    "RetryPolicy",
    "Strategy",
    "execute_with_retry",
    "execute_with_retry_async",
    "retry_on_failure",
]
