"""What a configuration sets: levels, ranks, names of runs, other libraries; and nothing before it."""

import builtins
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
from _lines import Lines, logged

from gaudi3_rt import events, log
from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError
from gaudi3_rt.events import Event

own = logging.getLogger("gaudi3_rt.test")


@dataclass(frozen=True, kw_only=True)
class DeviceLost(Event):
    """A serious event."""

    log_level: ClassVar[int] = logging.ERROR
    device: str


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """A frequent event."""

    step: int


def test_nothing_is_written_before():
    """A library is silent until it is asked."""
    done = subprocess.run(
        [sys.executable, "-c", "import logging, gaudi3_rt; logging.getLogger('gaudi3_rt.x').error('x')"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == done.stderr == ""


def test_import_needs_no_structlog():
    """Modules that log do not need the extra."""
    code = "import sys, gaudi3_rt.log, gaudi3_rt.audit; print(sorted({'structlog', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "[]\n"


def test_without_structlog(monkeypatch):
    """The error names the extra."""
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "structlog":
            raise ModuleNotFoundError(name, name="structlog")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "gaudi3_rt.log._render", raising=False)
    monkeypatch.delattr("gaudi3_rt.log._render", raising=False)
    for call in (log.configure_logging, lambda: log.get_logger("train")):
        with pytest.raises(MissingConfigurationError, match=r'pip install "gaudi3_rt\[ops\]"'):
            call()


def test_argument_over_environment_over_default(monkeypatch):
    """Of level and format."""
    with log.configure_logging(stream=Lines()) as handle:
        assert (handle.level, handle.format) == (logging.INFO, "console")
    monkeypatch.setenv("GAUDI3_RT_LOG_LEVEL", "Error")
    monkeypatch.setenv("GAUDI3_RT_LOG_FORMAT", "json")
    with log.configure_logging(stream=Lines()) as handle:
        assert (handle.level, handle.format) == (logging.ERROR, "json")
    with log.configure_logging("console", 10, stream=Lines()) as handle:
        assert (handle.level, handle.format) == (logging.DEBUG, "console")


def test_level():
    """Entries below it are not written."""
    with logged("warning") as lines:
        own.info("no")
        log.get_logger("gaudi3_rt.test").info("no")
        own.warning("yes")
    assert lines.entry["event"] == "yes"


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ({"level": "loud"}, {}, "level 'loud' is no log level; use debug, info"),
        ({"format": "xml"}, {}, "format 'xml' is not known; use json or console"),
        ({}, {"GAUDI3_RT_LOG_LEVEL": "loud"}, "GAUDI3_RT_LOG_LEVEL 'loud'"),
        ({}, {"GAUDI3_RT_LOG_FORMAT": "xml"}, "GAUDI3_RT_LOG_FORMAT 'xml'"),
        ({}, {"RANK": "first"}, "RANK='first' has to be a number"),
        ({"max_bytes": 10, "backup_count": 0}, {}, "max_bytes=10, backup_count=0"),
        ({"max_bytes": -1}, {}, "max_bytes=-1"),
        ({"max_bytes": "5"}, {}, "max_bytes='5'"),
    ],
)
def test_wrong_values_change_nothing(options, environment, message, monkeypatch):
    """Not even the configuration that is in force."""
    with logged() as lines:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InvalidConfigurationError, match=re.escape(message)):
            log.configure_logging(**options)
        own.info("still")
    assert lines.entry["event"] == "still"


def test_configuring_again_replaces():
    """One line for each entry, in the new place."""
    first, second = Lines(), Lines()
    with log.configure_logging("json", stream=first) as before, log.configure_logging("json", stream=second):
        own.info("once")
        before.close()
        before.close()
        own.info("twice")
    assert first.getvalue() == ""
    assert [e["event"] for e in second.entries] == ["once", "twice"]


