"""What happens in a run, as records that hooks receive: logs, metrics and tests subscribe, everything else emits."""

from gaudi3_rt.events._delivery import Hook, Subscription
from gaudi3_rt.events._dispatch import capture_events, emit, subscribe
from gaudi3_rt.events._records import (
    BreakerClosed,
    BreakerHalfOpened,
    BreakerOpened,
    DeviceAcquired,
    DeviceBusy,
    DeviceReleased,
    Event,
    LeakSuspected,
    MemoryHigh,
    MemoryRecovered,
    MemoryUnreadable,
    ReductionFailed,
    RetryExhausted,
    RetryScheduled,
    TelemetryUnavailable,
)

__all__ = [
    "BreakerClosed",
    "BreakerHalfOpened",
    "BreakerOpened",
    "DeviceAcquired",
    "DeviceBusy",
    "DeviceReleased",
    "Event",
    "Hook",
    "LeakSuspected",
    "MemoryHigh",
    "MemoryRecovered",
    "MemoryUnreadable",
    "ReductionFailed",
    "RetryExhausted",
    "RetryScheduled",
    "Subscription",
    "TelemetryUnavailable",
    "capture_events",
    "emit",
    "subscribe",
]
