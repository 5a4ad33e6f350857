"""Sensors as time goes by: what is emitted for whom, and that a sensor that hangs is alone with it."""

import os
import queue
import re
import signal
import sys
import threading
from collections import namedtuple
from contextlib import contextmanager, suppress

import _habana_package
import pytest
from _threads import refuse

from gaudi3_rt import device, events
from gaudi3_rt._cpu_times import CpuUtilization
from gaudi3_rt.device import DeviceSampler, MemoryStats, Telemetry, _sampler
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing import FakeClock, SoftwareHPU, capture_events

LONG = 30.0  # seconds until a test gives up; none waits for it
SHORT = 0.001


class Board:
    """A device with sensors that a test has in its hand."""

    simulated = False
    torch_device = "cpu"

    def __init__(self, name="board:0", *, acquired=False, **reading):
        self.name = name
        self.acquired = acquired
        self.reading = reading
        self.error = None
        self.takes = lambda: None
        self.asked = threading.Event()
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    def telemetry(self):
        """Hangs, fails, or reads."""
        self.asked.set()
        self.takes()
        if self.hangs.is_set():
            assert self.goes_on.wait(LONG)
        if self.error is not None:
            raise self.error
        return Telemetry(**self.reading)

    def memory_stats(self):
        """Only who has the device is told."""
        assert self.acquired
        return MemoryStats(allocated=10, reserved=40, peak=20, limit=50, workspace=5)


@contextmanager
def arriving(*kinds):
    """Records as they come, whichever thread emits them."""
    records = queue.Queue()
    with events.subscribe(records.put, *kinds, inline=True):
        yield lambda: records.get(timeout=LONG)


def readers():
    """Threads that read sensors."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("sensors of")]


def test_a_record_has_all_that_a_device_says():
    """Sensors, memory of who has acquired it, and when the next is due: sensors may be slow."""
    reading = {
        "temperature_celsius": 41.0,
        "power_watts": 300.5,
        "utilization_ratio": 0.5,
        "clock_hertz": 1.1e9,
        "energy_joules": 7.5,
        "ecc_corrected": 3,
        "ecc_uncorrected": 1,
        "memory_used_bytes": 70,
        "memory_total_bytes": 100,
    }
    clock, board = FakeClock(), Board(acquired=True, **reading)
    board.takes = lambda: clock.advance(0.5)
    with capture_events(events.DeviceSampled) as captured:
        DeviceSampler([board], interval_seconds=2.0, clock=clock).sample()
    own = {"allocated": 10, "reserved": 40, "peak": 20, "limit": 50, "workspace": 5}
    fields = vars(captured[0]).copy()
    assert fields.pop("time") > 0
    assert fields == {
        "device": "board:0",
        "simulated": False,
        "interval_seconds": 2.5,
        **reading,
        **{f"memory_{name}_bytes": value for name, value in own.items()},
    }


def test_every_sensor_has_a_field():
    """Whatever telemetry or memory_stats can measure is in the record under the same name."""
    fields = set(events.DeviceSampled.__dataclass_fields__)
    said = {*Telemetry.__dataclass_fields__, *(f"memory_{name}_bytes" for name in MemoryStats.__dataclass_fields__)}
    assert said - fields == {"memory_simulated_bytes", "status"}


def test_software_hpus_are_labelled():
    """Their sensors need no acquired device, memory does."""
    with SoftwareHPU(count=2) as hpu, capture_events(events.DeviceSampled) as captured:
        sampler = DeviceSampler(device.devices("simulated"))
        sampler.sample()
        hpu.device(1).open()
        with hpu.device(1).allocate("1 MiB"):
            sampler.sample()
    assert [(one.device, one.simulated, one.memory_allocated_bytes) for one in captured] == [
        ("simulated:0", True, None),
        ("simulated:1", True, None),
        ("simulated:0", True, None),
        ("simulated:1", True, 1 << 20),
    ]
    assert all(one.clock_hertz == 4e8 for one in captured)


def test_without_devices_all_there_are():
    """The software HPU while it is open, and the CPU."""
    with SoftwareHPU():
        assert {"simulated:0", "cpu"} <= {one.name for one in DeviceSampler().devices}


def test_nothing_is_emitted_for_what_says_nothing():
    """Neither a record of None, nor one for a device without sensors that is not acquired."""
    silent, warm = Board("silent"), Board("warm", temperature_celsius=30.0)
    with capture_events() as captured:
        DeviceSampler([silent, warm]).sample()
    assert [one.device for one in captured] == ["warm"]
    assert captured[0].power_watts is None


@pytest.mark.parametrize("error", [None, OSError("lost")])
def test_a_sensor_that_hangs_delays_nobody(caplog, error):
    """Not the other devices, not the end of the block; what it says after that is nobody's."""
    dead, alive = Board("dead", power_watts=1.0), Board("alive", power_watts=2.0)
    dead.hangs.set()
    caplog.set_level("WARNING", logger="gaudi3_rt")
    with pytest.MonkeyPatch.context() as patch, arriving(events.DeviceSampled) as next_one:
        patch.setattr(_sampler, "LAST", SHORT)
        with DeviceSampler([dead, alive], interval_seconds=SHORT):
            assert dead.asked.wait(LONG)
            assert {next_one().device for _ in range(5)} == {"alive"}
            reading = readers()
        # in so short a time the other may not have ended either
        assert re.search("sensors of dead.*: a reading has not ended after 0.001 s; it is left behind", caplog.text)
        with capture_events() as late:
            dead.error = error
            dead.goes_on.set()
            for thread in reading:
                thread.join(LONG)
        assert [one for one in late if one.device == "dead"] == []


