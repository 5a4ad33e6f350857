"""One device of a software HPU: its queue, its memory, its sensors, and what a script makes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from typing_extensions import Self

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock, DeviceProperties, MemoryStats, Telemetry
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing import _messages
from gaudi3_rt.testing._faults import Fault, Timeline
from gaudi3_rt.testing._memory import Block, OutOfPoolError, Pool
from gaudi3_rt.testing._messages import SimulatedError
from gaudi3_rt.testing._queue import Queue, recording
from gaudi3_rt.testing._sensors import Sensors
from gaudi3_rt.testing._units import parse_bytes


class Allocation:
    """Bytes of a device that are in use until :meth:`free`; also a context manager."""

    def __init__(self, pool: Pool, block: Block, lock: threading.RLock) -> None:
        self._pool = pool
        self._block: Block | None = block
        self._lock = lock
        self.size = block.size

    def free(self) -> None:
        """Gives the bytes back; the second time does nothing."""
        with self._lock:
            block, self._block = self._block, None
            if block is not None:
                self._pool.free(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


@dataclass(frozen=True)
class Traits:
    """What all devices of a software HPU have in common."""

    memory: int
    workspace: int
    clock: Clock
    seed: int
    versions: dict[str, str]
    marks_per_step: int | None


class SoftwareDevice:
    """A simulated HPU. Made by :class:`SoftwareHPU`.

    Its script moves with :meth:`advance` or :meth:`step`, or with ``mark_step`` if ``marks_per_step`` was given. What
    is due at a step happens at the next call that reaches the device: ``open``, ``mark_step``, ``synchronize`` or
    ``allocate``; an accelerator's errors come late, too.

    Attributes:
        index: its number in the software HPU.
        rank: what scripts call it.
        steps: number of the step that is under way; 0 before the first.
        queue: operators that wait for ``mark_step``, and the graphs that were executed.
        pool: its memory.
    """

    simulated = True
    torch_device = "cpu"

    def __init__(self, index: int, rank: int, faults: Iterable[Fault], traits: Traits) -> None:
        self.index = index
        self.rank = rank
        self.steps = 0
        self.queue = Queue()
        self.pool = Pool(traits.memory)
        self.is_open = False
        self._traits = traits
        self._timeline = Timeline(faults, rank)
        self._sensors = Sensors(traits.clock, traits.seed, rank)
        self._late_errors: list[SimulatedError] = []
        self._marks = 0
        self._said_unavailable = False
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """``simulated:`` and its number."""
        return f"simulated:{self.index}"

    @property
    def acquired(self) -> bool:
        """Whether somebody has opened it."""
        return self.is_open

    def __repr__(self) -> str:
        return f"<SoftwareDevice {self.name}, rank {self.rank}, step {self.steps}>"

    # The script

    def advance(self, steps: int = 1) -> None:
        """Begins the next step, or several; raises nothing of the script yet.

        Raises:
            ParameterValidationError: not a positive number.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            msg = f"steps is {steps!r}; it has to be a positive whole number"
            raise ParameterValidationError(msg)
        with self._lock:
            for _ in range(steps):
                self._sensors.step(self.steps + 1, busy=self.queue.take_activity())
                self.steps += 1
                self._marks = 0
                for leak in self._timeline.lasting(self.steps, "leak"):
                    self._leak(int(leak.value))

    def step(self) -> None:
        """Begins the next step and waits for the device: whatever the script has for the step is raised here."""
        self.advance()
        self.synchronize()

    def _leak(self, size: int) -> None:
        """Loses memory; where there is none left, the next call fails."""
        try:
            self.pool.allocate(size)
        except OutOfPoolError:
            self._late_errors = [SimulatedError(_messages.allocation_failed(size, self.rank))]

    def _reach(self) -> None:
        """Whatever is due for any call that reaches the device."""
        if self._timeline.lasting(self.steps, "device lost"):
            raise SimulatedError(_messages.launch_failed(_messages.IN_RESET, self.rank))
        if self._late_errors:
            raise self._late_errors.pop()
        while hang := self._timeline.take(self.steps, "hang"):
            self._traits.clock.sleep(hang.value)
        if fault := self._timeline.take(self.steps, "synstatus"):
            raise SimulatedError(_messages.launch_failed(int(fault.value), self.rank))

    # Life

    def open(self) -> None:
        """Acquires the device as the bridge does: ``RuntimeError`` with its words if that fails."""
        with self._lock:
            if self._timeline.lasting(self.steps, "device lost"):
                raise SimulatedError(_messages.acquire_failed(_messages.NOT_FOUND))
            if self.is_open or self._timeline.take(self.steps, "busy"):
                raise SimulatedError(_messages.acquire_failed(_messages.ALREADY_ACQUIRED))
            if fault := self._timeline.take(self.steps, "synstatus"):
                raise SimulatedError(_messages.acquire_failed(int(fault.value)))
            self.pool = Pool(self._traits.memory)
            self._late_errors = []
            self._grow_workspace(self._traits.workspace)
            self.is_open = True

    def close(self) -> None:
        """Releases the device with all its memory."""
        with self._lock:
            self.is_open = False
            self.pool = Pool(self._traits.memory)
            self.queue.clear()

    def ensure_open(self) -> None:
        """Acquires it if it is not acquired, as most functions of ``torch.hpu`` do."""
        if not self.is_open:
            self.open()

    # The queue

    def enqueue(self, operator: str, count: int = 1) -> None:
        """Puts operators into the queue, which run at the next ``mark_step``."""
        self.queue.add(operator, count)

    @contextmanager
    def record(self) -> Iterator[Queue]:
        """Puts every torch operator that runs in the block into the queue.

        They run on the CPU at once. What is recorded is where a lazy HPU would execute: at ``mark_step`` and where a
        value is read (``.item()``), which is a graph break.
        """
        with recording(self.queue):
            yield self.queue

    def mark_step(self) -> None:
        """Executes what is queued; does nothing but meet the script if nothing is queued."""
        self.ensure_open()
        self._reach()
        self._check_workspace()
        self.queue.execute("mark_step", self.steps)
        self._marks += 1
        if self._marks == self._traits.marks_per_step:
            self.advance()

    def synchronize(self) -> None:
        """Executes what is queued and waits for it."""
        self.ensure_open()
        self._reach()
        self._check_workspace()
        self.queue.execute("synchronize", self.steps)
        for slow in self._timeline.lasting(self.steps, "slow"):
            self._traits.clock.sleep(slow.value)

    def _check_workspace(self) -> None:
        """A graph that runs needs its workspace, so ``oom`` can be met here."""
        if self._timeline.take(self.steps, "oom"):
            raise SimulatedError(_messages.workspace_failed(self._traits.memory, self.rank))

    # Memory

    def allocate(self, size: int | str) -> Allocation:
        """Takes bytes, a number or a text such as ``"512 MiB"``, rounded up to the alignment.

        Raises:
            RuntimeError: no free block is large enough, or the script says so; the words are the bridge's.
        """
        wanted = parse_bytes(size)
        self.ensure_open()
        self._reach()
        with self._lock:
            try:
                if self._timeline.take(self.steps, "oom"):
                    raise OutOfPoolError(wanted)  # noqa: TRY301 (the same words for both)
                return Allocation(self.pool, self.pool.allocate(wanted), self._lock)
            except OutOfPoolError:
                raise SimulatedError(_messages.allocation_failed(wanted, self.rank)) from None

    def grow_workspace(self, size: int | str) -> None:
        """Makes the workspace of graphs at least this large, as a larger graph would.

        Raises:
            RuntimeError: the end of the pool is in use; the words are the bridge's.
        """
        self.ensure_open()
        self._reach()
        self._grow_workspace(parse_bytes(size))

    def _grow_workspace(self, size: int) -> None:
        """The same without the script."""
        with self._lock:
            try:
                self.pool.grow_workspace(size)
            except OutOfPoolError:
                raise SimulatedError(_messages.workspace_failed(size, self.rank)) from None

    def memory_stats(self) -> MemoryStats:
        """The pool; all of it is reserved from the start, as with Habana's allocator."""
        pool = self.pool
        return MemoryStats(
            allocated=pool.in_use,
            reserved=pool.size,
            peak=pool.peak,
            limit=pool.size,
            workspace=pool.workspace,
            simulated=True,
        )

    def reset_peak_memory(self) -> None:
        """The peak is what is in use now."""
        self.pool.reset_peak()

    # What it says of itself

    def properties(self) -> DeviceProperties:
        """Names and versions; all of them invented."""
        return DeviceProperties(
            name="software HPU (simulated)",
            kind="simulated",
            index=self.index,
            total_memory=self.pool.size,
            driver_version=self._traits.versions.get("driver"),
            firmware_version=self._traits.versions.get("firmware"),
            serial=f"simulated-{self.rank}",
            simulated=True,
        )

    def telemetry(self) -> Telemetry:
        """Readings of the model in ``_sensors``, or what the script says instead; never raises."""
        with self._lock:
            if self._timeline.lasting(self.steps, "telemetry unavailable"):
                return self._no_telemetry("the script says so")
            if self._timeline.lasting(self.steps, "device lost"):
                return self._no_telemetry("the device is lost", status="lost")
            self._said_unavailable = False
            said = {
                kind: fault.value
                for kind in ("temperature", "power")
                for fault in self._timeline.lasting(self.steps, kind)
            }
            return Telemetry(
                temperature_celsius=said.get("temperature", self._sensors.celsius),
                power_watts=said.get("power", self._sensors.watts),
                utilization_ratio=round(self._sensors.utilization, 4),
                memory_used_bytes=self.pool.in_use + self.pool.workspace,
                memory_total_bytes=self.pool.size,
                ecc_corrected=self._timeline.count(self.steps, "ecc corrected"),
                ecc_uncorrected=self._timeline.count(self.steps, "ecc"),
                energy_joules=round(self._sensors.joules, 3),
                clock_hertz=self._sensors.hertz,
                status="operational",
                simulated=True,
            )

    def _no_telemetry(self, reason: str, status: str | None = None) -> Telemetry:
        """No readings; said once."""
        if not self._said_unavailable:
            self._said_unavailable = True
            events.emit(events.TelemetryUnavailable, device=self.name, reason=f"simulated: {reason}", simulated=True)
        return Telemetry(status=status, simulated=True)
