"""The functions of ``torch.hpu`` on a software HPU: names and types of results are the bridge's, numbers simulated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gaudi3_rt._protocols import Clock
from gaudi3_rt.testing._device import SoftwareDevice


class SoftwareTorchHpu:
    """As ``torch.hpu`` of a process whose one HPU is ``device``: its index is 0, whatever its number elsewhere.

    Streams are left out: the software HPU executes in the order of calls.
    """

    simulated = True

    def __init__(self, device: SoftwareDevice, visible: int, clock: Clock) -> None:
        self._device = device
        self._visible = visible
        self._clock = clock
        self.metrics = _Metrics(device)

    def __repr__(self) -> str:
        return f"<SoftwareTorchHpu of {self._device.name}>"

    def init(self) -> None:
        """Acquires the device if it is not."""
        self._device.ensure_open()

    def is_initialized(self) -> bool:
        """Whether it is acquired."""
        return self._device.is_open

    def is_available(self) -> bool:
        """Whether there is a device."""
        return self.device_count() > 0

    def device_count(self) -> int:
        """Devices that this process may choose from."""
        return self._visible

    def current_device(self) -> int:
        """Always 0."""
        self.init()
        return 0

    def set_device(self, device: Any) -> None:
        """Accepts any visible device; the process keeps the one it has, as with ``HLS_MODULE_ID`` on a Gaudi."""
        if not (isinstance(device, int) and 0 <= device < self._visible):
            self._check(device)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """Does nothing but check the index."""
        self._check(device)
        yield

    def get_device_name(self, device: Any = None) -> str:
        """Not a Gaudi's name, so that nobody takes it for one."""
        self._check(device)
        return "GAUDI3 (simulated)"

    def get_device_capability(self, device: Any = None) -> str:
        """The driver's version, as the bridge has it."""
        self._check(device)
        return self._device.properties().driver_version or ""

    def get_device_properties(self, device: Any = None) -> str:
        """Text in the bridge's form, with the fields that the software HPU has."""
        self._check(device)
        return f"(sramSize=0, dramSize={self._device.pool.size}, dramEnabled=1, device_type=simulated)"

    def synchronize(self, device: Any = None) -> None:
        """Waits for the device."""
        self._check(device)
        self._device.synchronize()

    def is_bf16_supported(self) -> bool:
        """True."""
        return True

    # Memory

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """The ten numbers of Habana's allocator."""
        self._check(device)
        self.init()
        pool = self._device.pool
        active = pool.allocations - pool.frees
        return {
            "Limit": pool.size,
            "InUse": pool.in_use,
            "MaxInUse": pool.peak,
            "NumAllocs": pool.allocations,
            "NumFrees": pool.frees,
            "ActiveAllocs": active,
            "MaxAllocSize": pool.largest,
            "TotalSystemAllocs": pool.allocations,
            "TotalSystemFrees": pool.frees,
            "TotalActiveAllocs": active,
        }

    def memory_allocated(self, device: Any = None) -> int:
        """Bytes in use."""
        return self.memory_stats(device)["InUse"]

    memory_usage = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        """The most since the last reset."""
        return self.memory_stats(device)["MaxInUse"]

    def memory_reserved(self, device: Any = None) -> int:
        """The whole pool."""
        return self.memory_stats(device)["Limit"]

    max_memory_reserved = memory_reserved

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Bytes that are not in use, and all; as on a Gaudi the first is no promise that an allocation succeeds."""
        stats = self.memory_stats(device)
        return stats["Limit"] - stats["InUse"], stats["Limit"]

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """The peak is what is in use now."""
        self._check(device)
        self._device.reset_peak_memory()

    def memory_summary(self, device: Any = None) -> str:
        """The ten numbers as lines."""
        stats = self.memory_stats(device)
        return "\n".join(["software HPU, simulated", *(f"{name:20}{value}" for name, value in stats.items())])

    def Event(self, enable_timing: bool = False, **_: Any) -> _Event:  # noqa: N802 (torch's name)
        """A point in time on the device."""
        return _Event(self._clock, self._device, enable_timing)

    def _check(self, device: Any) -> None:
        """Refuses an index that a process with one HPU does not have; with the bridge's words."""
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device):
            if device.type != "hpu":
                msg = f"Expected a hpu device, but got: {device}"
                raise ValueError(msg)
            device = device.index
        if device not in {None, 0}:
            msg = "Invalid device id"
            raise AssertionError(msg)


class _Event:
    """``torch.hpu.Event``; times are those of the device's clock."""

    def __init__(self, clock: Clock, device: SoftwareDevice, enable_timing: bool) -> None:
        self._clock, self._device, self._timed = clock, device, enable_timing
        self._at: float | None = None

    def record(self, _stream: Any = None) -> None:
        """Now."""
        self._at = self._clock.monotonic()

    def query(self) -> bool:
        """True: nothing runs beside the caller."""
        return True

    def synchronize(self) -> None:
        """Waits for the device."""
        self._device.synchronize()

    def elapsed_time(self, end: _Event) -> float:
        """Milliseconds until another event."""
        if not (self._timed and end._timed) or self._at is None or end._at is None:
            msg = "both events have to be recorded and made with enable_timing=True"
            raise RuntimeError(msg)
        return (end._at - self._at) * 1000


class _Metric:
    """Counts by name."""

    def __init__(self, stats: list[tuple[str, int]]) -> None:
        self._stats = stats

    def stats(self) -> list[tuple[str, int]]:
        """As the bridge has them: a list of names and numbers."""
        return self._stats


class _Metrics:
    """``torch.hpu.metrics``."""

    def __init__(self, device: SoftwareDevice) -> None:
        self._device = device

    def metric_global(self, name: str) -> _Metric | None:
        """Compiled graphs and hits of the recipe cache, from the queue; None for a name that does not exist."""
        recipes = self._device.queue.recipes()
        hits = sum(recipes.values()) - len(recipes)
        stats: dict[str, list[tuple[str, int]]] = {
            "graph_compilation": [("TotalNumber", len(recipes))],
            "recipe_cache": [("TotalHit", hits), ("TotalMiss", len(recipes))],
            "cpu_fallback": [("TotalNumber", 0)],
            "memory_defragmentation": [("TotalNumber", 0), ("TotalSuccessful", 0)],
        }
        return _Metric(stats[name]) if name in stats else None
