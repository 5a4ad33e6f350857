"""Getting a device: what is tried again, how long, and what is said."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import device, events
from gaudi3_rt.device import _select
from gaudi3_rt.errors import HPUNotAvailableError, ParameterValidationError
from gaudi3_rt.testing import SoftwareHPU, capture_events
from gaudi3_rt.testing._messages import STATUS

PASSES = (17, 20, 22)
"""Statuses of a device that is being reset, that somebody has, that is at work."""


def longest():
    """A random number that makes waits as long as they get."""
    return 1.0


def test_a_busy_device_is_tried_again():
    """Waits double; the device is there inside the block and free after it."""
    with SoftwareHPU(script="busy 3 times") as hpu, capture_events() as captured:
        with device.acquire("simulated:0", clock=hpu.clock, random=longest) as mine:
            assert mine.simulated
            assert hpu.device().is_open
        assert not hpu.device().is_open
    assert hpu.clock.slept == [1.0, 2.0, 4.0]
    *busy, acquired, released = captured
    assert [(event.attempt, event.wait_seconds) for event in busy] == [(1, 1.0), (2, 2.0), (3, 4.0)]
    assert isinstance(acquired, events.DeviceAcquired)
    assert (acquired.device, acquired.attempts, acquired.seconds) == ("simulated:0", 4, 7.0)
    assert acquired.simulated
    assert released == events.DeviceReleased(device="simulated:0", simulated=True, time=released.time)
    assert all(event.simulated for event in captured)


def test_waits_vary():
    """Between half and all of what they are without chance, and never above the longest."""
    with SoftwareHPU(script="busy 9 times") as hpu:
        chances = iter([0.0, 0.5, *[1.0] * 7])
        with device.acquire("simulated", clock=hpu.clock, random=lambda: next(chances), attempts=10, timeout=1e6):
            pass
    assert hpu.clock.slept == [0.5, 1.5, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(("limits", "slept"), [({"attempts": 3}, [1.0, 2.0]), ({"timeout": 4.0}, [1.0, 2.0])])
def test_tries_are_bounded(limits, slept):
    """By number and by time; the error says that it may pass."""
    with SoftwareHPU(script="busy 99 times") as hpu:
        with (
            pytest.raises(HPUNotAvailableError) as caught,
            device.acquire("simulated:0", clock=hpu.clock, random=longest, **limits),
        ):
            pytest.fail("nobody has it")
        assert hpu.clock.slept == slept
        assert not hpu.device().is_open
    error = caught.value
    assert error.retryable
    assert error.requested_devices == "simulated:0"
    assert error.context["attempts"] == 3
    assert "3 tries in 3.0 s" in str(error)
    assert "synStatus=20 [Device already acquired]" in str(error.__cause__)


@pytest.mark.parametrize("status", PASSES)
def test_what_passes_is_tried_again(status):
    """A device that is in use, busy or being reset: one table says what passes, that of ``errors.classify``."""
    with SoftwareHPU(script=f"synStatus {status} 2 times") as hpu, capture_events(events.DeviceBusy) as captured:
        with device.acquire("simulated", clock=hpu.clock) as mine:
            assert mine.simulated
        assert len(captured) == len(hpu.clock.slept) == 2
    with SoftwareHPU(script=f"synStatus {status} 9 times") as hpu:
        with pytest.raises(HPUNotAvailableError) as caught, device.acquire("simulated", clock=hpu.clock):
            pytest.fail("nobody has it")
        assert caught.value.retryable
        assert f"simulated:0 is busy (synStatus={status} [{STATUS[status]}]" in caught.value.message


@pytest.mark.parametrize("fault", [*(f"synStatus {code}" for code in STATUS if code not in PASSES), "device lost"])
def test_what_does_not_pass_is_raised_at_once(fault):
    """With the driver's words; nobody waits."""
    with SoftwareHPU(script=fault) as hpu:
        with (
            pytest.raises(HPUNotAvailableError, match="trying again will not help: synStatus=") as caught,
            device.acquire("simulated", clock=hpu.clock),
        ):
            pytest.fail("it cannot be had")
        assert hpu.clock.slept == []
    assert not caught.value.retryable


def test_an_unknown_server_is_not_a_busy_device(monkeypatch):
    """It comes with status 20, too."""
    words = "Invalid server type (4[OCP1]) requested; synDeviceAcquire failed with synapse error: 20"
    with SoftwareHPU() as hpu:

        def fails():
            raise RuntimeError(words)

        monkeypatch.setattr(hpu.device(), "open", fails)
        with pytest.raises(HPUNotAvailableError, match="will not help"), device.acquire("simulated", clock=hpu.clock):
            pytest.fail("it cannot be had")
        assert hpu.clock.slept == []


