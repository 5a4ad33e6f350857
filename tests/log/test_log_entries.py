"""What an entry says: its fields, errors, bound context, and no secret, whatever it is given."""

import asyncio
import datetime as dt
import itertools
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from _lines import Lines, logged
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import log
from gaudi3_rt._redact import MAX_CHARACTERS
from gaudi3_rt.errors import (
    Gaudi3RTError,
    HPUNotAvailableError,
    InvalidConfigurationError,
    ParameterValidationError,
)

PLANTED = "zq81-Hunter.22"
own = logging.getLogger("gaudi3_rt.test")


def test_the_fields_of_every_entry(monkeypatch):
    """Time in UTC, level, logger, text, rank, step, run."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    with logged() as lines:
        before = dt.datetime.now(dt.timezone.utc)
        own.warning("loss is %s", 0.5)
    entry = lines.entry
    assert list(entry) == ["timestamp", "level", "logger", "event", "rank", "step", "run_id"]
    assert entry["timestamp"].endswith("Z")
    assert 0 <= (dt.datetime.fromisoformat(entry["timestamp"][:-1] + "+00:00") - before).total_seconds() < 60
    assert {k: entry[k] for k in list(entry)[1:]} == {
        "level": "warning", "logger": "gaudi3_rt.test", "event": "loss is 0.5", "rank": 0, "step": None,
        "run_id": "job7",
    }  # fmt: skip


def test_fields_of_structured_loggers_and_of_extra():
    """Both ways; names of logging's own do not clash, and those of every entry stay."""
    with logged() as lines:
        log.get_logger("gaudi3_rt.test", job=1).bind(phase="train").info("done", loss=0.5, name="x", args=[1], level=3)
        own.info("done", extra={"loss": 0.5, "step": 4})
    first, second = lines.entries
    assert (first["job"], first["phase"], first["loss"], first["name"], first["args"]) == (1, "train", 0.5, "x", [1])
    assert (first["level"], first["fields.level"]) == ("info", 3)
    assert (second["loss"], second["step"]) == (0.5, 4)


def test_structured_loggers_write_positional_arguments_and_exceptions():
    """As structlog's do."""
    with logged() as lines:
        logger = log.get_logger("gaudi3_rt.test")
        logger.info("%d of %d", 1, 2, unit="steps")
        try:
            float("bad")
        except ValueError:
            logger.exception("failed", step=3)
        logger.debug("stack", stack_info=True)
    first, second, third = lines.entries
    assert (first["event"], first["unit"]) == ("1 of 2", "steps")
    assert (second["level"], second["step"], second["error"]["type"]) == ("error", 3, "ValueError")
    assert "test_log_entries.py" in third["stack"]


def test_errors():
    """Ours with code, context, advice and causes; others with type and text; all with their traceback."""
    with logged() as lines:
        try:
            try:
                open("/dev/no-such-device").close()  # noqa: PTH123 (fails)
            except OSError as cause:
                message = "none"
                raise HPUNotAvailableError(message, 8, suggestions=["wait"]) from cause
        except HPUNotAvailableError as error:
            own.exception("no device")
            log.get_logger("gaudi3_rt.test").error("again", error=error)
        own.error("other", extra={"error": KeyError("k")})
        own.error("text", extra={"error": "just text"})
    first, again, other, text = lines.entries
    for entry in (first, again):
        assert entry["error.code"] == entry["error"]["code"] == 2001
        assert entry["error"]["context"]["requested_devices"] == 8
        assert entry["error"]["suggestions"] == ["wait"]
        assert entry["error"]["causes"][0]["type"] == "FileNotFoundError"
        assert "HPUNotAvailableError: none" in entry["error"]["traceback"]
    assert other["error"] == {"type": "KeyError", "message": "'k'"}
    assert "error.code" not in other
    assert text["error"] == "just text"


def test_a_deep_traceback_keeps_its_end():
    """Where it was raised."""

    def recurse(n):
        return recurse(n - 1) if n else 1 / 0

    with logged() as lines:
        try:
            recurse(200)
        except ZeroDivisionError:
            own.exception("failed")
    assert "ZeroDivisionError" in lines.entry["error"]["traceback"]
    assert len(lines.entry["error"]["traceback"]) < 10_000