def test_loggers_of_get_logger():
    """Are written, made before or after; those of other libraries are not, nor is anything doubled."""
    root = logging.getLogger()
    early = log.get_logger("train")
    theirs = io.StringIO()
    handler = logging.StreamHandler(theirs)
    root.addHandler(handler)
    try:
        with logged() as lines:
            early.info("early")
            log.get_logger("train.data").info("late")
            logging.getLogger("other").error("not ours")
    finally:
        root.removeHandler(handler)
    assert [e["event"] for e in lines.entries] == ["early", "late"]
    assert theirs.getvalue() == "not ours\n"


def test_capture_foreign():
    """Other libraries and warnings, redacted and once; the root logger's own handlers are back afterwards."""
    with logged(capture_foreign=True) as lines:
        logging.getLogger("other").error("password=hunter22hunter")
        own.info("ours")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old thing", FutureWarning, stacklevel=1)
    assert [e["logger"] for e in lines.entries] == ["other", "gaudi3_rt.test", "py.warnings"]
    assert "hunter22" not in lines.getvalue()
    assert "old thing" in lines.entries[2]["event"]


@pytest.mark.parametrize("was_captured", [True, False])
def test_warnings_are_captured_as_before(was_captured):
    """Whoever had them in the log keeps them there when the configuration is closed."""
    with warnings.catch_warnings():
        logging.captureWarnings(was_captured)
        before = warnings.showwarning
        try:
            with logged(capture_foreign=True), logged(capture_foreign=True):
                assert warnings.showwarning is logging._showwarning
            assert warnings.showwarning is before
        finally:
            logging.captureWarnings(capture=False)


def test_ranks(monkeypatch, tmp_path):
    """Rank 0 only, unless all are asked for; then each has its file."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with logged(file=tmp_path / "a" / "train.log") as lines:
        own.error("silent")
    assert lines.getvalue() == ""
    assert list(tmp_path.iterdir()) == []
    with logged(file=tmp_path / "a" / "train.log", rank_zero_only=False) as lines:
        own.info("heard")
    assert lines.entry["rank"] == 3
    (file,) = (tmp_path / "a").iterdir()
    assert file.name == "train.rank3.log"
    assert json.loads(file.read_text())["event"] == "heard"
    monkeypatch.setenv("RANK", "0")
    with logged(file=tmp_path / "b.log") as lines:
        own.info("rank 0")
    assert (tmp_path / "b.log").exists()


def test_slurm(monkeypatch):
    """Where torchrun is not."""
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with log.configure_logging(stream=Lines()) as handle:
        assert (handle.rank, handle.run_id) == (2, "4711")


def test_handlers_that_others_add_stay():
    """Those on the package's logger, before and while it is configured."""
    logger = logging.getLogger("gaudi3_rt")
    before, during = logging.NullHandler(), logging.NullHandler()
    logger.addHandler(before)
    with logged():
        logger.addHandler(during)
    assert {before, during} < set(logger.handlers)
    logger.removeHandler(before)
    logger.removeHandler(during)


def test_a_run_id_is_made():
    """Of time and chance."""
    with log.configure_logging(stream=Lines()) as one:
        pass
    with log.configure_logging(stream=Lines()) as two:
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", two.run_id)
        assert one.run_id != two.run_id


def test_events_are_logged():
    """With their fields, at their kind's level, or the one that is asked for."""
    with logged("info") as lines:
        events.emit(DeviceLost, device="hpu:3")
        events.emit(StepDone, step=7)
    events.emit(StepDone, step=8)
    lost, done = lines.entries
    assert (lost["level"], lost["event"], lost["device"]) == ("error", "device_lost", "hpu:3")
    assert lost["logger"] == "gaudi3_rt.events"
    assert (done["level"], done["event"], done["step"]) == ("info", "step_done", 7)
    with logged("debug", events=False) as lines, log.subscribe(StepDone, levels={Event: "debug"}):
        events.emit(DeviceLost, device="hpu:3")
        events.emit(StepDone, step=7)
    assert (lines.entry["level"], lines.entry["event"]) == ("debug", "step_done")
    with pytest.raises(InvalidConfigurationError):
        log.subscribe(levels={Event: "loud"})
