"""What is read from histories, and the figures that are made of it, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from _histories import BEGIN, finished, lines, sample, started, step, write

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.events import CheckpointCompleted, NonFiniteLoss, StragglerDetected, TrainingStalled
from gaudi3_rt.report import facts, gather, summary


def test_steps_that_a_restart_made_undone_do_not_count(tmp_path):
    """They were taken again, with other losses, and one of them not again so far."""
    first = [started(), *(step(i, loss=100.0 + i, samples=1) for i in (1, 2, 3, 4))]
    again = [started(start_step=2, at=10.0), step(3, at=10.1, loss=3.0, samples=1)]
    waits = gather(write(tmp_path / "waits", {0: [*first, again[0]]}))
    assert waits.ranks[0].number.tolist() == [1, 2]
    run = gather(write(tmp_path, {0: [*first, *again]}))
    assert run.ranks[0].number.tolist() == [1, 2, 3]
    assert run.ranks[0].given["loss"].tolist() == [101, 102, 3]
    found = summary(run)
    assert (found["restarts"], found["steps"], found["last_step"], found["samples"]) == (1, 3, 3, 3)
    assert found["loss"] == pytest.approx((101 + 102 + 3) / 3)
    assert found["seconds"] == pytest.approx(10.1)


def test_older_steps_of_a_long_history_stand_for_others(tmp_path):
    """Totals and shares count these too, say so, and a restart makes them undone like others."""
    write(tmp_path, {0: [started(), *(step(i, samples=8, phases={"data": i / 10, "rest": 0.4}) for i in (2, 4, 5))]})
    file = tmp_path / "history-rank0.jsonl"
    first, two, four, five = file.read_text().splitlines()
    thinned = [one[:-1] + ',"stands_for":2}' for one in (two, four)]
    file.write_text("\n".join((first, *thinned, five, "")))
    found = summary(gather(tmp_path))
    assert (found["steps"], found["steps_kept"], found["last_step"], found["samples"]) == (5, 3, 5, 40)
    assert found["phases"]["data"] == pytest.approx((2 * 0.2 + 2 * 0.4 + 0.5) / (2 * 0.6 + 2 * 0.8 + 0.9))
    assert dict(facts(found))["history"].startswith("3 steps are kept")
    with file.open("a") as more:
        more.writelines(lines([started(start_step=3, at=10), step(4, samples=8)]))
    found = summary(gather(tmp_path))
    assert (found["steps"], found["steps_kept"], found["last_step"], found["samples"]) == (4, 2, 4, 32)


def test_a_phase_that_only_steps_had_that_are_undone(tmp_path):
    """Is no part of the time; the columns of phases that stay are as long as those of steps."""
    first = [started(), step(1, phases={"forward": 0.1}), step(2, phases={"forward": 0.1, "search": 0.5})]
    again = [started(start_step=1, at=5), step(2, phases={"data": 0.3}), step(2, phases={"data": 0.2})]
    run = gather(write(tmp_path, {0: [*first, *again]}))
    (steps,) = run.ranks.values()
    assert steps.number.tolist() == [1, 2]
    assert {name: np.nan_to_num(column).tolist() for name, column in steps.phases.items()} == {
        "forward": [0.1, 0],
        "data": [0, 0.2],
    }
    assert summary(run)["phases"] == {"data": pytest.approx(2 / 3), "forward": pytest.approx(1 / 3)}


def test_columns_of_a_run_that_began_anew(tmp_path):
    """From its first step on: of the first attempt nothing is left, also of what only it was given."""
    first = [started(), *(step(i, loss=1.0, samples=4, skipped=True) for i in (1, 2, 3))]
    run = gather(write(tmp_path, {0: [*first, started(at=9), step(1, at=10, tokens=7)]}))
    (steps,) = run.ranks.values()
    assert (steps.number.tolist(), steps.skipped.tolist(), steps.stands_for.tolist()) == ([1], [False], [1])
    assert np.isnan([steps.given["loss"], steps.given["samples"]]).all()
    assert (steps.time - BEGIN).tolist() == [10]
    found = summary(run)
    assert (found["samples"], found["tokens"], found["skipped_steps"], found["restarts"]) == (None, 7, 0, 1)


def test_throughput_is_of_all_ranks_by_the_slowest(tmp_path):
    """A step that one rank has not told of yet is left out: its samples are not nothing."""
    fast = [started(0, 2), *(step(i, 0.1, samples=8, tokens=80) for i in range(1, 7))]
    slow = [started(1, 2), *(step(i, 0.4, samples=8, tokens=80, rank=1) for i in range(1, 4))]
    found = summary(gather(write(tmp_path, {0: fast, 1: slow})))
    assert found["samples_per_second"] == pytest.approx(16 / 0.4)
    assert found["tokens_per_second"] == pytest.approx(160 / 0.4)
    assert found["slowest_rank"] == {"rank": 1, "step_seconds": pytest.approx(0.4)}
    assert found["samples"] == 72


def test_a_run_that_goes_on_with_fewer_ranks(tmp_path):
    """Steps of one rank count where only one is expected, and not where there should be two."""
    stays = [started(0, 2), step(1, 1.0, samples=8), step(2, 1.0, samples=8)]
    stays += [started(0, 1, start_step=2, at=5), step(3, 1.0, samples=8, at=6)]
    leaves = [started(1, 2), step(1, 1.0, samples=8, rank=1)]
    run = gather(write(tmp_path, {0: stays, 1: leaves}))
    assert run.expected_ranks(np.array([1, 2, 3])).tolist() == [2, 2, 1]
    assert run.world_size == 1
    assert summary(run)["samples_per_second"] == pytest.approx(np.median([16, 8]))


def test_shares_of_the_time(tmp_path):
    """Of all steps of all ranks, the largest first."""
    steps = [
        step(1, 1.0, phases={"data": 0.5, "forward": 0.5}),
        step(2, 3.0, phases={"data": 0.25, "forward": 2.75}),
    ]
    found = summary(gather(write(tmp_path, {0: [started(), *steps]})))
    assert found["phases"] == {"forward": pytest.approx(3.25 / 4), "data": pytest.approx(0.75 / 4)}
    assert list(found["phases"]) == ["forward", "data"]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([], "not finished"),
        ([finished(1, 2)], "not finished"),
        ([finished(1, 2), finished(1, 2, rank=1)], "completed"),
        ([finished(1, 2), finished(1, 2, 1, "failed", "RuntimeError", 9001)], "failed by RuntimeError (code 9001)"),
        ([finished(1, 2, 0, "interrupted", "KeyboardInterrupt")], "interrupted by KeyboardInterrupt"),
        ([finished(1, 2, 0, "failed", "E"), started(0, 2, 1, at=3)], "not finished"),
    ],
)
def test_outcome(tmp_path, ends, outcome):
    """Of the last attempt; the run is complete when all ranks say so."""
    begin = [started(0, 2), started(1, 2)]
    assert summary(gather(write(tmp_path, {0: [*begin, step(1, at=1.0), *ends]})))["outcome"] == outcome


def test_what_happened_is_told_once(tmp_path):
    """Two ranks report the same straggler; anomalies of different ranks stay apart."""
    straggler = {"step": 5, "rank": 1, "seconds": 2.0, "usual_seconds": 1.0}
    by_rank = {
        rank: [
            started(rank, 2),
            StragglerDetected(time=BEGIN + rank, reported_by=rank, **straggler),
            NonFiniteLoss(time=BEGIN + 2, step=6, rank=rank, loss=math.nan),
            CheckpointCompleted(time=BEGIN + 3, step=6, seconds=1.0, rank=rank),
        ]
        for rank in (0, 1)
    }
    run = gather(write(tmp_path, by_rank))
    assert [(one.kind, one.step, one.rank) for one in run.happenings] == [
        ("straggler", 5, 1),
        ("non_finite_loss", 6, 0),
        ("non_finite_loss", 6, 1),
    ]
    found = summary(run)
    assert found["anomalies"] == {"straggler": 1, "non_finite_loss": 2}
    assert found["checkpoints"] == 1


def test_what_nobody_measured_is_not_given(tmp_path):
    """No zero stands for it."""
    found = summary(gather(write(tmp_path, {0: [started(), step(1)]})))
    unknown = ("samples", "tokens", "loss", "samples_per_second", "tokens_per_second", "slowest_rank")
    assert [found[name] for name in unknown] == [None] * len(unknown)
    assert found["phases"] == found["peak_memory_bytes"] == found["anomalies"] == {}
    assert dict(facts(found))["loss at the end"] == "not given"


def test_a_run_without_a_step(tmp_path):
    """It has only begun."""
    found = summary(gather(write(tmp_path, {0: [started(at=1.0)]})))
    assert (found["steps"], found["last_step"], found["step_seconds"], found["seconds"]) == (0, None, None, 0)


def test_devices(tmp_path):
    """Peak by device; where the device says none, the most that was seen."""
    events = [
        started(),
        sample(1, memory_allocated_bytes=5, memory_peak_bytes=9),
        sample(2, memory_allocated_bytes=7, memory_peak_bytes=8),
        sample(1, "cpu", memory_allocated_bytes=3),
        sample(2, "cpu", memory_allocated_bytes=2, temperature_celsius=50.0),
    ]
    run = gather(write(tmp_path, {0: events}))
    assert summary(run)["peak_memory_bytes"] == {"cpu (rank 0)": 3, "simulated:0 (rank 0)": 9}
    assert {one.name: one.simulated for one in run.devices} == {"cpu": False, "simulated:0": True}
    cpu = next(one for one in run.devices if one.name == "cpu")
    assert np.isnan(cpu.readings["temperature_celsius"][0])
    assert cpu.readings["temperature_celsius"][1] == 50


def test_a_history_that_is_cut_off(tmp_path):
    """A process was killed in the middle of a line; the rest counts, and the figure is said."""
    write(tmp_path, {0: [started(), step(1), step(2)]})
    file = tmp_path / "history-rank0.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    found = summary(gather(tmp_path))
    assert (found["steps"], found["damaged_lines"]) == (1, 1)
    assert dict(facts(found))["damaged lines"] == "1 of the history could not be read"


@pytest.mark.parametrize("events", [None, [], [step(1), TrainingStalled(step=1, seconds=1.0, limit_seconds=1.0)]])
def test_folders_without_a_history(tmp_path, events):
    """The error names the folder."""
    if events is not None:
        write(tmp_path, {0: events})
    with pytest.raises(ParameterValidationError, match=tmp_path.name):
        gather(tmp_path)