class Hostile:
    """Cannot be written."""

    def __str__(self):
        """Raises."""
        raise RuntimeError

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("%d steps", ("many",)),
        ("one", (1, 2)),
        ("%s", (Hostile(),)),
        (Hostile(), ()),
        (ValueError("x"), ()),
        ("100 %", ()),
        ("a\nb\r\u2028\x85\x00\ud800 \U0001f680 é", ()),
        ({"a": 1}, ()),
        ("%(a)s", ({"a": 1},)),
    ],
)
def test_any_message_is_one_line(message, args):
    """Nothing is lost, nothing raises, and readers of lines see one."""
    with logged() as lines:
        own.info(message, *args)
    assert len(lines.getvalue().splitlines()) == 1
    assert lines.getvalue().isascii()
    if isinstance(message, str) and not args:
        assert lines.entry["event"] == message


def test_any_value():
    """What JSON does not have is text, and sizes are bounded."""
    loop = []
    loop.append(loop)
    with logged() as lines:
        own.info("x", extra={"fields": [float("nan"), -float("inf"), {1: Hostile()}, loop, "y" * 10**6, 1 << 10**5]})
    entry = lines.entry
    assert entry["fields"][:2] == ["NaN", "-Infinity"]
    assert entry["fields"][3] == ["[cycle]"]
    assert len(lines.getvalue()) < MAX_CHARACTERS


@given(
    secret=st.text("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789-_.!", min_size=10, max_size=40),
    where=st.lists(
        st.sampled_from(["message", "args", "field", "nested", "bound", "error", "cause", "name", "run"]), min_size=1
    ),
    format_=st.sampled_from(["json", "console"]),
)
def test_no_planted_secret_is_written(secret, where, format_):
    """Wherever it is planted: also in tracebacks, names of loggers, and ids of runs."""
    secret = f"q{secret}q"
    text = f"password={secret}"
    lines = Lines()
    run_id = text if "run" in where else None
    with (
        log.configure_logging(format_, "debug", stream=lines, run_id=run_id),
        log.bind(**({"token": secret} if "bound" in where else {})),
    ):
        logger = logging.getLogger(f"gaudi3_rt.{text}" if "name" in where else "gaudi3_rt.test")
        fields = (
            {"api_key": secret}
            if "field" in where
            else {"x": [{"url": f"http://u:{secret}@h"}]}
            if "nested" in where
            else {}
        )
        error = Gaudi3RTError(text if "error" in where else "", context={"password": secret})
        error.__cause__ = ValueError(text if "cause" in where else "")
        message = f"{text} %s" if "message" in where else "failed %s"
        try:
            raise error
        except Gaudi3RTError:
            logger.exception(message, text if "args" in where else "", extra=fields)
    assert lines.getvalue()
    assert secret not in lines.getvalue()
    assert secret not in lines.getvalue().encode().decode("unicode_escape")


def test_errors_to_dict_has_no_planted_secret():
    """Nor has the error itself."""
    error = Gaudi3RTError(f"password={PLANTED}", context={"token": PLANTED, "url": f"http://u:{PLANTED}@h"})
    error.__cause__ = ValueError(f"secret={PLANTED}")
    assert PLANTED not in json.dumps(error.to_dict())


def test_bind():
    """From now on, or for a block, after which former values are back."""
    with logged() as lines:
        log.bind(step=1, epoch=2)
        with log.bind(step=5, phase="eval"):
            own.info("in")
            log.bind(extra=1)
        own.info("out")
        log.unbind("epoch", "unknown")
        own.info("less")
    inside, out, less = lines.entries
    assert (inside["step"], inside["epoch"], inside["phase"]) == (5, 2, "eval")
    assert (out["step"], out["extra"], "phase" in out) == (1, 1, False)
    assert "epoch" not in less
    assert log.context() == {"step": 1, "extra": 1}


