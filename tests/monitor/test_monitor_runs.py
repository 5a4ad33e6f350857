"""How runs begin and end: outcomes, interrupts, ranks of a launcher, forked children."""

import importlib
import json
import os
import sys
import threading

import pytest
from _threads import begun_since
from _watching import of, watch

from gaudi3_rt import events
from gaudi3_rt.errors import HPUNotAvailableError, ParameterValidationError, UnrecognizedError
from gaudi3_rt.monitor import TrainingMonitor


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (ValueError("?"), "failed", UnrecognizedError.code),
        (ParameterValidationError("lr=-1"), "failed", ParameterValidationError.code),
        (
            RuntimeError("Device acquire failed. synStatus=20 [Device already acquired]"),
            "failed",
            HPUNotAvailableError.code,
        ),
        (KeyboardInterrupt(), "interrupted", None),
        (SystemExit(1), "interrupted", None),
    ],
)
def test_how_a_run_ends(clock, seen, error, outcome, code):
    """Said whatever happened, with what it means, and the next monitor can run."""
    with pytest.raises(type(error)), watch(clock) as monitor, monitor.step():
        raise error
    end = seen[-1]
    assert (end.outcome, end.error, end.code, end.step) == (outcome, type(error).__name__, code, 0)
    with watch(clock):
        pass
    assert (seen[-1].outcome, seen[-1].code) == ("completed", None)


def test_an_interrupt_while_a_run_begins(clock, seen, tmp_path):
    """Nothing of it is left: no thread, no hook, and the next monitor can run."""

    def interrupt(_):
        raise KeyboardInterrupt

    before = threading.enumerate()
    with events.subscribe(interrupt, events.RunStarted, inline=True), pytest.raises(KeyboardInterrupt):
        TrainingMonitor(tmp_path).__enter__()
    assert begun_since(before) == []
    assert seen[-1].outcome == "interrupted"
    with watch(clock) as monitor, monitor.step():
        pass
    assert (seen[-1].outcome, seen[-1].step) == ("completed", 1)


def test_ranks_of_a_launcher(clock, seen, monkeypatch, tmp_path):
    """Numbers and name of the run are torchrun's; the name is the folder's without one."""
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    with watch(clock, run_dir=tmp_path / "my run", straggler_share=None):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    with watch(clock):
        pass
    first, second = of(seen, events.RunStarted)
    assert (first.rank, first.local_rank, first.world_size, first.run_id) == (3, 1, 8, "my run")
    assert second.run_id == "job 7"
    assert [path.name for path in (tmp_path / "my run").iterdir()] == ["history-rank3.jsonl"]


def test_a_forked_child_is_not_the_rank(clock, tmp_path):
    """It is told so, writes nothing, and may run a monitor of its own."""
    with watch(clock, run_dir=tmp_path / "run") as monitor:
        with monitor.step():
            pass
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(ParameterValidationError, match="forked"):
                    monitor.step()
                monitor.__exit__(None, None, None)
                with watch(clock, run_dir=tmp_path / "other") as own, own.step():
                    pass
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = [
        [json.loads(line)["event"] for line in file.read_text().splitlines()]
        for file in sorted(tmp_path.rglob("*.jsonl"))
    ]
    assert lines == [["RunStarted", "StepCompleted", "RunFinished"]] * 2


@pytest.mark.parametrize(
    ("adapter", "missing", "install"),
    [
        ("huggingface", ("transformers",), "pip install transformers accelerate"),
        ("lightning", ("lightning", "lightning.pytorch", "pytorch_lightning"), "pip install lightning"),
    ],
)
def test_a_framework_that_is_not_installed(monkeypatch, adapter, missing, install):
    """Is named, with how to get it."""
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"gaudi3_rt.monitor.{adapter}", raising=False)
    with pytest.raises(ImportError, match=install):
        importlib.import_module(f"gaudi3_rt.monitor.{adapter}")
