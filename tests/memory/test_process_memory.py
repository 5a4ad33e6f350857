"""A process's memory is what the kernel says, and its limit is the tightest of those around it."""

import mmap
import os
import resource
import subprocess
import sys

import psutil
import pytest

from gaudi3_rt import _process_memory
from gaudi3_rt._process_memory import memory_limit, process_memory_stats, reset_peak

MIB = 1 << 20


def touch(size):
    """Resident memory that goes back to the system at once when it is closed."""
    memory = mmap.mmap(-1, size)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def test_resident_memory_and_its_peak_follow_an_allocation():
    """What is touched is counted, what is given back is not, and the peak stays."""
    reset_peak()
    before = process_memory_stats()
    memory = touch(64 * MIB)
    during = process_memory_stats()
    memory.close()
    after = process_memory_stats()
    assert during.allocated - before.allocated == pytest.approx(64 * MIB, abs=8 * MIB)
    assert during.allocated - after.allocated == pytest.approx(64 * MIB, abs=8 * MIB)
    assert after.peak >= during.allocated
    assert before.reserved is None
    assert not before.simulated


def test_the_peak_between_two_readings_is_seen():
    """A rise and fall between two readings is in the second, until the peak is reset."""
    reset_peak()
    before = process_memory_stats()
    touch(64 * MIB).close()
    after = process_memory_stats()
    assert after.peak - before.allocated > 56 * MIB
    reset_peak()
    assert process_memory_stats().peak < after.peak - 48 * MIB


def test_a_refused_reset_still_forgets_the_peak(monkeypatch, tmp_path):
    """Without permission to reset the counter, it is believed again once it exceeds what it was."""
    touch(64 * MIB).close()
    before = process_memory_stats()
    status = tmp_path / str(os.getpid()) / "status"
    status.parent.mkdir()
    status.write_text(f"Name:\tpython\nVmHWM:\t{before.peak // 1024} kB\n")  # and no file to reset it with
    monkeypatch.setattr(_process_memory, "PROC", tmp_path)
    reset_peak()
    seen = process_memory_stats()
    assert seen.allocated <= seen.peak < before.peak
    status.write_text(f"Name:\tpython\nVmHWM:\t{before.peak // 1024 + 1} kB\n")
    assert process_memory_stats().peak == (before.peak // 1024 + 1) * 1024
    monkeypatch.undo()
    reset_peak()


def test_the_peak_is_never_below_a_reading(monkeypatch, tmp_path):
    """The kernel's counter lags behind what it says is resident."""
    reset_peak()
    memory = touch(64 * MIB)
    during = process_memory_stats()
    memory.close()
    status = tmp_path / str(os.getpid()) / "status"
    status.parent.mkdir()
    status.write_text(f"VmHWM:\t{(during.allocated - MIB) // 1024} kB\n")
    monkeypatch.setattr(_process_memory, "PROC", tmp_path)
    assert process_memory_stats().peak == during.peak >= during.allocated


FORK = """
import os, signal
from gaudi3_rt import _process_memory
_process_memory._OWN_PEAK.since_reset(1 << 50, None)
_process_memory._OWN_PEAK._lock.acquire()  # as a thread that samples at this moment
child = os.fork()
if child == 0:
    signal.alarm(100)
    os._exit(_process_memory.process_memory_stats().peak >= 1 << 50)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_peak_of_its_own():
    """Neither what its parent has seen, nor a lock that nobody in it holds."""
    done = subprocess.run([sys.executable, "-c", FORK], check=True, capture_output=True, text=True, timeout=200)  # noqa: S603 (same)
    assert done.stdout == "0\n", done.stderr


def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch, tmp_path):
    """Systems without ``/proc`` have a peak too."""
    monkeypatch.setattr(_process_memory, "PROC", tmp_path)
    reset = process_memory_stats()
    assert reset.peak >= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - MIB
    monkeypatch.undo()
    reset_peak()


def test_another_process_is_read_by_its_number():
    """The resident set and peak of a child; an error once it is gone."""
    code = "import mmap; m = mmap.mmap(-1, 64 << 20); m.write(b'x' * len(m)); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603 (this Python)
        child.stdout.readline()
        stats = process_memory_stats(child.pid)
        child.communicate(b"\n", timeout=60)
    assert stats.peak >= stats.allocated > 64 * MIB
    with pytest.raises(psutil.NoSuchProcess):
        process_memory_stats(child.pid)


@pytest.fixture
def machine(tmp_path):
    """A ``/proc`` and cgroup file system to fill: ``machine(lines, {path: limit})``, then its limit."""

    def limit(lines, limits):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "77").mkdir(parents=True)
        (proc / "77" / "cgroup").write_text(lines)
        for path, text in limits.items():
            (cgroup / path).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / path).write_text(f"{text}\n")
        return memory_limit(77, proc=proc, cgroup=cgroup)

    return limit


TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("lines", "limits", "expected"),
    [
        pytest.param("0::/pods/a\n", {"pods/a/memory.max": 3 * MIB}, 3 * MIB, id="v2"),
        pytest.param(
            "0::/pods/a\n", {"pods/a/memory.max": "max", "pods/memory.max": 5 * MIB}, 5 * MIB, id="v2, of a parent"
        ),
        pytest.param("0::/\n", {"memory.max": 7 * MIB}, 7 * MIB, id="v2, own namespace"),
        pytest.param("0::/\n", {"memory.max": "max"}, TOTAL, id="v2, unlimited"),
        pytest.param("0::/a\n", {"a/memory.max": 1 << 50}, TOTAL, id="more than the machine has"),
        pytest.param(
            "9:name=systemd:/\n4:cpu,memory:/job_1\n0::/\n",
            {"memory/job_1/memory.limit_in_bytes": 9 * MIB, "memory/memory.limit_in_bytes": 9223372036854771712},
            9 * MIB,
            id="v1",
        ),
        pytest.param(
            "4:memory:/docker/of-the-host\n", {"memory/memory.limit_in_bytes": 2 * MIB}, 2 * MIB, id="v1, container"
        ),
        pytest.param("4:memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}, TOTAL, id="v1, unlimited"),
        pytest.param("not a line of this file\n", {}, TOTAL, id="unknown"),
    ],
)
def test_the_limit_is_the_least_of_those_around_a_process(machine, lines, limits, expected):
    """Both versions of cgroups, parents, containers, no limit."""
    assert machine(lines, limits) == expected


def test_a_limit_on_the_address_space_is_a_limit():
    """``ulimit -v`` counts."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33));"
        "from gaudi3_rt._process_memory import memory_limit; print(memory_limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)  # noqa: S603 (same)
    assert int(done.stdout) == min(1 << 33, TOTAL)
