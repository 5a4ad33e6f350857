"""Which devices there are, and which of them a specification means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from gaudi3_rt import _config, _providers
from gaudi3_rt._protocols import Device
from gaudi3_rt.device import _bridge, _machine
from gaudi3_rt.device._cpu import CpuDevice
from gaudi3_rt.device._hl_smi import HlSmi
from gaudi3_rt.device._hpu import HpuDevice
from gaudi3_rt.device._spec import DeviceSpec, parse_spec
from gaudi3_rt.errors import HPUNotAvailableError, ParameterValidationError

_log = logging.getLogger(__name__)
_announced: set[str] = set()


def devices(
    spec: str | int | None = None, *, root: str | Path = "/", environment: Mapping[str, str] | None = None
) -> list[Device]:
    """Devices, not acquired: they can be asked for their properties and telemetry.

    Args:
        spec: which; None for all there are. ``"auto"`` means the HPUs that this process may use, or the CPU if there
            are none; a number means so many HPUs. Simulated ones are there while a ``SoftwareHPU`` is open, and
            nobody gets them without asking for them by name.
        root: folder with ``dev``, ``proc`` and ``sys``: where a container sees those of its host.
        environment: variables in place of this process's.

    Raises:
        ParameterValidationError: the specification means nothing.
        HPUNotAvailableError: some of what it means is not there.
        InvalidConfigurationError: ``HABANA_VISIBLE_MODULES`` or ``HLS_MODULE_ID`` is not a list of numbers.
    """
    machine = Machine(root, environment)
    if spec is None:
        return [*machine.hpus(), *_simulated(), CpuDevice()]
    return machine.select(parse_spec(spec))


class Machine:
    """The devices of this machine that this process may use."""

    def __init__(self, root: str | Path, environment: Mapping[str, str] | None) -> None:
        self.root = Path(root)
        self.environment = _config.environment() if environment is None else environment

    def hpus(self) -> list[HpuDevice]:
        """All visible HPUs."""
        visible = _machine.visible(_machine.modules(self.root), self.environment)
        hl_smi = HlSmi()
        return [HpuDevice(module, self.environment, self.root, hl_smi) for module in visible]

    def select(self, spec: DeviceSpec) -> list[Device]:
        """All that a specification means."""
        if spec.kind == "auto":
            return [*self.hpus()] if self.prefers_hpu() else [CpuDevice()]
        if spec.kind == "cpu":
            return [CpuDevice()]
        there: list[Device] = [*self.hpus()] if spec.kind == "hpu" else _simulated()
        by_number = {_number(device): device for device in there}
        missing = [number for number in spec.numbers or () if number not in by_number]
        if missing or not there or (spec.count or 0) > len(there):
            raise self._not_there(spec, there)
        if spec.numbers is not None:
            return [by_number[number] for number in spec.numbers]
        return there[: spec.count]

    def candidates(self, spec: DeviceSpec) -> list[Device]:
        """What to try to acquire, in order: one of these is what the specification means for one process.

        Where any HPU will do, the choice is the bridge's, which knows the free ones.
        """
        if (spec.count or 1) > 1:
            msg = (
                f"one process has one device, and {spec} were asked for; start {spec} processes, for example with "
                f"torchrun --nproc-per-node {spec}, and acquire 'auto' in each"
            )
            raise ParameterValidationError(msg)
        chosen = self.select(spec)
        if isinstance(chosen[0], HpuDevice) and spec.numbers is None:
            return [HpuDevice(None, self.environment, self.root, HlSmi())]
        return chosen

    def prefers_hpu(self) -> bool:
        """What ``auto`` means here; said once for each reason."""
        usable = self.hpus()
        if not usable:
            everything = _machine.modules(self.root)
            hidden = f"; {len(everything)} are hidden by the environment" if everything else ""
            choice, reason = "cpu", f"no HPU is there for this process{hidden}"
        elif not _bridge.is_installed():
            choice, reason = "cpu", f"there are {len(usable)} HPUs, but Habana's PyTorch bridge is not installed"
        else:
            choice, reason = "hpu", f"there are {len(usable)} HPUs for this process, and the bridge is installed"
        if reason not in _announced:
            _announced.add(reason)
            level = logging.WARNING if usable and choice == "cpu" else logging.INFO
            _log.log(level, "device 'auto' is %s: %s", choice, reason)
        return choice == "hpu"

    def _not_there(self, spec: DeviceSpec, there: list[Device]) -> HPUNotAvailableError:
        """What is there instead, and what to do."""
        names = [device.name for device in there]
        if spec.kind == "simulated":
            advice = ["open a software HPU: with gaudi3_rt.testing.SoftwareHPU(count=...):"]
        else:
            advice = [
                "look at the driver: hl-smi",
                f"look at {_machine.VISIBLE_MODULES} and {_machine.MODULE}; in a container, at HABANA_VISIBLE_DEVICES",
                "use 'cpu', or 'auto' to take what there is",
            ]
        what = f"device {str(spec)!r} is" if spec.count is None else f"{spec.count} HPUs are"
        msg = f"{what} not there; available: {', '.join(names) or f'no {spec.kind} device'}"
        return HPUNotAvailableError(msg, str(spec), names, suggestions=advice, retryable=False)


def _number(device: Device) -> int:
    """What follows the colon of its name."""
    return int(device.name.partition(":")[2])


def _simulated() -> list[Device]:
    """Devices of the open software HPU."""
    provider = _providers.find("simulated")
    return [] if provider is None else [*provider.devices()]
