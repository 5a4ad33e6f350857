"""Metrics as a file: always whole, one for each rank, gone when the run is."""

import os
import threading

import pytest
from _scrape import PREFIX
from _threads import refuse
from prometheus_client.parser import text_string_to_metric_families

from gaudi3_rt import events, metrics
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics import _textfile

LONG = 30.0  # seconds until a test gives up; none waits for it


def steps_in(path):
    """What the file says, and that it is whole."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    found = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return found.get(f"{PREFIX}training_steps_total", 0)


@pytest.fixture
def written(monkeypatch):
    """Is set whenever a file was written."""
    event, write = threading.Event(), metrics.Metrics.write_textfile

    def writes(self, path):
        try:
            write(self, path)
        finally:
            event.set()

    monkeypatch.setattr(metrics.Metrics, "write_textfile", writes)

    def wait():
        assert event.wait(LONG)
        event.clear()

    return wait


def test_one_file_for_each_rank_while_it_runs(tmp_path, written):
    """And none when it has ended: its last figures would be exposed for ever."""
    with metrics.Metrics(system=False, rank=2) as counted:
        with metrics.TextfileWriter(counted, tmp_path, interval_seconds=0.001) as writer:
            written()
            assert [path.name for path in tmp_path.glob("*.prom")] == ["gaudi3_rt_rank2.prom"]
            assert 'rank="2"' in writer.path.read_text()
            assert oct(writer.path.stat().st_mode)[-3:] == "644"
            with pytest.raises(ParameterValidationError, match="already running"):
                writer.__enter__()
            events.emit(events.StepCompleted, step=1, seconds=1.0)
            assert counted.flush(LONG)
            for _ in range(3):  # what was under way has not seen it
                written()
            assert steps_in(writer.path) == 1
        assert list(tmp_path.iterdir()) == []


def test_kept_with_the_last_figures(tmp_path):
    """Those of a short job, too."""
    with metrics.Metrics(system=False) as counted:
        with metrics.TextfileWriter(counted, tmp_path, interval_seconds=1000, keep=True) as writer:
            events.emit(events.StepCompleted, step=1, seconds=1.0)
        assert steps_in(writer.path) == 1


def test_a_reader_never_sees_half_a_file(tmp_path):
    """However often it is written."""
    path = tmp_path / "all.prom"
    with metrics.Metrics(system=False) as counted:
        counted.write_textfile(path)
        stop = threading.Event()

        def write():
            while not stop.is_set():
                events.emit(events.StepCompleted, step=1, seconds=1.0)
                counted.write_textfile(path)

        thread = threading.Thread(target=write)
        thread.start()
        seen = [steps_in(path) for _ in range(100)]
        stop.set()
        thread.join(LONG)
    assert seen == sorted(seen)
    assert [one.name for one in tmp_path.iterdir()] == ["all.prom"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("can't start new thread")], ids=["full", "no thread"]
)
def test_a_write_that_fails_does_not_end_it(tmp_path, written, caplog, monkeypatch, error):
    """Said once; written again when it can be."""

    def full(*_):
        raise error

    with metrics.Metrics(system=False) as counted, monkeypatch.context() as patch:
        patch.setattr("prometheus_client.write_to_textfile", full)
        with metrics.TextfileWriter(counted, tmp_path, interval_seconds=0.001) as writer:
            written()
            written()
            assert list(tmp_path.iterdir()) == []
            patch.undo()
            for _ in range(3):
                written()
            assert steps_in(writer.path) == 0
    assert caplog.text.count(f"cannot be written ({error}); it is tried again") == 1


def test_a_write_that_is_left_behind_leaves_no_file(tmp_path, monkeypatch, caplog):
    """When the file system answers again, after the end: node-exporter would expose it for ever."""
    begun, goes_on, write = threading.Event(), threading.Event(), metrics.Metrics.write_textfile

    def hangs(self, path):
        begun.set()
        assert goes_on.wait(LONG)
        write(self, path)

    monkeypatch.setattr(metrics.Metrics, "write_textfile", hangs)
    monkeypatch.setattr(_textfile, "LAST", 0.001)
    with metrics.Metrics(system=False) as counted:
        with metrics.TextfileWriter(counted, tmp_path) as writer:
            assert begun.wait(LONG)
            thread = writer._thread
        assert "it is left behind" in caplog.text
        goes_on.set()
        thread.join(LONG)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_removed(tmp_path, written, caplog):
    """Does not hide what ended the run."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def fail():
        with (
            metrics.Metrics(system=False) as counted,
            metrics.TextfileWriter(counted, folder, interval_seconds=1000) as writer,
        ):
            written()
            writer.path.unlink()
            writer.path.mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "gaudi3_rt_rank0.prom cannot be removed: " in caplog.text


def test_without_a_thread_it_has_not_begun(tmp_path, monkeypatch):
    """And can begin later."""
    with metrics.Metrics(system=False) as counted:
        writer = metrics.TextfileWriter(counted, tmp_path, keep=True)
        with monkeypatch.context() as patch:
            refuse(patch, "metrics as a file")
            with pytest.raises(RuntimeError, match="can't start new thread"):
                writer.__enter__()
        with writer:
            pass
    assert writer.path.exists()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_the_file_alone(tmp_path, written):
    """Also when it leaves the block."""
    with (
        metrics.Metrics(system=False) as counted,
        metrics.TextfileWriter(counted, tmp_path, interval_seconds=1000) as writer,
    ):
        written()
        child = os.fork()
        if child == 0:
            writer.__exit__(None, None, None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert writer.path.exists()


@pytest.mark.parametrize("interval", [0, float("nan"), float("inf")])
def test_arguments(tmp_path, interval):
    """Are checked before anything starts."""
    counted = metrics.Metrics(system=False)
    with pytest.raises(ParameterValidationError, match="must be a number of seconds above 0"):
        metrics.TextfileWriter(counted, tmp_path, interval_seconds=interval)
    with pytest.raises(ParameterValidationError, match=r"is no folder; give node-exporter's"):
        metrics.TextfileWriter(counted, tmp_path / "missing")
