"""A monitor samples, tells what crosses a watermark once, survives what cannot be read, and keeps the whole run."""

import subprocess
import sys
import threading

import pytest
import torch
from _memory_series import GB, Script, Ticks
from _threads import begun_since, child_succeeds, refuse

from gaudi3_rt import events
from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory import MemoryMonitor, ProcessMemory

MIB = 1 << 20


def kinds(readings, **options):
    """Names of the records that these readings lead to."""
    records = []
    monitor = MemoryMonitor(Script(readings), clock=Ticks(), **options)
    with events.subscribe(records.append):
        for _ in readings:
            monitor.sample()
    return [type(record).__name__ for record in records], records, monitor


def test_watermarks_have_hysteresis():
    """Between low and high nothing is told, whatever the direction; equal to high is high."""
    names, records, _ = kinds([share * GB for share in (50, 89, 90, 95, 85, 91, 80, 79, 85, 89, 92, 10)])
    assert names == ["MemoryHigh", "MemoryRecovered", "MemoryHigh", "MemoryRecovered"]
    assert [record.used_ratio for record in records] == pytest.approx([0.90, 0.79, 0.92, 0.10])
    assert records[0].allocated_bytes == 90 * GB
    assert records[0].limit_bytes == 100 * GB
    assert records[0].device == "hpu:0"


def test_a_peak_between_samples_is_high():
    """The device's own counter of peaks has risen: what the thread did not see was there."""

    def stats(allocated, peak):
        return MemoryStats(allocated=allocated * GB, reserved=None, peak=peak * GB, limit=100 * GB)

    names, records, monitor = kinds([stats(20, 97), stats(30, 97), stats(30, 98), stats(30, 98)])
    assert names == ["MemoryHigh", "MemoryRecovered"]
    assert records[0].allocated_bytes == 98 * GB
    assert [point.high for point in monitor.timeline] == [20 * GB, 30 * GB, 98 * GB, 30 * GB]


def test_without_a_limit_there_are_no_watermarks():
    """A device may not say what it has."""
    monitor = MemoryMonitor(Script([1 << 60], limit=None), clock=Ticks())
    with events.subscribe(lambda event: pytest.fail(str(event))):
        assert monitor.sample().limit is None


def test_a_device_that_cannot_be_read_is_told_once_an_episode():
    """Failures are counted, the monitor goes on, and a later failure is told again."""
    broken = RuntimeError("the driver is away")
    names, records, monitor = kinds([GB, broken, broken, GB, broken, GB])
    assert names == ["MemoryUnreadable", "MemoryUnreadable"]
    assert records[0].error == "RuntimeError: the driver is away"
    assert monitor.failures == 3
    assert len(monitor.timeline) == 3


def test_simulated_is_passed_on():
    """Whoever reads the record must know."""
    monitor = MemoryMonitor(Script([95 * GB], simulated=True), clock=Ticks())
    records = []
    with events.subscribe(records.append):
        monitor.sample()
    assert [record.simulated for record in records] == [True]


def test_the_timeline_is_bounded_and_loses_neither_end_nor_extremes():
    """10,000 samples in 256 points: in order, the first and last there, the one spike too."""
    readings = [GB] * 10_000
    readings[5000], readings[7000] = 7 * GB, GB // 2
    clock = Ticks()
    monitor = MemoryMonitor(Script(readings), clock=clock, capacity=256)
    for _ in readings:
        clock.sleep(1)
        monitor.step()
        monitor.sample()
    points = monitor.timeline
    assert len(points) <= 256
    assert sum(point.samples for point in points) == 10_000
    assert [p.time for p in points] == sorted(p.time for p in points)
    assert points[-1].time == 10_000
    assert points[-1].step == monitor.steps == 10_000
    assert max(point.high for point in points) == 7 * GB
    assert min(point.low for point in points) == GB // 2
    assert {point.samples for point in points[:-1]} == {64}


class Counting:
    """A device that says when it was read often enough."""

    name, simulated = "cpu", False

    def __init__(self, wanted):
        """``enough`` is set at the wanted reading."""
        self.readings, self.wanted, self.enough = 0, wanted, threading.Event()

    def memory_stats(self):
        """Counts."""
        self.readings += 1
        if self.readings == self.wanted:
            self.enough.set()
        return MemoryStats(allocated=1, reserved=None, peak=1, limit=2)


def test_the_thread_samples_at_its_interval_until_the_end():
    """It goes on by itself, and is gone afterwards."""
    device = Counting(wanted=5)
    before = threading.enumerate()
    with MemoryMonitor(device, interval=0.001) as monitor:
        assert device.enough.wait(timeout=60)
    assert begun_since(before) == []
    readings = device.readings
    assert len(monitor.timeline) == readings >= 5


