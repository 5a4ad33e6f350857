"""Is an HPU well? Its status, temperature, memory errors, and the memory that this process has allocated on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from gaudi3_rt import _providers
from gaudi3_rt._protocols import Clock, Device, Telemetry
from gaudi3_rt._section import AsInteger, Broken, Ratio, Text, form, setting
from gaudi3_rt._units import bytes_text
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._limits import ordered
from gaudi3_rt.health._status import HealthStatus, Outcome, Verdict, percent

Celsius = Annotated[float, Field(allow_inf_nan=False, ge=0, le=200)]
_OPERATIONAL = "operational"
_READINGS = (
    "temperature_celsius", "power_watts", "utilization_ratio", "clock_hertz",
    "memory_used_bytes", "memory_total_bytes", "ecc_corrected", "ecc_uncorrected",
)  # fmt: skip


class HpuDeviceCheck(Check):
    """One HPU, real or simulated. It need not be acquired, and is not.

    The verdict on memory is about what this process has allocated, which is known once it has acquired the device: the
    bridge reserves nearly all memory of the device at once, so the device's own figure says nothing about pressure.
    """

    type: Literal["hpu_device"] = setting("hpu_device", "One HPU.")
    device: Annotated[Text, form(r"(hpu|simulated):[0-9]{1,4}", "a device such as hpu:0 or simulated:0")] = setting(
        "hpu:0", "Which: hpu:0, or simulated:0 of a software HPU."
    )
    temperature_warning_celsius: Celsius | None = setting(
        85.0, "Temperature that is worth a warning; null: not watched.", "degrees Celsius"
    )
    temperature_critical_celsius: Celsius | None = setting(
        95.0, "Temperature that is critical; null: not watched.", "degrees Celsius"
    )
    memory_warning_ratio: Ratio | None = setting(
        0.9, "Share of its memory allocated by this process that is worth a warning; null: not watched.", "1"
    )
    memory_critical_ratio: Ratio | None = setting(
        0.95, "Share of its memory allocated by this process that is critical; null: not watched.", "1"
    )
    max_new_corrected_ecc: Annotated[int, Field(ge=0, lt=2**63), AsInteger] | None = setting(
        None, "Corrected memory errors since the first look that are no warning yet; null: not watched.", "errors"
    )

    _device: Device | None = PrivateAttr(default=None)
    _first: Telemetry | None = PrivateAttr(default=None)

    def _usual_name(self) -> str:
        return self.device

    def _broken(self) -> Iterator[Broken]:
        yield from ordered(self, "temperature_warning_celsius", "temperature_critical_celsius")
        yield from ordered(self, "memory_warning_ratio", "memory_critical_ratio")

    def prepare(self) -> None:
        """Starts the driver's library by a first reading, which may take seconds."""
        device = self._find()
        if device is not None:
            device.telemetry()

    def close(self) -> None:
        """Gives back what its sensors hold, if this check has opened them."""
        device, self._device = self._device, None
        if device is not None and _providers.acquired(self.device) is None:
            device.close()

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (readings are of now)
        """Reads its sensors."""
        device = self._find()
        if device is None:
            text = f"{self.device} is not there: hidden from this process, or lost"
            return Outcome(status=HealthStatus.CRITICAL, message=text)
        reading = device.telemetry()
        verdict = Verdict()
        for name in _READINGS:
            if (value := getattr(reading, name)) is not None:
                verdict.figures[name] = value
        self._judge_status(verdict, reading)
        self._judge_readings(verdict, reading)
        self._judge_memory(verdict)
        return verdict.outcome(simulated=device.simulated)

    def _find(self) -> Device | None:
        there = next((one for one in _providers.all_devices() if one.name == self.device), None)
        if there is None:
            return None
        if self._device is None or there.simulated:  # a real one keeps its sensors open; a simulated one may be new
            self._device = there
        return self._device

    def _judge_status(self, verdict: Verdict, reading: Telemetry) -> None:
        """What the driver says of it, and whether it answers at all."""
        answers = any(getattr(reading, name) is not None for name in _READINGS)
        if reading.status is not None:
            verdict.figures["status"] = reading.status
            if reading.status != _OPERATIONAL:
                verdict.find(HealthStatus.CRITICAL, f"its status is: {reading.status}")
        if answers:
            self._first = self._first or reading
        elif reading.status in {None, _OPERATIONAL}:
            known = self._first is not None
            text = "its sensors no longer answer" if known else "it has no sensor that can be read"
            verdict.find(HealthStatus.DEGRADED if known else HealthStatus.UNKNOWN, text)

    def _judge_readings(self, verdict: Verdict, reading: Telemetry) -> None:
        if (celsius := reading.temperature_celsius) is not None:
            verdict.limit(
                f"{celsius:.0f} °C",
                celsius,
                warning=self.temperature_warning_celsius,
                critical=self.temperature_critical_celsius,
                form=lambda value: f"{value:g} °C",
            )
        first = self._first or reading
        if reading.ecc_uncorrected:
            new = reading.ecc_uncorrected - (first.ecc_uncorrected or 0)
            if new > 0:
                verdict.find(HealthStatus.CRITICAL, f"{new} new uncorrected memory error{'s' * (new != 1)}")
            else:
                count = reading.ecc_uncorrected
                text = f"{count} uncorrected memory error{'s' * (count != 1)} before this watch began"
                verdict.find(HealthStatus.DEGRADED, text)
        new = (reading.ecc_corrected or 0) - (first.ecc_corrected or 0)
        if self.max_new_corrected_ecc is not None and new > self.max_new_corrected_ecc:
            verdict.find(HealthStatus.DEGRADED, f"{new} new corrected memory errors")

    def _judge_memory(self, verdict: Verdict) -> None:
        own = _providers.acquired(self.device)
        if own is None:
            return
        stats = own.memory_stats()
        verdict.figures["memory_allocated_bytes"] = stats.allocated
        if stats.limit:
            verdict.figures["memory_limit_bytes"] = stats.limit
            ratio = stats.allocated / stats.limit
            verdict.limit(
                f"{bytes_text(stats.allocated)} of {bytes_text(stats.limit)} allocated, {percent(ratio)}",
                ratio,
                warning=self.memory_warning_ratio,
                critical=self.memory_critical_ratio,
                form=percent,
            )
