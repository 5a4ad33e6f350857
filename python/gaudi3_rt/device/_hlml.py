"""Sensors of HPUs through HLML, the driver's library, by way of pyhlml."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Telemetry
from gaudi3_rt.device._sources import Board, SourceError

_log = logging.getLogger(__name__)

UNINITIALIZED, NOT_SUPPORTED, NO_DATA = 1, 3, 21
CODES = {
    UNINITIALIZED: "uninitialized",
    2: "invalid argument",
    NOT_SUPPORTED: "not supported",
    5: "already initialized",
    6: "not found",
    7: "insufficient size",
    9: "driver not loaded",
    10: "timeout",
    15: "the device is lost",
    20: "memory",
    NO_DATA: "no data",
    49: "unknown",
}
"""What HLML's return codes mean (pyhlml, ``pyhlml_types_generated.py``)."""

LAST = 1.0
"""Seconds that :meth:`Hlml.close` waits for a reading that is under way."""

ON_CHIP, CORRECTED, UNCORRECTED, SINCE_DRIVER_LOAD, SOC_CLOCK = 0, 0, 1, 0, 0


class Hlml:
    """HLML for this process, from the first reading until :meth:`close`.

    Others in the process may use HLML, too (``torch.hpu.utilization`` does) and shut it down; it is then initialized
    again. Calls are made one at a time.
    """

    def __init__(self) -> None:
        self._after_fork()
        reset_in_children(self)
        self._pyhlml: Any = None
        self._handles: dict[int, Any] = {}

    def _after_fork(self) -> None:
        """Also at the start."""
        self._lock = threading.RLock()

    def boards(self) -> list[Board]:
        """All HPUs that the driver shows.

        Raises:
            SourceError: HLML cannot be used.
        """
        with self._lock:
            return [self._board(module, handle) for module, handle in sorted(self._modules().items())]

    def telemetry(self, module: int) -> Telemetry:
        """Readings; None where a board has no such sensor.

        Raises:
            SourceError: HLML cannot be used, the module is not there, or the device is lost.
        """
        with self._lock:
            handles = self._modules()
            if module not in handles:
                msg = f"HLML shows modules {sorted(handles)}, not {module}"
                raise SourceError(msg)
            handle = handles[module]
            memory = self._try("hlmlDeviceGetMemoryInfo", handle)
            rates = self._try("hlmlDeviceGetUtilizationRates", handle)
            celsius = self._try("hlmlDeviceGetTemperature", handle, ON_CHIP)
            milliwatts = self._try("hlmlDeviceGetPowerUsage", handle)
            millijoules = self._try("hlmlDeviceGetTotalEnergyConsumption", handle)
            megahertz = self._try("hlmlDeviceGetClockInfo", handle, SOC_CLOCK)
            return Telemetry(
                temperature_celsius=None if celsius is None else float(celsius),
                power_watts=None if milliwatts is None else milliwatts / 1000,
                utilization_ratio=None if rates is None else rates.aip / 100,
                memory_used_bytes=None if memory is None else memory.used,
                memory_total_bytes=None if memory is None else memory.total,
                ecc_corrected=self._try("hlmlDeviceGetTotalECCErrors", handle, CORRECTED, SINCE_DRIVER_LOAD),
                ecc_uncorrected=self._try("hlmlDeviceGetTotalECCErrors", handle, UNCORRECTED, SINCE_DRIVER_LOAD),
                energy_joules=None if millijoules is None else millijoules / 1000,
                clock_hertz=None if megahertz is None else megahertz * 1e6,
            )

    def close(self) -> None:
        """Shuts HLML down if it was initialized here; not while a reading hangs, for which nobody waits for long."""
        if not self._lock.acquire(timeout=LAST):
            _log.warning("HLML has not answered for %g s; it is not shut down", LAST)
            return
        try:
            pyhlml, self._pyhlml, self._handles = self._pyhlml, None, {}
            if pyhlml is not None:
                with contextlib.suppress(pyhlml.HLMLError):
                    pyhlml.hlmlShutdown()
        finally:
            self._lock.release()

    def _board(self, module: int, handle: Any) -> Board:
        """What HLML says of one HPU."""
        memory = self._try("hlmlDeviceGetMemoryInfo", handle)
        pci = self._try("hlmlDeviceGetPCIInfo", handle)
        return Board(
            module=module,
            name=_text(self._try("hlmlDeviceGetName", handle)),
            serial=_text(self._try("hlmlDeviceGetSerial", handle)),
            uuid=_text(self._try("hlmlDeviceGetUUID", handle)),
            bus_id=None if pci is None else _text(pci.bus_id),
            driver_version=_text(self._try("hlmlGetDriverVersion")),
            firmware_version=_text(self._try("hlmlDeviceGetFWOSVersion", handle)),
            memory_total=None if memory is None else memory.total,
        )

    def _modules(self) -> dict[int, Any]:
        """Handles by number of module."""
        if not self._handles:
            count = self._call("hlmlDeviceGetCount")
            handles = [self._call("hlmlDeviceGetHandleByIndex", index) for index in range(count)]
            for index, handle in enumerate(handles):
                module = self._try("hlmlDeviceGetModuleID", handle)
                self._handles[index if module is None else module] = handle
        return self._handles

    def _try(self, name: str, *arguments: Any) -> Any:
        """The result, or None if this board or this library does not have it."""
        try:
            return self._call(name, *arguments)
        except _MissingError:
            return None

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of pyhlml; HLML is initialized if it is not, or is no longer."""
        pyhlml = self._initialized()
        function: Callable[..., Any] | None = getattr(pyhlml, name, None)
        if function is None:
            raise _MissingError(name)
        try:
            try:
                return function(*arguments)
            except pyhlml.HLMLError as error:
                if error.value != UNINITIALIZED:
                    raise
                self._initialize(pyhlml)
                return function(*arguments)
        except pyhlml.HLMLError as error:
            raise _error(name, error.value) from error

    def _initialized(self) -> Any:
        """The module pyhlml, with HLML initialized."""
        if self._pyhlml is None:
            if "pyhlml" not in sys.modules:
                # It deprecates a part of itself that it imports. Not in catch_warnings(): another thread's may overlap,
                # and the filters of the one that ends last would stay for good.
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"pyhlml\b")
            try:
                pyhlml = importlib.import_module("pyhlml")
            except ImportError as error:
                msg = 'pyhlml cannot be imported; install it with: pip install "gaudi3_rt[hpu]"'
                raise SourceError(msg) from error
            self._initialize(pyhlml)
            self._pyhlml = pyhlml
        return self._pyhlml

    @staticmethod
    def _initialize(pyhlml: Any) -> None:
        """Loads the library."""
        said: list[str] = []
        try:
            with _caught_prints(said):
                pyhlml.hlmlInit()
        except pyhlml.HLMLError as error:
            note = " ".join(said)
            raise _error(pyhlml.hlmlInit.__name__, error.value, f" ({note})" if note else "") from error


class _MissingError(SourceError):
    """There is no such value; others may be there."""


@contextlib.contextmanager
def _caught_prints(said: list[str]) -> Iterator[None]:
    """What pyhlml prints when there is no library goes here, not among data.

    Standard output itself stays where it is: it belongs to all threads, and a driver that hangs would keep it.
    """
    loader: Any = sys.modules.get("pyhlml.hlml_lib")
    if loader is None:  # another release of it; then what it prints is seen
        yield
        return
    loader.print = lambda *words: said.append(" ".join(map(str, words)))
    try:
        yield
    finally:
        vars(loader).pop("print", None)


def _error(name: str, code: int, note: str = "") -> SourceError:
    """What a return code means for a reading."""
    kind = _MissingError if code in {NOT_SUPPORTED, NO_DATA, 2} else SourceError
    return kind(f"{name} failed with HLML's code {int(code)}, {CODES.get(code, 'not documented')}{note}")


def _text(value: bytes | str | None) -> str | None:
    """HLML's texts are bytes, padded with zeros or spaces."""
    if isinstance(value, bytes):
        value = value.split(b"\0")[0].decode("utf-8", "replace")
    return value.strip() or None if value is not None else None
