"""A history that grows too long: how short it stays, what is kept of it, and that nothing is lost on the way."""

import errno
import itertools
import logging
import os
import shutil

import pytest

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor import TrainingMonitor, iterate_history, read_history
from gaudi3_rt.monitor._history import HistoryWriter, history_path

LIMIT = 1 << 16
NEWEST = 150
"""Steps of these tests that take less than a quarter of the limit."""
PHASES = {"forward": 0.1, "backward": 0.2}


def writer(folder, limit=LIMIT, rank=0):
    """Without a thread: a record is written when the call returns."""
    return HistoryWriter(history_path(folder, rank), limit, lambda: 0.0)


def step(number, **fields):
    """A record of about 100 bytes."""
    return events.StepCompleted(time=1000.0 + number, step=number, seconds=1.0, **fields)


def attempt(start=0):
    """The beginning of one."""
    return events.RunStarted(run_id="a", rank=0, local_rank=0, world_size=1, start_step=start)


def stands_for(steps):
    """How many steps these are in all."""
    return sum(one.get("stands_for", 1) for one in steps)


@pytest.mark.parametrize("count", [500, 2000, 6000])
def test_a_long_run_is_there_from_its_first_step_to_its_last(tmp_path, count):
    """In a file that stays short: the newest one by one, the older ones evenly, each with how many it stands for."""
    history = writer(tmp_path)
    history(attempt())
    largest = 0
    for number in range(1, count + 1):
        history(step(number, samples=8, phases=PHASES))
        largest = max(largest, history._size)
    history.close()
    assert history.path.stat().st_size == history._size <= largest < 1.1 * LIMIT
    found = read_history(tmp_path)
    steps = found.steps()
    numbers = [one["step"] for one in steps]
    assert found.damaged_lines == 0
    assert numbers[-NEWEST // 2 :] == list(range(count - NEWEST // 2 + 1, count + 1))
    assert stands_for(steps) == count
    widest = max(after - before for before, after in itertools.pairwise([0, *numbers]))
    assert widest <= 8 * count / (LIMIT / 150)
    assert [after - before for before, after in itertools.pairwise([0, *numbers])] == [
        one.get("stands_for", 1) for one in steps
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["history-rank0.jsonl"]


def test_what_is_no_usual_step_is_kept(tmp_path):
    """Anomalies, checkpoints, skipped steps, the end of each attempt, and lines that nobody can read."""
    history = writer(tmp_path)
    history(attempt())
    os.write(history._file, b"what a crash left\n")
    wanted = []
    for number in range(1, 3001):
        rare = number % 300 == 7
        history(step(number, skipped=rare))
        if rare:
            wanted.append(number)
            history(events.NonFiniteGradient(step=number, skipped=True))
            history(events.CheckpointCompleted(step=number, seconds=1.0))
    history(events.RunFinished(step=3000, outcome="failed"))
    history(attempt(2900))
    for number in range(2901, 6001):
        history(step(number))
    history.close()
    found = read_history(tmp_path)
    for name in ("NonFiniteGradient", "CheckpointCompleted"):
        assert [one["step"] for one in found.of(name)] == wanted
    assert [one["step"] for one in found.of("StepCompleted") if one["skipped"]] == wanted
    assert found.damaged_lines == 1
    names = [one["event"] for one in found.records]
    assert (names[0], names.count("RunStarted"), names.count("RunFinished")) == ("RunStarted", 2, 1)
    last = found.records[names.index("RunFinished") - 1]
    assert (last["step"], last["event"]) == (3000, "StepCompleted")
    assert stands_for(found.of("StepCompleted")) == 6100


def test_samples_of_devices_are_thinned_alike(tmp_path):
    """Each device keeps some from all of the run."""
    history = writer(tmp_path)
    for number in range(1500):
        for index in (0, 1):
            device = f"simulated:{index}"
            history(
                events.DeviceSampled(time=10.0 * number + index, device=device, simulated=True, interval_seconds=10.0)
            )
    history.close()
    found = read_history(tmp_path).of("DeviceSampled")
    for index in (0, 1):
        times = [one["time"] for one in found if one["device"] == f"simulated:{index}"]
        assert times[0] < 10 * 64
        assert times[-1] == 10 * 1499 + index
        assert max(after - before for before, after in itertools.pairwise(times)) <= 10 * 64


def test_rare_samples_are_kept_among_many_steps(tmp_path):
    """What is dropped is what takes the room."""
    history = writer(tmp_path)
    for number in range(1, 4001):
        history(step(number))
        if number % 40 == 0:
            history(events.DeviceSampled(time=number / 4, device="cpu", simulated=False, interval_seconds=10.0))
    history.close()
    found = read_history(tmp_path)
    assert len(found.steps()) < 2000
    assert len(found.of("DeviceSampled")) == 100


def test_ranks_keep_the_same_steps(tmp_path):
    """Although their lines are not equally long: else no step would be told of by all."""
    for rank, phases in enumerate(({}, PHASES)):
        history = writer(tmp_path, rank=rank)
        for number in range(1, 3001):
            history(step(number, phases=phases, rank=rank))
        history.close()
    found = read_history(tmp_path)
    numbers = [{one["step"] for one in found.steps(rank)} for rank in (0, 1)]
    older = [{number for number in kept if number < 2500} for kept in numbers]
    assert len(older[0] & older[1]) >= 0.7 * min(map(len, older)) > 50


def test_attempts_one_after_the_other(tmp_path):
    """Each appends, whoever has thinned before; what was undone is undone."""
    done = 0
    for number in range(8):
        begin = max(done - 50, 0)
        options = {"start_step": begin, "history_bytes": LIMIT, "stall_seconds": None}
        with TrainingMonitor(tmp_path, **options) as monitor:
            for _ in range(450):
                with monitor.step(samples=number):
                    pass
        done = begin + 450
    assert history_path(tmp_path, 0).stat().st_size < 1.2 * LIMIT
    found = read_history(tmp_path)
    steps = found.steps()
    assert steps[-1]["step"] == done
    assert [one["start_step"] for one in found.of("RunStarted")] == [0, *range(400, done - 400, 400)]
    assert abs(stands_for(steps) - done) <= 8 * max(one.get("stands_for", 1) for one in steps)
    assert len(steps) < done / 2


def test_a_process_that_is_killed_while_it_thins(tmp_path):
    """At any time the folder has a whole history, and who goes on finishes the work."""
    history = writer(tmp_path / "run")
    states = 0
    for number in range(1, 1500):
        history(step(number))
        if history._thinning is None:
            continue
        states += 1
        crashed = tmp_path / f"crashed-{number}"
        shutil.copytree(tmp_path / "run", crashed)
        assert len(list(crashed.iterdir())) == 2
        assert stands_for(read_history(crashed).steps()) == number
        again = writer(crashed)
        assert len(list(crashed.iterdir())) == 1
        for more in range(1, 20):
            again(step(number + more))
        again.close()
        found = read_history(crashed)
        assert stands_for(found.steps()) == number + 19
        assert [file.stat().st_size < LIMIT for file in crashed.iterdir()] == [True]
    history.close()
    assert states > 3


def test_the_end_does_not_wait_for_it(tmp_path):
    """The history stays as it is, and the next attempt goes on with the work."""
    history = writer(tmp_path)
    number = 0
    while history._thinning is None:
        number += 1
        history(step(number))
    history.close()
    assert [path.name for path in tmp_path.iterdir()] == ["history-rank0.jsonl"]
    assert len(read_history(tmp_path).steps()) == number


def test_a_copy_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    """The history goes on and is whole, and is thinned when there is room."""
    history = writer(tmp_path)
    write, is_full = os.write, [True]

    def limited(descriptor, data):
        if is_full[0] and descriptor != history._file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", limited)
    number = 0
    while not caplog.messages:
        number += 1
        history(step(number))
    (message,) = caplog.messages
    assert "No space left" in message
    assert [path.name for path in tmp_path.iterdir()] == ["history-rank0.jsonl"]
    assert len(read_history(tmp_path).steps()) == number
    is_full[0] = False
    with caplog.at_level(logging.INFO):
        for more in range(2000):
            history(step(number + 1 + more))
    history.close()
    assert stands_for(read_history(tmp_path).steps()) == number + 2000
    assert history.path.stat().st_size < LIMIT
    (said,) = caplog.messages[1:]  # once
    assert f"{LIMIT} bytes" in said


def test_who_reads_meanwhile(tmp_path):
    """Has the records that there were when it began."""
    history = writer(tmp_path)
    for number in range(1, 400):
        history(step(number))
    reading = iterate_history(tmp_path)
    read = [next(reading)]
    inode = history.path.stat().st_ino
    while history.path.stat().st_ino == inode:
        number += 1
        history(step(number))
    read += reading
    history.close()
    assert [record["step"] for _, record in read][:399] == list(range(1, 400))
    assert None not in [record for _, record in read]


def test_a_link_to_another_disk_stays_one(tmp_path):
    """Its target is thinned, in its own folder."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    target = tmp_path / "disk" / "history"
    target.touch()
    history_path(tmp_path / "run", 0).symlink_to(target)
    history = writer(tmp_path / "run")
    for number in range(1, 2000):
        history(step(number))
    history.close()
    assert history.path.is_symlink()
    assert target.stat().st_size < LIMIT
    assert stands_for(read_history(tmp_path / "run").steps()) == 1999


def test_a_file_of_events_alone_grows(tmp_path):
    """They are worth more than the limit; the work is not done again and again."""
    history = writer(tmp_path)
    begun = 0
    for number in range(4000):
        is_idle = history._thinning is None
        history(events.CheckpointCompleted(step=number, seconds=1.0))
        begun += is_idle and history._thinning is not None
    history.close()
    assert len(read_history(tmp_path).of("CheckpointCompleted")) == 4000
    assert 1 < begun <= 4 * history.path.stat().st_size / LIMIT


def test_without_a_limit(tmp_path):
    """Every step is kept."""
    history = writer(tmp_path, None)
    for number in range(1, 2000):
        history(step(number))
    history.close()
    assert len(read_history(tmp_path).steps()) == 1999


@pytest.mark.parametrize("limit", [1000, 1e9, "1 GB"])
def test_limits_that_make_no_sense(limit):
    """Refused at once."""
    with pytest.raises(ParameterValidationError, match=r"^history_bytes="):
        TrainingMonitor(history_bytes=limit)
