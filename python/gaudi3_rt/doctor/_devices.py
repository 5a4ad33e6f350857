"""Which devices there are and how they are: memory, sensors, errors, and who has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gaudi3_rt import device, events
from gaudi3_rt._protocols import Device
from gaudi3_rt._redact import redact_text
from gaudi3_rt.device import _machine
from gaudi3_rt.device._hpu import HpuDevice
from gaudi3_rt.device._machine import Holder
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section

NO_GAUDI = "no Gaudi: kernels run on the CPU"
_HLML = "HLML and hl-smi (docs.habana.ai, Embedded System Tools)"


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """One device at one time; None where nobody can say.

    Attributes:
        name: as in a specification, e.g. ``hpu:0``.
        kind: ``hpu``, ``simulated`` or ``cpu``.
        model: what the board or the processor calls itself.
        memory_used_bytes: of the whole device, by all processes.
        memory_total_bytes: of the whole device.
        temperature_celsius: on the chip.
        power_watts: drawn now.
        utilization_ratio: 0 to 1; None for a CPU, where one reading says nothing.
        ecc_corrected: corrected memory errors since the driver was loaded.
        ecc_uncorrected: errors that could not be corrected.
        serial: of the board.
        bus_id: on the PCI bus.
        holders: who has it, as far as this process may see that.
        simulated: it is the software HPU's, and so are its figures.
    """

    name: str
    kind: str
    model: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: float | None
    power_watts: float | None
    utilization_ratio: float | None
    ecc_corrected: int | None
    ecc_uncorrected: int | None
    serial: str | None
    bus_id: str | None
    holders: tuple[Holder, ...]
    simulated: bool


def status_of(one: Device, root: str | Path = "/") -> DeviceStatus:
    """How a device is; it need not be acquired.

    Args:
        one: the device.
        root: folder with ``proc``, where its holders are looked for.
    """
    properties, reading = one.properties(), one.telemetry()
    holders = _machine.holders(one.node, Path(root)) if isinstance(one, HpuDevice) else []
    total = reading.memory_total_bytes
    return DeviceStatus(
        name=one.name,
        kind=properties.kind,
        model=properties.name,
        memory_used_bytes=reading.memory_used_bytes,
        memory_total_bytes=properties.total_memory if total is None else total,
        temperature_celsius=reading.temperature_celsius,
        power_watts=reading.power_watts,
        utilization_ratio=None if properties.kind == "cpu" else reading.utilization_ratio,
        ecc_corrected=reading.ecc_corrected,
        ecc_uncorrected=reading.ecc_uncorrected,
        serial=properties.serial,
        bus_id=properties.bus_id,
        holders=tuple(holders),
        simulated=one.simulated or properties.simulated or reading.simulated,
    )


def probe(host: Host) -> Section:
    """The section ``devices``."""
    with events.capture_events(events.TelemetryUnavailable) as silent:
        there = [status_of(one, host.root) for one in device.devices(root=host.root, environment=host.environment)]
    reasons = {event.device: event.reason for event in silent if isinstance(event, events.TelemetryUnavailable)}
    (first, *_) = device.devices("auto", root=host.root, environment=host.environment)
    runs_on = first.name.partition(":")[0]
    usable = [status for status in there if status.kind == "hpu"]
    facts = {
        "runs_on": runs_on,
        "verdict": NO_GAUDI if not host.modules else f"{len(usable)} of {len(host.modules)} HPUs for this process",
        "hpus": len(host.modules),
        "hpus_usable": len(usable),
        "devices": [asdict(status) for status in there],
    }
    findings = [*_unused(host, usable, runs_on), *(finding for status in there for finding in _of(status, reasons))]
    return Section(name="devices", facts=facts, findings=tuple(findings))


def _unused(host: Host, usable: list[DeviceStatus], runs_on: str) -> Iterator[Finding]:
    """HPUs that are there, but not for this process."""
    if host.modules and not usable:
        pins = [name for name in (_machine.VISIBLE_MODULES, _machine.MODULE) if host.environment.get(name)]
        yield Finding(
            severity="error",
            what=f"the environment hides all {len(host.modules)} HPUs from this process",
            seen=", ".join(f"{name}={redact_text(host.environment[name])[:60]}" for name in pins),
            allowed=f"modules {', '.join(str(module.number) for module in host.modules)}",
            todo=f"unset {' and '.join(pins)}, or name modules that are there",
            source="docs.habana.ai, Runtime Environment Variables",
            configuration=True,
        )
    elif usable and runs_on == "cpu":
        yield Finding(
            severity="error",
            what=f"there are {len(usable)} HPUs, but Habana's PyTorch bridge is not installed, so 'auto' is the CPU",
            todo="install habana-torch-plugin and Gaudi's torch of the driver's release, or use Habana's container",
            source="docs.habana.ai, Driver and Software Installation",
            configuration=True,
        )


def _of(status: DeviceStatus, reasons: dict[str, str]) -> Iterator[Finding]:
    """What is wrong with one device."""
    label = f"{status.name} (simulated)" if status.simulated else status.name
    if status.ecc_uncorrected:
        yield Finding(
            severity="error",
            what=f"{label} has had memory errors that could not be corrected",
            seen=f"{status.ecc_uncorrected} since the driver was loaded",
            allowed="0",
            todo="do not train on it: results may be wrong; read hl-smi -q and dmesg, reset the device, or replace the "
            f"board{f' {status.serial}' if status.serial else ''}",
            source=_HLML,
        )
    if status.name in reasons:
        yield Finding(
            severity="warning",
            what=f"the sensors of {label} cannot be read",
            seen=redact_text(reasons[status.name])[:300],
            todo='pip install "gaudi3_rt[hpu]", install habanalabs-firmware-tools, or look why hl-smi fails',
            source=_HLML,
        )
