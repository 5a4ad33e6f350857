"""Structured loggers: what structlog's give, whatever structlog is configured to do, and the time of an entry."""

import datetime as dt
import logging
import pickle

import pytest
import structlog
from _fuzz import examples
from _lines import Lines, logged
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import log
from gaudi3_rt.errors import InvalidConfigurationError
from gaudi3_rt.log._entry import _second, _timestamp

NAME = "gaudi3_rt.test"


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", "debug"), ("info", "info"), ("warning", "warning"), ("warn", "warning"), ("error", "error"),
        ("critical", "critical"), ("fatal", "critical"), ("exception", "error"),
    ],
)  # fmt: skip
def test_every_method(method, level):
    """Its level, the logger's fields before the call's, arguments, an exception where there is one."""
    with logged() as lines:
        logger = log.get_logger(NAME, job=1, phase="train").bind(phase="eval").unbind("job")
        try:
            float("bad")
        except ValueError:
            getattr(logger, method)("%d of %d", 1, 2, unit="steps", phase="test")
    entry = lines.entry
    assert (entry["level"], entry["event"], entry["unit"]) == (level, "1 of 2", "steps")
    assert list(entry)[7:] == ["phase", "unit", *(["error"] if method == "exception" else [])]
    assert entry["phase"] == "test"


def test_levels_by_number_and_entries_without_text():
    """As structlog has them."""
    with logged("info") as lines:
        logger = log.get_logger(NAME)
        logger.log(logging.WARNING, "by number")
        logger.info(loss=0.5)
        logger.debug("not written", loss=0.5)
        assert not logger.isEnabledFor(logging.DEBUG)
    first, second = lines.entries
    assert (first["level"], first["event"]) == ("warning", "by number")
    assert (second["event"], second["loss"]) == ("", 0.5)


def test_options_of_a_call_are_no_fields():
    """Also those that are bound."""
    with logged() as lines:
        logger = log.get_logger(NAME, exc_info=True)
        try:
            float("bad")
        except ValueError:
            logger.info("failed", stacklevel=1, stack_info=True, loss=0.5)
    entry = lines.entry
    assert entry["error"]["type"] == "ValueError"
    assert "test_log_structured.py" in entry["stack"]
    assert not {"exc_info", "stack_info", "stacklevel"} & set(entry)


def test_fields_of_one_entry_are_not_those_of_the_next():
    """What a logger has bound stays as it was."""
    with logged() as lines:
        logger = log.get_logger(NAME, job=1)
        logger.info("first", loss=0.5)
        logger.info("second")
        log.get_logger(NAME).info("third", loss=0.5)
        log.get_logger(NAME).info("fourth")
    assert [list(entry)[7:] for entry in lines.entries] == [["job", "loss"], ["job"], ["loss"], []]


def test_structlog_may_be_configured_for_others():
    """And a logger can be sent to another process."""

    def drop(*_):
        raise structlog.DropEvent

    with logged() as lines:
        before = log.get_logger(NAME, job=1)
        try:
            structlog.configure(processors=[drop], context_class=None)
            before.info("before")
            log.get_logger(NAME).bind(job=2).info("after")
        finally:
            structlog.reset_defaults()
        pickle.loads(pickle.dumps(before)).info("sent")  # noqa: S301 (our own)
    assert [(entry["event"], entry["job"]) for entry in lines.entries] == [("before", 1), ("after", 2), ("sent", 1)]


def test_a_stream_that_cannot_be_flushed():
    """As people write them to see output twice."""

    class Tee:
        written = ""

        def write(self, text):
            self.written += text

        def isatty(self):
            return False

    tee = Tee()
    with log.configure_logging("json", stream=tee) as handle:
        log.get_logger(NAME).info("done")
    assert '"event":"done"' in tee.written
    assert handle.failed == 0


@examples(400)
@given(st.one_of(st.floats(0, 4e9), st.integers(0, 4 * 10**9), st.integers(0, 10**15).map(lambda n: n / 2**20)))
def test_times_are_those_of_datetime(seconds):
    """To the microsecond, also where it makes a second full."""
    when = dt.datetime.fromtimestamp(seconds, dt.timezone.utc).isoformat(timespec="microseconds")
    assert _timestamp(seconds) == f"{when.removesuffix('+00:00')}Z"


def test_times_around_a_full_second():
    """One after another, back again, and no more remembered than needed."""
    times = [1.7e9 + offset / 1e7 for offset in (-6, -5, -4, 0, 4, 5, 6, 9_999_994, 9_999_996, -6)]
    shown = [_timestamp(one) for one in times]
    assert shown == [
        f"{dt.datetime.fromtimestamp(one, dt.timezone.utc).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
        for one in times
    ]
    assert shown[0] == shown[-1]
    for second in range(100):
        _timestamp(second)
    assert _second.cache_info().currsize <= _second.cache_info().maxsize


def test_names_of_fields_that_every_entry_has():
    """Their own come after, and the step is in its place."""
    lines = Lines()
    with log.configure_logging("json", stream=lines), log.bind(step=3):
        log.get_logger(NAME).info("a", rank=7, step=4, **{"fields.rank": 8})
    assert list(lines.entry)[5:] == ["step", "run_id", "fields.rank", "fields.fields.rank"]
    assert [lines.entry[name] for name in ("rank", "step", "fields.rank", "fields.fields.rank")] == [0, 4, 7, 8]


@pytest.mark.parametrize("name", ["", "root", None])
def test_no_logger_is_the_root_logger(name):
    """Other libraries' entries are nobody's to take over by the way."""
    handlers = logging.getLogger().handlers[:]
    with logged():
        with pytest.raises(InvalidConfigurationError, match="is the root logger; name your module"):
            log.get_logger(name)
        assert logging.getLogger().handlers == handlers
