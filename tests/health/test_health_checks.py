"""What single checks find: in software HPUs that fail, on full and read-only file systems, in loops that stall."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

import psutil
import pytest
from pydantic import ValidationError

from gaudi3_rt import device, events, health
from gaudi3_rt._process_memory import group_memory
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import FakeClock, SoftwareHPU

CLOCK = FakeClock(1000.0)


def hpu(script, steps, **settings):
    """Outcomes of a check before the first step and after each."""
    check = health.HpuDeviceCheck(device="simulated:0", **settings)
    with SoftwareHPU(script=script) as software:
        found = [check.run(CLOCK)]
        for _ in range(steps):
            software.device().advance()
            found.append(check.run(CLOCK))
    assert all(one.simulated for one in found)
    return found


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("step 2: temperature 84.9 C", S.HEALTHY, "85 °C"),
        ("step 2: temperature 85 C", S.DEGRADED, "85 °C (warning from 85 °C on)"),
        ("step 2: temperature 97 C", S.CRITICAL, "97 °C (critical from 95 °C on)"),
        ("step 2: ecc", S.CRITICAL, "1 new uncorrected memory error"),
        ("step 2: ecc twice", S.CRITICAL, "2 new uncorrected memory errors"),
        ("step 0: ecc", S.DEGRADED, "1 uncorrected memory error before this watch began"),
        ("step 2: ecc corrected 9 times", S.HEALTHY, "°C"),
        ("step 2: device lost", S.CRITICAL, "its status is: lost"),
        ("step 2: telemetry unavailable", S.DEGRADED, "its sensors no longer answer"),
        ("step 0: telemetry unavailable", S.UNKNOWN, "it has no sensor that can be read"),
        ("step 2: temperature 97 C; step 2: ecc", S.CRITICAL, "; "),
    ],
)
def test_faults_of_an_hpu(script, status, words):
    """Each from the step on that it happens at."""
    before, between, after = hpu(script, 2)
    if "step 2" in script:
        assert (before.status, between.status) == (S.HEALTHY, S.HEALTHY)
    assert after.status is status
    assert words in after.message
    assert ("temperature_celsius" in after.figures) == ("lost" not in script and "unavailable" not in script)


def test_corrected_errors_where_they_are_watched():
    """Counted since the first look."""
    found = hpu(
        "step 0: ecc corrected 5 times; step 1: ecc corrected 2 times; step 2: ecc corrected",
        2,
        max_new_corrected_ecc=2,
    )
    assert [one.status for one in found] == [S.HEALTHY, S.HEALTHY, S.DEGRADED]


def test_an_hpu_that_is_not_there():
    """Hidden, or never there."""
    with SoftwareHPU():
        outcome = health.HpuDeviceCheck(device="simulated:1").run(CLOCK)
    assert (outcome.status, outcome.message.split(":")[0]) == (S.CRITICAL, "simulated")


@pytest.mark.parametrize(("share", "status"), [(0.5, S.HEALTHY), (0.92, S.DEGRADED), (0.96, S.CRITICAL)])
def test_memory_is_judged_by_what_this_process_has_allocated(share, status):
    """Before it has acquired the device nothing is said: a device that is reserved as a whole is no fault."""
    check = health.HpuDeviceCheck(device="simulated:0")
    with SoftwareHPU(memory=1 << 30):
        assert "memory_allocated_bytes" not in check.run(CLOCK).figures
        with device.acquire("simulated:0") as own, own.allocate(int(share * (1 << 30))):
            outcome = check.run(CLOCK)
        assert "memory_allocated_bytes" not in check.run(CLOCK).figures
    assert outcome.status is status
    assert outcome.figures["memory_allocated_bytes"] == pytest.approx(share * (1 << 30), rel=1e-3)


def test_status_of_a_real_device_is_the_drivers(tmp_path, monkeypatch):
    """From its file in sysfs, in lower case."""
    node = tmp_path / "dev/accel/accel0"
    node.parent.mkdir(parents=True)
    node.touch()
    folder = tmp_path / "sys/class/accel/accel0/device"
    folder.mkdir(parents=True)
    (folder / "module_id").write_text("0\n")
    (folder / "status").write_text("In reset\n")
    monkeypatch.setenv("PATH", "")
    (there,) = device.devices("hpu:0", root=tmp_path, environment={})
    assert there.telemetry().status == "in reset"
    monkeypatch.setattr("gaudi3_rt._providers.all_devices", lambda: [there])
    check = health.HpuDeviceCheck()
    outcome = check.run(CLOCK)
    check.close()
    assert (outcome.status, outcome.message) == (S.CRITICAL, "its status is: in reset")


# File systems


def space(free, total=1000, inodes=(500, 1000)):
    """What a file system says of itself."""
    return SimpleNamespace(
        f_frsize=1 << 20, f_blocks=total + 50, f_bfree=free + 50, f_bavail=free, f_files=inodes[1], f_favail=inodes[0]
    )


@pytest.mark.parametrize(
    ("found", "settings", "status"),
    [
        (space(500), {}, S.HEALTHY),
        (space(100), {}, S.DEGRADED),
        (space(20), {}, S.CRITICAL),
        (space(500), {"min_free_bytes": 501 << 20}, S.CRITICAL),
        (space(500), {"min_free_bytes": 500 << 20}, S.HEALTHY),
        (space(20), {"free_warning_ratio": None, "free_critical_ratio": None}, S.HEALTHY),
        (space(500, inodes=(50, 1000)), {}, S.DEGRADED),
        (space(0, total=0, inodes=(0, 0)), {}, S.HEALTHY),
    ],
)
def test_space(found, settings, status, tmp_path, monkeypatch):
    """As ``df`` counts it: what is reserved for root is not free."""
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    outcome = health.FileSystemCheck(path=tmp_path, writable=False, **settings).run(CLOCK)
    assert outcome.status is status, outcome
    if found.f_frsize * found.f_bavail:
        assert outcome.figures["free_bytes"] == found.f_bavail << 20
        assert outcome.figures["total_bytes"] == 1000 << 20


def test_a_real_folder_is_written_to_and_nothing_is_left(tmp_path, monkeypatch):
    """Neither there nor in the kernel's table of open files."""
    written = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: written.append(options) or real(**options))
    check = health.FileSystemCheck(path=tmp_path, free_warning_ratio=None, free_critical_ratio=None)
    before = psutil.Process().num_fds()
    assert check.run(CLOCK).status is S.HEALTHY
    assert written[0]["dir"] == str(tmp_path)
    assert (list(tmp_path.iterdir()), psutil.Process().num_fds()) == ([], before)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_written_to(number, tmp_path, monkeypatch):
    """The message says why, and not where."""

    def refuse(**_):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    outcome = health.FileSystemCheck(path=tmp_path).run(CLOCK)
    assert outcome.status is S.CRITICAL
    assert os.strerror(number) in outcome.message
    assert str(tmp_path) not in outcome.message
    assert outcome.detail == str(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    """Nor is a file one."""
    (tmp_path / "file").touch()
    for name, words in (("gone", "No such file"), ("file", "Not a directory")):
        outcome = health.FileSystemCheck(path=tmp_path / name).run(CLOCK)
        assert outcome.status is S.CRITICAL
        assert words in outcome.message


# The machine


def test_the_machine_as_it_is():
    """Plausible figures, and only such as were measured."""
    figures = health.SystemResourcesCheck().run(CLOCK).figures
    assert 0 < figures["memory_used_bytes"] < figures["memory_total_bytes"]
    assert figures["cpus"] == os.cpu_count()
    assert figures["open_files"] > 2
    assert 0 <= figures.get("cpu_utilization_ratio", 0) <= 1


@pytest.mark.parametrize(
    ("share", "group", "status", "words"),
    [
        (0.5, None, S.HEALTHY, "memory 50 %"),
        (0.91, None, S.DEGRADED, "memory 91 %"),
        (0.98, None, S.CRITICAL, "memory 98 %"),
        (0.5, (99, 100), S.CRITICAL, "container's memory 99 %"),
        (0.5, (10, 100), S.HEALTHY, "memory 50 %"),
    ],
)
def test_memory_of_machine_and_container(share, group, status, words, monkeypatch):
    """Whichever is nearer to its end."""
    memory = SimpleNamespace(total=1000, available=1000 - int(share * 1000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0, used=0))
    monkeypatch.setattr("gaudi3_rt.health._system.group_memory", lambda: group)
    outcome = health.SystemResourcesCheck(open_files_warning_ratio=None, open_files_critical_ratio=None).run(CLOCK)
    assert outcome.status is status
    assert words in outcome.message
    assert "swap_used_bytes" not in outcome.figures


def test_memory_of_a_group_is_its_working_set(tmp_path):
    """Of the group with the least limit, without files that nobody has touched lately; versions 1 and 2."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "7").mkdir(parents=True)
    inner = cgroup / "pod/container"
    inner.mkdir(parents=True)
    for folder, limit, current, idle in ((cgroup / "pod", 1000, 900, 100), (inner, 500, 400, 150)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {idle}\n")
    (proc / "7/cgroup").write_text("0::/pod/container\n")
    assert group_memory(7, proc=proc, cgroup=cgroup) == (250, 500)
    old = cgroup / "memory/box"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("800\n")
    (old / "memory.usage_in_bytes").write_text("700\n")
    (old / "memory.stat").write_text("total_inactive_file 50\n")
    (proc / "7/cgroup").write_text("4:memory:/box\n")
    assert group_memory(7, proc=proc, cgroup=cgroup) == (650, 800)
    (proc / "7/cgroup").write_text("0::/other\n")
    assert group_memory(7, proc=proc, cgroup=cgroup) is None


# Processes


def test_a_heartbeat_that_stops(monkeypatch):
    """Before the first beat nothing is missed, nor after the end."""
    clock = FakeClock()
    own = health.Heartbeat(clock)
    monkeypatch.setattr("gaudi3_rt.health._process.heartbeat", lambda _: own)
    check = health.ProcessCheck(heartbeat="loop", stale_warning_seconds=10, stale_critical_seconds=60)
    seen = []
    for seconds, beats in ((1000, False), (0, True), (9, False), (1, False), (50, False), (1, True)):
        clock.advance(seconds)
        if beats:
            own.beat()
        seen.append(check.run(clock).status)
    assert seen == [S.HEALTHY, S.HEALTHY, S.HEALTHY, S.DEGRADED, S.CRITICAL, S.HEALTHY]
    own.stop()
    clock.advance(1000)
    assert check.run(clock).status is S.HEALTHY


def test_steps_are_beats():
    """While a monitor watches; the end of the run ends it. Beats of a name are the same everywhere."""
    own = health.heartbeat("training")
    own.stop()
    with health.HealthMonitor([health.ProcessCheck(stale_critical_seconds=60)]):
        assert own.last is None
        events.emit(events.StepCompleted, step=1, seconds=0.1)
        assert own.age_seconds is not None
        events.emit(events.RunFinished, step=1, outcome="completed")
        assert own.last is None
    for thread in threading.enumerate():  # of a look that has only just begun
        if thread.name.startswith("health of"):
            thread.join(30)
    events.emit(events.StepCompleted, step=2, seconds=0.1)
    assert own.last is None
    assert health.heartbeat("training") is own is not health.heartbeat("other")


def test_a_file_that_another_process_writes_to(tmp_path):
    """By the time of its last change; before it is there nothing is missed."""
    file = tmp_path / "history.jsonl"
    check = health.ProcessCheck(heartbeat_file=file, stale_critical_seconds=60)
    assert check.run(CLOCK).status is S.HEALTHY
    file.touch()
    for age, status in ((0, S.HEALTHY), (59, S.HEALTHY), (60, S.CRITICAL), (-5, S.HEALTHY)):
        os.utime(file, (CLOCK.time() - age,) * 2)
        outcome = check.run(CLOCK)
        assert outcome.status is status
        assert str(tmp_path) not in outcome.message


def test_another_process(tmp_path):
    """There, stopped, ended but not collected, gone; and a file that holds no number."""
    file = tmp_path / "pid"
    check = health.ProcessCheck(pid_file=file)
    assert check.run(CLOCK).status is S.CRITICAL
    file.write_text("train.py\n")
    assert check.run(CLOCK).status is S.UNKNOWN
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        file.write_text(f"{process.pid}\n")
        assert check.run(CLOCK).status is S.HEALTHY
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert "stopped" in check.run(CLOCK).message
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert "ended" in check.run(CLOCK).message
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
    assert "not there" in check.run(CLOCK).message


# Settings


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (health.HpuDeviceCheck, {"device": "gpu:0"}, "a device such as hpu:0"),
        (health.HpuDeviceCheck, {"temperature_warning_celsius": 96}, "must be below temperature_critical_celsius=95"),
        (health.FileSystemCheck, {"path": "x", "free_warning_ratio": 0.01}, "must be above free_critical_ratio=0.02"),
        (health.FileSystemCheck, {"path": "x", "name": "/ckpt"}, "letters, digits"),
        (health.FileSystemCheck, {}, "Field required"),
        (health.ProcessCheck, {}, "give stale_warning_seconds or stale_critical_seconds"),
        (health.ProcessCheck, {"heartbeat": None}, "give a heartbeat, a heartbeat_file or a pid_file"),
        (health.ProcessCheck, {"heartbeat": "a", "pid_file": "x"}, "of another"),
        (health.HttpServiceCheck, {"url": "ftp://host/"}, "scheme"),
        (health.HttpServiceCheck, {"url": "http://bob:hunter2@host/"}, "user name or password"),
        (health.SystemResourcesCheck, {"memory": 1}, "Extra inputs"),
        (health.TcpServiceCheck, {"host": "x", "port": 0}, "greater than or equal to 1"),
        (health.NetworkCheck, {"timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense(kind, settings, words):
    """They are refused, without showing secrets."""
    with pytest.raises(ValidationError) as caught:
        kind(**settings)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