def test_leaving_does_not_wait_for_the_interval():
    """An hour would not pass; the last sample is of the end, also when the block raised."""
    device = Counting(wanted=1)

    def fail():
        with MemoryMonitor(device, interval=3600):
            assert device.enough.wait(timeout=60)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert device.readings == 2


def test_a_monitor_can_be_entered_again_but_not_twice_at_once():
    """The timeline goes on."""
    monitor = MemoryMonitor(Counting(wanted=1), interval=3600)
    with monitor, pytest.raises(ParameterValidationError, match="already running"):
        monitor.__enter__()
    first = len(monitor.timeline)
    with monitor:
        pass
    assert len(monitor.timeline) > first


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_the_block_without_a_sample():
    """Nor does it wait for a lock that the thread had at that moment."""
    device = Counting(wanted=1)
    with MemoryMonitor(device, interval=3600) as monitor:
        assert device.enough.wait(timeout=60)
        leaves = lambda: monitor.__exit__(None, None, None) or len(monitor.timeline) == device.readings == 1  # noqa: E731
        assert child_succeeds(leaves, monitor._lock)
    assert device.readings == 2


def test_without_a_thread_it_has_not_begun(monkeypatch):
    """And can begin later."""
    monitor = MemoryMonitor(Counting(wanted=1), interval=3600)
    with monkeypatch.context() as patch:
        refuse(patch, "memory of")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            monitor.__enter__()
    with monitor:
        pass
    assert monitor.timeline


def test_hooks_may_ask_the_monitor():
    """Records are emitted outside its lock."""
    monitor = MemoryMonitor(Script([95 * GB]), clock=Ticks())
    seen = []
    with events.subscribe(lambda _: seen.append((monitor.last.allocated, len(monitor.timeline), monitor.marks))):
        monitor.sample()
    assert [(allocated, points) for allocated, points, _ in seen] == [(95 * GB, 1)]
    assert seen[0][2][0].event == "MemoryHigh"


def test_without_a_device_it_watches_this_process():
    """200 MB more are seen."""
    monitor = MemoryMonitor()
    before = monitor.sample().allocated
    kept = torch.ones(50 * MIB)
    after = monitor.sample().allocated
    assert after - before == pytest.approx(kept.nbytes, rel=0.05)
    assert monitor.device.name.startswith("process ")


def test_another_process():
    """Of which an end is a failure to read, not an error."""
    code = "print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603 (this Python)
        child.stdout.readline()
        monitor = MemoryMonitor(ProcessMemory(child.pid))
        assert monitor.sample().allocated > MIB
        child.communicate(b"\n", timeout=60)
    assert monitor.sample() is None
    assert monitor.failures == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "hpu:0"}, "is no device"),
        ({"interval": 0}, "interval=0"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"high": 1.5}, r"high=1\.5"),
        ({"high": 0.5, "low": 0.6}, "low=0.6"),
        ({"warmup": -1}, "warmup=-1"),
        ({"capacity": 101}, "capacity=101"),
    ],
)
def test_arguments_are_checked(options, message):
    """What was given and what is allowed."""
    with pytest.raises(ParameterValidationError, match=message):
        MemoryMonitor(**options)


@pytest.mark.parametrize("simulated", [False, True])
def test_plot(tmp_path, simulated):
    """A picture with everything on it; what is on it is looked at in the next test."""
    file = tmp_path / "memory.png"
    clock = Ticks()
    monitor = MemoryMonitor(Script([*range(0, 95 * GB, GB), 20 * GB], simulated=simulated), clock=clock)
    for _ in range(96):
        clock.sleep(30)
        monitor.step()
        monitor.sample()
    monitor.plot(file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    monitor.plot(tmp_path / "memory.svg")
    # matplotlib draws letters as paths, but writes each text into a comment
    text = (tmp_path / "memory.svg").read_text()
    for words in ("time [minutes]", "memory [GiB]", "step", "MemoryHigh", "MemoryRecovered", "high", "low", "limit"):
        assert f"<!-- {words} -->" in text
    assert ("(simulated)" in text) == simulated


def test_plot_without_samples():
    """One clear error."""
    with pytest.raises(ParameterValidationError, match="no samples"):
        MemoryMonitor(Script([])).plot("nowhere.png")


def test_plot_without_matplotlib(monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monitor = MemoryMonitor(Script([GB]))
    monitor.sample()
    with pytest.raises(ImportError, match=r"gaudi3_rt\[examples\]"):
        monitor.plot("nowhere.png")