def test_of_several_the_first_free_one():
    """In the order that was given; a device that is in use here counts as busy."""
    with SoftwareHPU(4) as hpu, device.acquire("simulated:3,1", clock=hpu.clock) as first:
        assert first.name == "simulated:3"
        with device.acquire("simulated:3,1", clock=hpu.clock) as second:
            assert second.name == "simulated:1"
            with (
                pytest.raises(
                    HPUNotAvailableError, match=r"simulated:3 is busy.*simulated:1 is busy.*\(1 try in 0\.0 s\)"
                ),
                device.acquire("simulated:3,1", clock=hpu.clock, attempts=1),
            ):
                pytest.fail("both are in use")
        assert hpu.clock.slept == []


def test_it_is_released_when_the_block_fails():
    """And the block's error goes on."""
    with SoftwareHPU() as hpu:
        with pytest.raises(ZeroDivisionError), device.acquire("simulated"):
            1 / 0  # noqa: B018 (it raises)
        assert not hpu.device().is_open


@pytest.mark.parametrize("spec", ["hpu", "hpu:0", 1, "simulated", "simulated:5"])
def test_an_explicit_request_never_falls_back(spec, tmp_path):
    """Neither to the CPU nor to a simulated device of another number."""
    with SoftwareHPU(), pytest.raises(HPUNotAvailableError) as caught:
        device.devices("simulated:1" if spec == "simulated" else spec, root=tmp_path, environment={})
    assert "not there; available: " in str(caught.value)
    assert not caught.value.retryable
    assert caught.value.suggestions


def test_simulated_devices_need_a_software_hpu():
    """And are gone with it."""
    with SoftwareHPU(2):
        assert [one.name for one in device.devices("simulated")] == ["simulated:0", "simulated:1"]
    with pytest.raises(HPUNotAvailableError, match="no simulated device") as caught:
        device.devices("simulated")
    assert "SoftwareHPU" in caught.value.suggestions[0]


def test_auto_is_said_once_and_is_never_simulated(tmp_path, caplog, monkeypatch):
    """Nothing is there but a software HPU, installed as the bridge even."""
    monkeypatch.setattr(_select, "_announced", set())
    with caplog.at_level(logging.INFO, logger="gaudi3_rt"), SoftwareHPU(3) as hpu, hpu.installed():
        for _ in range(2):
            with device.acquire(root=tmp_path, environment={}) as mine:
                assert mine.name == "cpu"
        assert [one.name for one in device.devices("auto", root=tmp_path, environment={})] == ["cpu"]
        names = [one.name for one in device.devices(root=tmp_path, environment={})]
        assert names == ["simulated:0", "simulated:1", "simulated:2", "cpu"]
    (record,) = caplog.records
    assert record.message == "device 'auto' is cpu: no HPU is there for this process"


def test_an_installed_software_hpu_is_no_bridge(host):
    """A machine with HPUs, and code under test that imports the stand-in: auto does not go there."""
    host.add_hpu(0, 0)
    with SoftwareHPU() as hpu, hpu.installed():
        with device.acquire(root=host.root, environment={}) as mine:
            assert mine.name == "cpu"
        with device.acquire("hpu", root=host.root, environment={}) as mine:
            assert mine.simulated
            assert mine.memory_stats().simulated
            assert mine.properties().simulated
            assert "simulated" in repr(mine)


def test_one_process_has_one_device():
    """More of them are a matter for a launcher."""
    with pytest.raises(ParameterValidationError, match="torchrun --nproc-per-node 8"), device.acquire(8):
        pytest.fail("a process has one device")


@pytest.mark.parametrize(
    "limits",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 1.5},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": "5"},
    ],
)
def test_limits_are_checked(limits):
    """Before anything is tried."""
    (name,) = limits
    with pytest.raises(ParameterValidationError, match=f"{name} is"), device.acquire("cpu", **limits):
        pytest.fail("nonsense")


@given(st.integers(1, 12), st.floats(0, 300), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_no_try_begins_after_the_time(attempts, timeout, chances):
    """Whatever chance does, and there are never more tries than allowed."""
    with SoftwareHPU(script="busy 999 times") as hpu:
        chance = iter(chances)
        with (
            pytest.raises(HPUNotAvailableError) as caught,
            device.acquire(
                "simulated", clock=hpu.clock, random=lambda: next(chance), attempts=attempts, timeout=timeout
            ),
        ):
            pytest.fail("nobody has it")
    assert hpu.clock.monotonic() <= timeout
    assert caught.value.context["attempts"] == len(hpu.clock.slept) + 1 <= attempts
