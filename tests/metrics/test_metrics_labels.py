"""Labels and bounds: any text is one, there are only so many, and what is no longer measured is absent."""

import math

import pytest
from _counted import figures, sampled, step
from _scrape import of_section

from gaudi3_rt import events
from gaudi3_rt.metrics._catalogue import BOUNDS
from gaudi3_rt.metrics._store import LONGEST_LABEL


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf])
def test_no_amount_makes_a_counter_fall_or_useless(counting, amount):
    """Nor one that is no number."""
    step(samples=8)
    step(samples=amount)
    assert figures(counting)["training_samples_total"] == {"": 8}


def test_a_bucket_has_what_is_at_its_bound(counting):
    """Prometheus's buckets are "less or equal"."""
    step(seconds=0.5)
    buckets = figures(counting)["training_step_duration_seconds_bucket"]
    assert (buckets["le=0.25"], buckets["le=0.5"]) == (0, 1)


def test_phases_beyond_the_bound_are_other(counting):
    """However many names there are, no time is lost and the exposition stays small."""
    long = "x" * (LONGEST_LABEL + 1)
    for number in range(100):
        step(phases={f"phase {number}": 1.0, long: 2.0})
    found = figures(counting)["training_phase_duration_seconds_sum"]
    assert len(found) == BOUNDS["phase"] + 1
    assert found["phase=other"] == 100 - BOUNDS["phase"] + 200
    step(phases={"phase 0": 1.0})
    assert figures(counting)["training_phase_duration_seconds_sum"]["phase=phase 0"] == 2


def test_devices_beyond_the_bound_are_left_out(counting, caplog):
    """Temperatures have no sum, and neither have energies that devices count themselves; said once."""
    for number in range(100):
        sampled(f"hpu:{number}", temperature_celsius=30.0, energy_joules=5.0)
    found = figures(counting)
    for name in ("device_temperature_celsius", "device_energy_joules_total"):
        assert len(found[name]) == BOUNDS["device"]
        assert "device=other,simulated=false" not in found[name]
    assert caplog.text.count("there are more values of device, simulated than are exposed") == 1


@pytest.mark.parametrize("text", ["a\nb", 'quoted "x" \\', "\udc80", "", "é", "other"])
def test_any_text_is_a_label(counting, text):
    """What cannot be written in UTF-8 breaks no scrape."""
    step(phases={text: 1.0})
    (label,) = figures(counting)["training_phase_duration_seconds_sum"]
    assert label == f"phase={text}".replace("\udc80", "?")


def test_a_sensor_that_stops_is_absent(counting):
    """At once if the others go on, or if the device says that it cannot be read; else after three intervals."""
    everything = {"temperature_celsius": 40.0, "power_watts": 300.0, "ecc_corrected": 2, "memory_peak_bytes": 7}
    sampled(**everything)
    sampled("hpu:1", interval_seconds=60.0, **everything)
    sampled(**{**everything, "power_watts": None})
    found = figures(counting)
    assert set(found["device_power_watts"]) == {"device=hpu:1,simulated=false"}
    assert len(found["device_temperature_celsius"]) == 2
    events.emit(events.TelemetryUnavailable, device="hpu:0", reason="lost")
    found = figures(counting)
    assert set(found["device_ecc_errors_total"]) == {"device=hpu:1,kind=corrected,simulated=false"}
    assert len(found["device_memory_peak_bytes"]) == 2
    events.emit(events.MemoryUnreadable, device="hpu:0", simulated=False, error="lost")
    assert len(figures(counting)["device_memory_peak_bytes"]) == 1
    sampled(**everything)
    assert len(figures(counting)["device_power_watts"]) == 2
    counting._clock.advance(14.9)
    assert len(figures(counting)["device_power_watts"]) == 2
    counting._clock.advance(0.2)
    found = figures(counting)
    assert {next(iter(samples)) for samples in of_section(found, "device_power", "device_memory").values()} == {
        "device=hpu:1,simulated=false"
    }
    counting._clock.advance(180)
    assert of_section(figures(counting), "device") == {}


def test_what_is_simulated_is_labelled(counting):
    """A software HPU's figures are never another series' ones."""
    sampled("simulated:0", simulated=True, power_watts=220.0)
    assert figures(counting) == {"device_power_watts": {"device=simulated:0,simulated=true": 220}}
