"""The history of a run: what is in it, what is left of it after a crash or on a full disk, and how it is read."""

import errno
import json
import logging
import math
import os
import signal

import pytest

from gaudi3_rt import events
from gaudi3_rt.errors import InsufficientStorageError, ParameterValidationError
from gaudi3_rt.monitor import TrainingMonitor, read_history


def train(run_dir, losses, **options):
    """A run of one step for each loss."""
    with TrainingMonitor(run_dir, stall_seconds=None, **options) as monitor:
        for loss in losses:
            with monitor.step(samples=2) as step, step.phase("forward"):
                step.loss = loss


def lines(run_dir, rank=0):
    """The lines of a file, by a strict parser of JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    text = (run_dir / f"history-rank{rank}.jsonl").read_text(encoding="ascii")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_what_is_written(tmp_path):
    """Each event of the process, without what is unknown, in JSON that every parser takes."""
    run_dir = tmp_path / "runs" / "a"
    with TrainingMonitor(run_dir, run_id="a", stall_seconds=None) as monitor:
        with monitor.step(samples=2) as step, step.phase("forward"):
            step.loss = math.inf
        events.emit(events.TelemetryUnavailable, device="hpu:0", reason="token=ghp_" + "a1B2" * 9, simulated=True)
    started, stepped, infinite, telemetry, finished = lines(run_dir)
    assert started.keys() == {"event", "time", "run_id", "rank", "local_rank", "world_size", "start_step"}
    assert stepped.pop("time") < stepped.pop("seconds") + finished["time"]
    assert stepped.pop("phases").keys() == {"rest", "forward"}
    assert stepped == {
        "event": "StepCompleted",
        "step": 1,
        "samples": 2,
        "loss": "Infinity",
        "skipped": False,
        "rank": 0,
    }
    assert (infinite["event"], infinite["loss"]) == ("NonFiniteLoss", "Infinity")
    assert "ghp_" not in telemetry["reason"]
    assert finished["outcome"] == "completed"
    history = read_history(run_dir)
    assert history.of("StepCompleted")[0]["loss"] == math.inf
    assert (history.ranks, history.damaged_lines, history.files) == ((0,), 0, (run_dir / "history-rank0.jsonl",))


def test_a_run_that_goes_on(tmp_path):
    """Steps that were taken again count once, with their last figures; nothing is removed from the file."""
    train(tmp_path, [5.0, 4.0, 3.0, 2.0])
    train(tmp_path, [3.5, 2.5], start_step=2)
    train(tmp_path, [1.5], start_step=4)
    history = read_history(tmp_path)
    assert [(step["step"], step["loss"]) for step in history.steps()] == [(1, 5), (2, 4), (3, 3.5), (4, 2.5), (5, 1.5)]
    assert len(history.of("StepCompleted")) == 7
    assert [record["start_step"] for record in history.of("RunStarted")] == [0, 2, 4]


def test_a_killed_process(tmp_path):
    """What was written is there; a torn last line costs itself only, and the next run begins on a line of its own."""
    child = os.fork()
    if child == 0:
        try:
            with TrainingMonitor(tmp_path) as monitor:
                for _ in range(20):
                    with monitor.step():
                        pass
                for subscription in events._dispatch._table.subscriptions:
                    subscription.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    file = tmp_path / "history-rank0.jsonl"
    assert [record["event"] for record in lines(tmp_path)] == ["RunStarted", *20 * ["StepCompleted"]]
    os.truncate(file, file.stat().st_size - 30)
    history = read_history(tmp_path)
    assert (len(history.steps()), history.damaged_lines) == (19, 1)
    train(tmp_path, [1.0], start_step=19)
    history = read_history(file)
    assert (len(history.steps()), history.damaged_lines) == (20, 1)
    assert history.steps()[-1]["loss"] == 1.0


def test_damaged_files(tmp_path):
    """Whatever stands in a line, the others are read."""
    good = b'{"event":"StepCompleted","time":1.0,"step":1}\n'
    other = b'{"event":"StepCompleted","time":0.5,"step":1}\n'
    damaged = [b"\xff\xfe\n", b"null\n", b"[]\n", b'{"event":1,"time":1}\n', b'{"event":"A","time":"x"}\n', b"NaN\n"]
    (tmp_path / "history-rank0.jsonl").write_bytes(good + b"\n" + b"".join(damaged) + good[:-1])
    (tmp_path / "history-rank11.jsonl").write_bytes(other)
    (tmp_path / "history-rank1.jsonl.bak").write_bytes(good)
    history = read_history(tmp_path)
    assert history.damaged_lines == len(damaged)
    assert [record["recorded_by"] for record in history.records] == [11, 0, 0]
    assert [len(history.steps(rank)) for rank in (0, 11, 3)] == [1, 1, 0]
    for path in (tmp_path / "nothing", tmp_path / "nothing" / "history-rank0.jsonl"):
        with pytest.raises(ParameterValidationError, match=r"history-rank0\.jsonl"):
            read_history(path)


def test_records_wait_for_others(tmp_path, monkeypatch):
    """So that short steps do not each wake the thread that writes; the end of the run waits for nobody."""
    monkeypatch.setattr("gaudi3_rt.monitor._monitor._HISTORY_LINGER", 1000.0)
    with TrainingMonitor(tmp_path, stall_seconds=None) as monitor:
        for _ in range(3000):
            with monitor.step():
                pass
        assert read_history(tmp_path).records == ()
    assert len(read_history(tmp_path).steps()) == 3000


def test_a_file_system_that_is_full_at_the_end(tmp_path, monkeypatch, caplog):
    """NFS may say it as late as that: what ended the run is raised, and the rest is a warning."""
    close = os.close

    def full(descriptor):
        is_history = os.path.samestat(os.fstat(descriptor), (tmp_path / "history-rank0.jsonl").stat())
        close(descriptor)
        if is_history:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def fail():
        with TrainingMonitor(tmp_path, stall_seconds=None):
            raise KeyError

    monkeypatch.setattr(os, "close", full)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError) as caught:
        fail()
    assert caught.value.__context__ is None
    assert "history-rank0.jsonl may not be complete on the disk: Disk quota exceeded" in caplog.text


def test_a_full_disk(tmp_path, monkeypatch, caplog):
    """One warning, training goes on, and so does the history once there is room; a torn line is ended first."""
    file = tmp_path / "history-rank0.jsonl"
    write, room = os.write, [1000]

    def limited(descriptor, data):
        is_history = os.path.samestat(os.fstat(descriptor), file.stat())
        if not is_history:
            return write(descriptor, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: room[0]]
        room[0] -= len(part)
        return write(descriptor, part)

    monkeypatch.setattr(os, "write", limited)
    with caplog.at_level(logging.WARNING), TrainingMonitor(tmp_path, stall_seconds=None) as monitor:
        for number in range(60):
            if number == 50:
                for subscription in events._dispatch._table.subscriptions:
                    assert subscription.flush(30)
                room[0] = 1 << 20
            with monitor.step() as step:
                step.loss = float(number)
    assert monitor.completed == 60
    full, again = caplog.messages
    assert "No space left on device" in full
    assert "is written again" in again
    history = read_history(tmp_path)
    assert history.damaged_lines == 1
    assert [step["step"] for step in history.steps()][-10:] == list(range(51, 61))
    lost = 60 - len(history.steps())
    assert f"{lost} records" in again


@pytest.mark.parametrize("obstacle", ["a file", "a folder"])
def test_a_folder_that_cannot_be_used(tmp_path, obstacle):
    """Said at the start, and nothing is left running."""
    if obstacle == "a file":
        run_dir = tmp_path / "run"
        run_dir.touch()
    else:
        run_dir = tmp_path
        (tmp_path / "history-rank0.jsonl").mkdir()
    with pytest.raises(InsufficientStorageError, match="run_dir"), TrainingMonitor(run_dir):
        pass
    assert events._dispatch._table.subscriptions == ()
    with TrainingMonitor():
        pass