def test_without_threads_it_has_not_begun(monkeypatch):
    """Those that were started end, and it can begin later."""
    sampler = DeviceSampler([Board("one"), Board("two")], interval_seconds=1000)
    with monkeypatch.context() as patch:
        refuse(patch, "sensors of two")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            sampler.__enter__()
    assert readers() == []
    with sampler:
        assert len(readers()) == 2


def test_a_device_that_fails_is_told_of_once():
    """Until it answers again."""
    board = Board(power_watts=1.0)
    sampler = DeviceSampler([board])
    with capture_events() as captured:
        for error in (OSError("lost"), OSError("lost"), None, OSError("lost")):
            board.error = error
            sampler.sample()
    assert [type(one).__name__ for one in captured] == ["TelemetryUnavailable", "DeviceSampled", "TelemetryUnavailable"]
    assert captured[0].reason == "OSError: lost"


def test_memory_that_cannot_be_read_is_told_of_and_sensors_go_on(monkeypatch):
    """They are two things."""
    board = Board(acquired=True, power_watts=1.0)
    monkeypatch.setattr(board, "memory_stats", lambda: 1 / 0)
    with capture_events() as captured:
        DeviceSampler([board]).sample()
    assert [type(one).__name__ for one in captured] == ["MemoryUnreadable", "DeviceSampled"]
    assert (captured[1].power_watts, captured[1].memory_allocated_bytes) == (1.0, None)


@pytest.fixture
def bridge(tmp_path, monkeypatch):
    """State of a stand-in of Habana's bridge."""
    with _habana_package.installed(tmp_path, monkeypatch) as state:
        yield state


def test_memory_is_that_of_the_hpu_that_this_process_has(host, bridge):
    """The bridge counts for one; that figure is not said of the others, and the bridge is not imported to ask."""
    host.add_hpu(0, 3)
    mine = host.add_hpu(1, 5)
    bridge["memory"] = (100, 70, 80, *[0] * 7)
    bridge["on_init"] = lambda: host.add_process("self", mine)
    sampler = DeviceSampler(device.devices("hpu", root=host.root))
    with capture_events(events.DeviceSampled) as captured:
        sampler.sample()
        assert captured == []
        assert "habana_frameworks.torch" not in sys.modules
        with device.acquire("hpu:5", root=host.root) as acquired:
            bridge["on_init"] = lambda: None
            sampler.sample()
            DeviceSampler([acquired]).sample()
    assert [(one.device, one.memory_allocated_bytes, one.memory_peak_bytes) for one in captured] == [
        ("hpu:5", 70, 80),
        ("hpu:5", 70, 80),
    ]


def test_threads_end_with_the_block_also_after_an_exception():
    """And it can be opened again."""
    sampler = DeviceSampler([Board(power_watts=1.0)], interval_seconds=1000)
    for _ in range(2):
        with arriving(events.DeviceSampled) as next_one, suppress(KeyboardInterrupt), sampler:
            assert next_one().power_watts == 1.0
            with pytest.raises(ParameterValidationError, match="already running"):
                sampler.__enter__()
            raise KeyboardInterrupt
        assert readers() == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_samples_nothing():
    """It leaves the block without waiting for threads that it does not have; the parent goes on."""
    board = Board(power_watts=1.0)
    with arriving(events.DeviceSampled) as next_one, DeviceSampler([board], interval_seconds=SHORT) as sampler:
        next_one()
        with sampler._stop._cond:  # as if a thread had it at that moment
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # it would wait for ever
                board.asked.clear()
                sampler.__exit__(None, None, None)
                os._exit(0 if readers() == [] and not board.asked.is_set() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        next_one()
        next_one()


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf")])
def test_intervals(interval):
    """Have to be a number of seconds."""
    with pytest.raises(ParameterValidationError, match=r"interval_seconds=.*must be a number of seconds above 0"):
        DeviceSampler([], interval_seconds=interval)


def test_what_is_no_device():
    """Is said before anything starts."""
    with pytest.raises(ParameterValidationError, match=r"'hpu:0' is no device; give those of"):
        DeviceSampler(["hpu:0"])


def test_utilization_of_cpus_is_between_two_readings(monkeypatch):
    """Of one reader, whatever others read; waiting for a disk and guests do not count twice."""
    times = {"user": 5.0, "idle": 90.0, "iowait": 5.0, "guest": 2.0}
    record = namedtuple("scputimes", times)  # noqa: PYI024 (as psutil's is)
    monkeypatch.setattr("gaudi3_rt._cpu_times.psutil.cpu_times", lambda: record(**times))
    monkeypatch.setattr("gaudi3_rt._cpu_times._at_import", (5.0, 100.0))
    one, other = CpuUtilization(), CpuUtilization()
    assert one.read() is None
    times.update(user=7.0, idle=94.0, iowait=7.0, guest=4.0)
    assert one.read() == pytest.approx(2 / 8)
    assert one.read() == pytest.approx(2 / 8)
    times.update(user=15.0)
    assert one.read() == 1.0
    assert other.read() == pytest.approx(10 / 16)
