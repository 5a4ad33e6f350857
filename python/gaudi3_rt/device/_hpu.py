"""One HPU through Habana's bridge; what it says of itself comes from HLML, hl-smi or the driver's files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaudi3_rt import _config, events
from gaudi3_rt._protocols import DeviceProperties, MemoryStats, Telemetry
from gaudi3_rt.device import _bridge, _machine
from gaudi3_rt.device._hl_smi import HlSmi
from gaudi3_rt.device._hlml import Hlml
from gaudi3_rt.device._sources import Board, Source, SourceError
from gaudi3_rt.errors import HPUNotAvailableError

_log = logging.getLogger(__name__)


class HpuDevice:
    """The HPU of this process. Torch calls it ``hpu`` or ``hpu:0``, whatever its module's number.

    Args:
        module: which of the machine; None for any that is free.
        environment: variables, as they were read.
        root: folder with ``dev``, ``proc`` and ``sys``.
        hl_smi: shared by the devices of a machine, as its table has them all.
    """

    torch_device = "hpu"

    def __init__(
        self, module: _machine.Module | None, environment: Mapping[str, str], root: Path, hl_smi: HlSmi
    ) -> None:
        self.module = module
        self._environment = environment
        self._root = root
        self._loaded: _bridge.Bridge | None = None
        self._is_own = False
        self._sensors = _Sensors(hl_smi)

    def __repr__(self) -> str:
        return f"<HpuDevice {self.name}{', simulated' if self.simulated else ''}>"

    @property
    def name(self) -> str:
        """``hpu:`` and the module's number; ``hpu`` as long as any would do."""
        return "hpu" if self.module is None else f"hpu:{self.module.number}"

    @property
    def simulated(self) -> bool:
        """Whether the bridge turned out to be the software HPU's stand-in."""
        return self._loaded is not None and self._loaded.simulated

    @property
    def node(self) -> str | None:
        """Path of its device node; None as long as any would do."""
        return None if self.module is None else self.module.node

    @property
    def acquired(self) -> bool:
        """Whether this process has it, acquired by whom ever; False where it has one and cannot tell which."""
        if not _bridge.is_loaded() or not self._load().hpu.is_initialized():
            return False
        return self.module is None or self._is_own or self.module == self._own()

    def open(self) -> None:
        """Acquires it. The bridge keeps it until the process ends.

        For a certain module the bridge's ``set_device`` writes ``HLS_MODULE_ID``; if that module cannot be had, the
        variable is taken back, so that another one can be tried.

        Raises:
            RuntimeError: the bridge's own, if the device cannot be had.
            HPUDriverError: there is no bridge.
            HPUNotAvailableError: the bridge has acquired another module than was asked for.
        """
        bridge, wanted = self._load(), self.module
        if not bridge.hpu.is_initialized():
            self._acquire(bridge.hpu)
        self._find_out()
        if wanted is not None and self.module != wanted:
            msg = (
                f"the bridge has acquired {self.name} in place of hpu:{wanted.number}, earlier or because that "
                f"one failed; set {_machine.VISIBLE_MODULES}={wanted.number} to rule that out"
            )
            raise HPUNotAvailableError(msg, f"hpu:{wanted.number}", (self.name,), retryable=False)
        self._is_own = True

    def _acquire(self, hpu: Any) -> None:
        """Any free one, or the one that was asked for; the environment is as before if that fails."""
        before = _config.environment().get(_machine.MODULE)
        try:
            if self.module is not None and _machine.pinned_module(self._environment) is None:
                self._choose(hpu, self.module)
            hpu.init()
        except BaseException as error:
            if before is None:
                os.environ.pop(_machine.MODULE, None)  # the bridge wrote it
            if self.module is None or not isinstance(error, AssertionError | ValueError):
                raise
            msg = f"Habana's bridge does not accept {self.name} ({error}); set {_machine.VISIBLE_MODULES}"
            raise HPUNotAvailableError(msg, self.name, retryable=False) from error

    def _choose(self, hpu: Any, wanted: _machine.Module) -> None:
        """Tells the bridge which module; it takes a position in the list of visible ones."""
        listed = self._environment.get(_machine.VISIBLE_MODULES)
        if listed is None and len(_machine.modules(self._root)) == 1:
            return  # the bridge accepts no number then
        numbers = [int(number) for number in listed.split(",")] if listed else list(range(8))
        hpu.set_device(numbers.index(wanted.number))
        _log.info("%s: Habana's bridge has set %s=%d", self.name, _machine.MODULE, wanted.number)

    def _find_out(self) -> None:
        """Which module was acquired, if that can be told."""
        own = self._own()
        pinned = _machine.pinned_module(self._environment)
        if own is None and self.module is None and pinned is not None:
            everything = _machine.modules(self._root)
            own = next((module for module in everything if module.number == pinned), None)
        self.module = own or self.module

    def _own(self) -> _machine.Module | None:
        """The HPU of this process, by the node that it has open."""
        return _machine.own_module(_machine.modules(self._root), self._root)

    def close(self) -> None:
        """Shuts HLML down; the bridge has no way to give the device back before the process ends."""
        self._sensors.close()

    # The queue

    def synchronize(self) -> None:
        """Waits until everything that was queued has run.

        Raises:
            HPUNotAvailableError: this process has not acquired it.
        """
        self._acquired().hpu.synchronize()

    def mark_step(self) -> None:
        """Executes what is queued, in lazy mode; otherwise does nothing.

        Twice in a row is harmless: the bridge executes nothing if nothing was queued in between.

        Raises:
            HPUNotAvailableError: this process has not acquired it.
        """
        bridge = self._acquired()
        if bridge.lazy:
            bridge.core.mark_step()

    # Memory

    def memory_stats(self) -> MemoryStats:
        """What the bridge's allocator counts; ``reserved`` is the pool, all of which it takes at the start.

        The bridge does not say how much of it is workspace.

        Raises:
            HPUNotAvailableError: this process has not acquired it.
        """
        bridge = self._acquired()
        stats = bridge.hpu.memory_stats()
        return MemoryStats(
            allocated=stats["InUse"],
            reserved=stats["Limit"],
            peak=stats["MaxInUse"],
            limit=stats["Limit"],
            simulated=bridge.simulated,
        )

    def reset_peak_memory(self) -> None:
        """The peak is what is in use now.

        Raises:
            HPUNotAvailableError: this process has not acquired it.
        """
        self._acquired().hpu.reset_peak_memory_stats()

    # What it says of itself

    def properties(self) -> DeviceProperties:
        """From HLML, hl-smi or the driver's files; needs no acquired device."""
        number = 0 if self.module is None else self.module.number
        board = self._sensors.board(number, self.name)
        system = None if self.module is None else self.module.system
        return DeviceProperties(
            name=board.name or "HPU",
            kind="hpu",
            index=number,
            total_memory=board.memory_total,
            driver_version=board.driver_version or _machine.read(self._root / "sys/module/habanalabs/version"),
            firmware_version=board.firmware_version or (_machine.read(system / "fw_os_ver") if system else None),
            serial=board.serial,
            uuid=board.uuid,
            bus_id=board.bus_id,
            simulated=self.simulated,
        )

    def telemetry(self) -> Telemetry:
        """From HLML or hl-smi, and its status from the driver's file; needs no acquired device.

        It never raises: what cannot be read is None.
        """
        reading = self._sensors.telemetry(0 if self.module is None else self.module.number, self.name)
        system = None if self.module is None else self.module.system
        status = _machine.read(system / "status") if system else None
        return replace(reading, status=status.lower() if status else None)

    def _load(self) -> _bridge.Bridge:
        """The bridge, imported now if it was not."""
        if self._loaded is None:
            self._loaded = _bridge.load()
        return self._loaded

    def _acquired(self) -> _bridge.Bridge:
        """The bridge, if this process has the device."""
        bridge = self._load()
        if not bridge.hpu.is_initialized():
            msg = f"{self.name} is not acquired by this process; use it inside: with gaudi3_rt.device.acquire(...)"
            raise HPUNotAvailableError(msg, self.name, retryable=False)
        return bridge


