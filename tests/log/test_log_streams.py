"""Entries on streams: that fail, are closed, replaced or missing, and terminals."""

import errno
import io
import json
import logging
import sys

from _lines import Lines

from gaudi3_rt import log
from gaudi3_rt.errors import InvalidConfigurationError

own = logging.getLogger("gaudi3_rt.test")


class Full(Lines):
    """A stream that takes nothing, for a while."""

    full = True

    def write(self, text):
        """Fails."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_stream_that_takes_nothing(capsys):
    """Is counted, said once, and tried again."""
    stream = Full()
    with log.configure_logging("json", stream=stream) as handle:
        for _ in range(3):
            own.info("lost")
        stream.full = False
        own.info("back")
        assert handle.failed == 3
    assert stream.entry["event"] == "back"
    said = capsys.readouterr().err
    assert said.count("No space left") == said.count("\n") == 1


def test_a_closed_stream():
    """Stops nothing."""
    stream = Lines()
    with log.configure_logging("json", stream=stream) as handle:
        stream.close()
        own.info("lost")
        assert handle.failed == 1


def test_standard_error_is_looked_up_at_each_entry(capsys):
    """As tests and notebooks replace it."""
    with log.configure_logging("json"):
        own.info("seen")
    assert json.loads(capsys.readouterr().err)["event"] == "seen"


def test_no_standard_error(monkeypatch):
    """As daemons have none: the log is set up, and losses are counted."""
    monkeypatch.setattr(sys, "stderr", None)
    with log.configure_logging("console") as handle:
        own.info("lost")
        assert handle.failed == 1


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self):
        """It is one."""
        return True


def test_console(monkeypatch):
    """For people: aligned, no colours without a terminal or with NO_COLOR, no control characters, advice below."""
    stream, terminal, plain = io.StringIO(), Terminal(), Terminal()
    with log.configure_logging("console", stream=stream):
        own.info("ev\x1b[31mil\ninjected", extra={"loss": 0.5, "step": 3})
        own.error("no device", extra={"error": _error()})
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "ev\\x1b[31mil\n    injected" in text
    assert "step=3 loss=0.5" in text
    assert "run_id" not in text
    assert "error='InvalidConfigurationError: bad' error.code=1001" in text
    assert text.endswith("\n      try: fix it\n")
    with log.configure_logging("console", stream=terminal):
        own.info("colours")
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    with log.configure_logging("console", stream=plain):
        own.info("none")
    assert "\x1b" not in plain.getvalue()


def _error():
    return InvalidConfigurationError("bad", suggestions=["fix it"])
