"""HPUs made of software: a machine with some of them, for as long as a block runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import torch
from typing_extensions import Self

from gaudi3_rt import _providers
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing._clock import FakeClock
from gaudi3_rt.testing._device import SoftwareDevice, Traits
from gaudi3_rt.testing._faults import Fault, parse_script
from gaudi3_rt.testing._torch_hpu import SoftwareTorchHpu
from gaudi3_rt.testing._units import parse_bytes

VERSIONS = {
    "driver": "1.24.1-simulated",
    "firmware": "1.24.1-simulated",
    "plugin": "1.24.1.0",
    "torch": "2.11.0a0+git0000000",
}
_MOST_DEVICES = 1024


class SoftwareHPU:
    """Simulated HPUs that ``gaudi3_rt.device`` offers as ``simulated:0``, ... while the block runs.

    They compute nothing: tensors stay on the CPU. What is simulated is what goes wrong: acquiring, memory, errors,
    hangs and sensors, from a script, the same at each run.

    Args:
        count: devices.
        memory: bytes of each, or a text such as ``"128 GiB"``; as much as a Gaudi 3 has by default.
        workspace: bytes that graphs need of it from the start; 0 for none.
        script: what goes wrong and when, as text or as :class:`Fault` objects; see :func:`parse_script`.
        rank: of the first device, for scripts that say ``on rank 3``.
        versions: what ``driver``, ``firmware``, ``plugin`` and ``torch`` claim to be, where not the default.
        marks_per_step: after so many calls of ``mark_step`` the next step begins; None if only ``advance`` and
            ``step`` begin one.
        clock: what hangs sleep on; a :class:`FakeClock` by default, so that they take no time; ``time`` is real time.
        seed: of the sensors' noise.

    Raises:
        ParameterValidationError: an argument is outside its range, or the script cannot be read.

    Attributes:
        clock: the clock.
    """

    kind = "simulated"
    simulated = True

    def __init__(
        self,
        count: int = 1,
        *,
        memory: int | str = "128 GiB",
        workspace: int | str = 0,
        script: str | Iterable[Fault] = (),
        rank: int = 0,
        versions: Mapping[str, str] | None = None,
        marks_per_step: int | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, least, most in (
            ("count", count, 1, _MOST_DEVICES),
            ("rank", rank, 0, 10**9),
            ("marks_per_step", 1 if marks_per_step is None else marks_per_step, 1, 10**9),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                msg = f"{name} is {value!r}; it has to be a whole number from {least} to {most}"
                raise ParameterValidationError(msg)
        unknown = sorted(set(versions or {}) - set(VERSIONS))
        if unknown:
            msg = f"versions has {', '.join(unknown)}; it can have {', '.join(VERSIONS)}"
            raise ParameterValidationError(msg)
        faults = parse_script(script) if isinstance(script, str) else tuple(script)
        strange = next((one for one in faults if not isinstance(one, Fault)), None)
        if strange is not None:
            msg = f"the script has {strange!r}; it has to be Fault objects, or one text with semicolons between entries"
            raise ParameterValidationError(msg)
        traits = Traits(
            memory=parse_bytes(memory, "memory"),
            workspace=0 if workspace == 0 else parse_bytes(workspace, "workspace"),
            clock=FakeClock() if clock is None else clock,
            seed=seed,
            versions={**VERSIONS, **(versions or {})},
            marks_per_step=marks_per_step,
        )
        if traits.workspace >= traits.memory:
            msg = f"workspace ({traits.workspace} bytes) leaves nothing of memory ({traits.memory} bytes)"
            raise ParameterValidationError(msg)
        for fault in faults:
            strangers = sorted(set(fault.ranks or ()) - set(range(rank, rank + count))) if count > 1 else ()
            if strangers:
                msg = f"the script's '{fault}' names a rank that is not there; ranks are {rank} to {rank + count - 1}"
                raise ParameterValidationError(msg)
        self.clock = traits.clock
        self._devices = tuple(SoftwareDevice(i, rank + i, faults, traits) for i in range(count))
        self._traits = traits

    def __repr__(self) -> str:
        return f"<SoftwareHPU, simulated, {len(self._devices)} devices of {self._traits.memory} bytes>"

    def __enter__(self) -> Self:
        _providers.register(self)
        return self

    def __exit__(self, *_: object) -> None:
        _providers.unregister(self)
        for device in self._devices:
            device.close()

    def devices(self) -> tuple[SoftwareDevice, ...]:
        """All devices, by index."""
        return self._devices

    def device(self, index: int = 0) -> SoftwareDevice:
        """One device."""
        return self._devices[index]

    def versions(self) -> Mapping[str, str]:
        """What they claim to be."""
        return self._traits.versions

    def advance(self, steps: int = 1) -> None:
        """Begins the next step, or several, on every device; see :meth:`SoftwareDevice.advance`."""
        for device in self._devices:
            device.advance(steps)

    def torch_hpu(self, index: int = 0) -> SoftwareTorchHpu:
        """What ``torch.hpu`` would be in the process that has this device."""
        return SoftwareTorchHpu(self.device(index), len(self._devices), self.clock)

    @contextmanager
    def installed(self, index: int = 0) -> Iterator[SoftwareTorchHpu]:
        """Lets code that imports Habana's bridge run on this device while the block runs.

        ``habana_frameworks.torch``, its ``hpu``, ``hpu.metrics`` and ``core``, and ``torch.hpu`` are simulated ones,
        with the functions of :class:`SoftwareTorchHpu` and ``core.mark_step``; what was there before comes back
        afterwards.
        """
        table = self.torch_hpu(index)
        names = [
            "habana_frameworks",
            *(f"habana_frameworks.torch{part}" for part in ("", ".core", ".hpu", ".hpu.metrics")),
        ]
        root, bridge, core = (ModuleType(name, "Simulated.") for name in names[:3])
        core.mark_step = lambda _device="", sync=False: _mark_step(self.device(index), sync)  # type: ignore[attr-defined]
        root.torch, bridge.core, bridge.hpu = bridge, core, table  # type: ignore[attr-defined]
        before = {name: sys.modules.get(name) for name in names}
        attribute = torch.__dict__.get("hpu")
        try:
            sys.modules.update(zip(names, (root, bridge, core, table, table.metrics), strict=True))  # type: ignore[arg-type]
            torch.hpu = table  # type: ignore[attr-defined]
            yield table
        finally:
            for name, module in before.items():
                if module is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = module
            if attribute is None:
                del torch.hpu  # type: ignore[attr-defined]
            else:
                torch.hpu = attribute  # type: ignore[attr-defined]


def _mark_step(device: SoftwareDevice, sync: bool) -> None:
    """``core.mark_step``."""
    device.mark_step()
    if sync:
        device.synchronize()