class _Sensors:
    """The first source that works; its failures are said once, and become None."""

    def __init__(self, hl_smi: HlSmi) -> None:
        self._sources: tuple[Source, ...] = (Hlml(), hl_smi)
        self._silent = False

    def board(self, module: int, device: str) -> Board:
        """What is known of one HPU."""
        boards: list[Board] = self._first(lambda source: source.boards(), device) or []
        return next((board for board in boards if board.module == module), Board(module=module))

    def telemetry(self, module: int, device: str) -> Telemetry:
        """Readings of one HPU."""
        reading: Telemetry | None = self._first(lambda source: source.telemetry(module), device)
        return Telemetry() if reading is None else reading

    def close(self) -> None:
        """Gives back what the sources hold."""
        for source in self._sources:
            source.close()

    def _first(self, ask: Callable[[Source], Any], device: str) -> Any:
        """The answer of the first source that has one."""
        reasons = []
        for source in self._sources:
            answer = _ask(source, ask)
            if not isinstance(answer, SourceError):
                self._silent = False
                return answer
            reasons.append(str(answer))
        if not self._silent:
            self._silent = True
            reason = "; ".join(reasons)
            events.emit(events.TelemetryUnavailable, device=device, reason=reason)
        return None


def _ask(source: Source, ask: Callable[[Source], Any]) -> Any:
    """An answer, or why there is none."""
    try:
        return ask(source)
    except SourceError as error:
        return error
