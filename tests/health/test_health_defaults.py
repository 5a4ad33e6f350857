"""The checks that a run has by itself."""

import pytest

from gaudi3_rt import errors, health
from gaudi3_rt.events import HealthChanged, capture_events
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import SoftwareHPU


def test_defaults_for_the_devices_that_are_there():
    """A lost device is CRITICAL for the whole, and the event says that it was simulated."""
    with SoftwareHPU(count=3, script="step 1: device lost on rank 1") as hpu:
        monitor = health.HealthMonitor(health.create_default_hpu_health_checks())
        assert monitor.check_now().status is S.HEALTHY
        hpu.device(1).advance()
        with capture_events(HealthChanged) as captured:
            assert monitor.check_now().status is S.CRITICAL
    assert list(monitor.statuses())[:3] == ["simulated:0", "simulated:1", "simulated:2"]
    assert [(one.check, one.simulated) for one in captured] == [("simulated:1", True), (None, True)]


def test_defaults_for_devices_that_should_be_there():
    """So many, whether or not they are there; or by name."""
    checks = health.create_default_hpu_health_checks(2, step_timeout_seconds=60, temperature_warning_celsius=None)
    assert [one.label for one in checks] == [
        "hpu:0",
        "hpu:1",
        "system_resources",
        "working_directory",
        "training_steps",
    ]
    assert checks[0].temperature_warning_celsius is None
    assert health.create_default_hpu_health_checks(["simulated:4"])[0].device == "simulated:4"


@pytest.mark.parametrize(
    ("arguments", "limits", "words"),
    [
        ((0,), {}, "a number of HPUs is 1 to 1024"),
        ((True,), {}, "a number of HPUs"),
        (("hpu:0",), {}, r"give a list of names, such as \['hpu:0'\]"),
        ((["gpu"],), {}, "a device such as hpu:0"),
        ((1,), {"temperature": 3}, "there is no limit temperature; there are memory_warning_ratio"),
        ((1,), {"memory_warning_ratio": 0.99}, "must be below memory_critical_ratio=0.95"),
    ],
)
def test_defaults_that_make_no_sense(arguments, limits, words):
    """One error of ours."""
    with pytest.raises(errors.ParameterValidationError, match=words):
        health.create_default_hpu_health_checks(*arguments, **limits)