def test_context_of_threads():
    """Theirs alone, unless what they run was wrapped; and what they bind ends there."""

    def work():
        seen = log.context()
        log.bind(step="of a thread")
        return seen

    with log.bind(step=3):
        carried = log.in_context(work)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(work).result() == {}
            assert [pool.submit(carried).result() for _ in range(2)] == 2 * [{"step": 3}]
        both = [threading.Thread(target=carried) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert log.context() == {"step": 3}


def test_context_of_tasks():
    """Inherited by tasks, and apart between them."""

    async def task(number, turn):
        log.bind(task=number)
        await turn.wait()
        return log.context()

    async def main():
        turn = asyncio.Event()
        log.bind(run=1)
        tasks = [asyncio.create_task(task(n, turn)) for n in range(3)]
        await asyncio.sleep(0)
        turn.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [{"run": 1, "task": n} for n in range(3)]
    assert log.context() == {}


def test_operation():
    """Begin at debug, end with duration and status; what is logged inside says where it was."""
    times = iter([10.0, 12.5])
    with logged() as lines, log.operation("save", clock=lambda: next(times), path="x") as found:
        found["bytes"] = 7
        own.info("inside")
    begin, inside, end = lines.entries
    assert (begin["level"], begin["status"], begin["path"]) == ("debug", "started", "x")
    assert inside["operation"] == "save"
    assert (end["level"], end["event"], end["status"]) == ("info", "save", "ok")
    assert (end["duration_seconds"], end["bytes"], end["path"]) == (2.5, 7, "x")


@pytest.mark.parametrize(
    ("raised", "level", "status"),
    [(HPUNotAvailableError("x"), "error", "failed"), (KeyboardInterrupt(), "info", "cancelled")],
)
def test_operation_that_does_not_end_well(raised, level, status):
    """The exception goes on."""

    @log.operation("work")
    def work():
        raise raised

    with logged("info") as lines, pytest.raises(type(raised)):
        work()
    entry = lines.entry
    assert (entry["level"], entry["status"]) == (level, status)
    assert entry.get("error.code") == getattr(raised, "code", None)
    assert log.context() == {}


def test_operation_around_async_functions():
    """From the call to the result, apart for each of the tasks that call it at once."""

    @log.operation("fetch", kind="shard")
    async def fetch(turn, value):
        log.bind(value=value)
        own.info("inside")
        await turn.wait()
        own.info("after waiting")
        return value

    async def main():
        turn = asyncio.Event()
        tasks = [asyncio.create_task(fetch(turn, value)) for value in range(2)]
        await asyncio.sleep(0)
        own.info("both wait")
        turn.set()
        return await asyncio.gather(*tasks)

    with logged("info") as lines:
        assert asyncio.run(main()) == [0, 1]
    assert fetch.__name__ == "fetch"
    said = [(e["event"], e.get("operation"), e.get("status"), e.get("value")) for e in lines.entries]
    assert said[:3] == [("inside", "fetch", None, 0), ("inside", "fetch", None, 1), ("both wait", None, None, None)]
    for value in range(2):
        assert said[3 + 2 * value :][:2] == [("after waiting", "fetch", None, value), ("fetch", "fetch", "ok", value)]


def test_operation_used_again_and_in_itself():
    """One object serves any number of blocks, one after another and one in another."""
    work = log.operation("work", clock=itertools.count().__next__)
    with logged() as lines:
        with work as outer, work as inner:
            outer["which"], inner["which"] = "outer", "inner"
        with work as last:
            last["which"] = "last"
    ended = [(e["which"], e["duration_seconds"]) for e in lines.entries if e["status"] == "ok"]
    assert ended == [("inner", 1), ("outer", 3), ("last", 1)]


def test_operation_on_generators():
    """What would time the creation of a generator is refused."""

    def plain():
        yield

    async def asynchronous():
        yield

    for function in (plain, asynchronous):
        with pytest.raises(ParameterValidationError, match=f"{function.__name__}.* around the loop that consumes it"):
            log.operation("work")(function)


def test_operation_with_a_wrong_level():
    """Is an error where it is written, not where it is called."""
    with pytest.raises(InvalidConfigurationError, match="level 'loud'"):
        log.operation("save", level="loud")
