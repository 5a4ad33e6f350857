"""Which entries are written, how, and where to."""

from __future__ import annotations

import logging
import os
import time
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from typing_extensions import Self

from gaudi3_rt import _config
from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError
from gaudi3_rt.events import Subscription
from gaudi3_rt.log._entry import EntryMaker
from gaudi3_rt.log._events import subscribe
from gaudi3_rt.log._handlers import FileSink, StreamSink, file_of_rank
from gaudi3_rt.log._levels import level_number

if TYPE_CHECKING:  # structlog comes with an extra
    from structlog.stdlib import BoundLogger

FORMATS = ("json", "console")
DEFAULT_LEVEL, DEFAULT_FORMAT = "info", "console"
OWN = "gaudi3_rt"
ROOT = ""

_active: LoggingHandle | None = None
_names: set[str] = {OWN}  # of the loggers that are ours to configure: the package's, and those that get_logger made


class LoggingHandle:
    """What :func:`configure_logging` set up; :meth:`close` undoes it. Also a context manager.

    Attributes:
        rank: of this process.
        run_id: of the run, as it is in every entry.
        level: number of the lowest level that is written.
        format: of the stream.
        file: where this process writes its entries; None if to no file.
    """

    def __init__(
        self,
        maker: EntryMaker,
        level: int,
        format_: str,
        sinks: list[StreamSink | FileSink],
        *,
        foreign: bool,
    ) -> None:
        self.rank, self.run_id, self.level, self.format = maker.rank, maker.run_id, level, format_
        self._sinks = sinks
        # Without any, logging's last resort would write what this rank is not to.
        self._handlers: list[logging.Handler] = [*sinks] or [logging.NullHandler()]
        self._foreign = foreign
        self._before: dict[str, tuple[int, bool, list[logging.Handler]]] = {}
        self._events: Subscription | None = None
        self._captures_warnings = False

    @property
    def file(self) -> Path | None:
        """Where this process writes its entries; None if to no file."""
        return next((Path(sink.baseFilename) for sink in self._sinks if isinstance(sink, FileSink)), None)

    @property
    def failed(self) -> int:
        """How many entries could not be written."""
        return sum(sink.failed for sink in self._sinks)

    def adopt(self, names: Iterable[str]) -> None:
        """Writes what these loggers log; all do it through the root logger if foreign ones are captured."""
        for name in [ROOT] if self._foreign else names:
            if name in self._before:
                continue
            logger = logging.getLogger(name)
            self._before[name] = (logger.level, logger.propagate, logger.handlers[:])
            if name == ROOT:
                logger.handlers.clear()
            else:
                logger.propagate = False
            logger.setLevel(self.level)
            for handler in self._handlers:
                logger.addHandler(handler)

    def open(self, *, events: bool) -> None:
        """Begins to write."""
        self.adopt(_names)
        if self._foreign:
            before = warnings.showwarning
            logging.captureWarnings(capture=True)
            self._captures_warnings = warnings.showwarning is not before  # else somebody did before, and goes on
        if events and self._sinks:
            self._events = subscribe()

    def close(self) -> None:
        """Puts loggers, warnings and events back as they were, and closes the file. Once is enough."""
        global _active  # noqa: PLW0603 (one at a time)
        if _active is self:
            _active = None
        if self._events is not None:
            self._events.close()
        if self._captures_warnings:
            logging.captureWarnings(capture=False)
            self._captures_warnings = False
        for name, (level, propagate, handlers) in self._before.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.propagate = propagate
            added_since = [one for one in logger.handlers if one not in {*handlers, *self._handlers}]
            logger.handlers[:] = [*handlers, *added_since]
        self._before.clear()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def configure_logging(
    format: Literal["json", "console"] | None = None,  # noqa: A002 (the field's word)
    level: int | str | None = None,
    file: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int = 100_000_000,
    backup_count: int = 5,
    rank_zero_only: bool = True,
    run_id: str | None = None,
    stream: TextIO | None = None,
    events: bool = True,
    capture_foreign: bool = False,
) -> LoggingHandle:
    """Writes what gaudi3_rt and the loggers of :func:`get_logger` log, with secrets masked, until the handle is closed.

    Calling it again replaces what the call before set up. Other libraries' loggers stay as they are, unless
    ``capture_foreign`` is set. What cannot be written (disk full, broken pipe) is counted and said once, and stops
    nothing.

    Args:
        format: of the stream: ``"json"``, one object a line, or ``"console"``, for people; default:
            ``GAUDI3_RT_LOG_FORMAT``, else ``"console"``.
        level: the lowest level that is written; default: ``GAUDI3_RT_LOG_LEVEL``, else ``"info"``.
        file: also written to, always as JSON. When every rank writes, ``train.log`` is ``train.rank3.log`` for rank 3.
        max_bytes: the file is rotated when it is as long; 0 for never.
        backup_count: how many rotated files are kept.
        rank_zero_only: ranks other than 0 write nothing. Ranks are ``RANK``, else ``SLURM_PROCID``.
        run_id: of every entry; default: ``TORCHELASTIC_RUN_ID``, else ``SLURM_JOB_ID``, else made from the time.
        stream: default: standard error, without colours if it is no terminal or ``NO_COLOR`` is set.
        events: events are written too, see :func:`subscribe`.
        capture_foreign: take over the root logger: other libraries' entries and Python's warnings are written too, with
            secrets masked, and the root logger's own handlers get nothing.

    Raises:
        MissingConfigurationError: structlog is not installed.
        InvalidConfigurationError: a value is not allowed, or another process writes the file. Nothing has changed then.
        OSError: the file cannot be opened. Nothing has changed then.
    """
    global _active  # noqa: PLW0603 (one at a time)
    number = _level(level)
    chosen = _format(format)
    are_counts = all(isinstance(count, int) and count >= 0 for count in (max_bytes, backup_count))
    if not are_counts or (max_bytes > 0 and backup_count == 0):
        msg = (
            f"max_bytes={max_bytes!r}, backup_count={backup_count!r}: give whole numbers above 0, or max_bytes=0 for "
            "no rotation"
        )
        raise InvalidConfigurationError(msg)
    try:
        rank, several = _config.rank(), _config.world_size() > 1
    except ValueError as error:
        raise InvalidConfigurationError(str(error)) from error
    maker = EntryMaker(rank, run_id or _config.run_id() or _new_run_id())
    render = _renderer()

    previous = _active
    sinks: list[StreamSink | FileSink] = []
    if rank == 0 or not rank_zero_only:
        console = StreamSink(stream)
        sinks.append(console)
        if chosen == "json":
            console.setFormatter(render.json_formatter(maker))
        else:
            colors = console.is_terminal() and not _config.no_color()
            console.setFormatter(render.console_formatter(maker, colors=colors, show_rank=not rank_zero_only))
        if file is not None:
            path = Path(file).absolute()
            if not rank_zero_only and (several or rank > 0):
                path = file_of_rank(path, rank)
            sink = _file_sink(path, max_bytes, backup_count, previous)
            sink.setFormatter(render.json_formatter(maker))
            sinks.append(sink)
    if previous is not None:
        previous.close()
    _active = LoggingHandle(maker, number, chosen, sinks, foreign=capture_foreign)
    _active.open(events=events)
    return _active


def get_logger(name: str, **fields: Any) -> BoundLogger:
    """A structured logger: ``get_logger("train").info("epoch done", loss=0.5)``; ``fields`` are in all its entries.

    It is structlog's in front of :func:`logging.getLogger`, and :func:`configure_logging` writes what it logs.

    Raises:
        MissingConfigurationError: structlog is not installed.
        InvalidConfigurationError: the name is that of the root logger, which ``capture_foreign`` takes over.
    """
    if logging.getLogger(name) is logging.getLogger():
        msg = f"get_logger({name!r}) is the root logger; name your module or program, as in get_logger(__name__)"
        raise InvalidConfigurationError(msg)
    logger: BoundLogger = _renderer().bound_logger(name, fields)
    if name != OWN and not name.startswith(f"{OWN}."):
        _names.add(name)
        if _active is not None:
            _active.adopt([name])
    return logger


def _renderer() -> Any:
    try:
        from gaudi3_rt.log import _render  # noqa: PLC0415 (structlog comes with an extra)
    except ModuleNotFoundError as error:
        if error.name != "structlog":
            raise
        msg = 'logging needs structlog; install it with: pip install "gaudi3_rt[ops]"'
        raise MissingConfigurationError(msg) from error
    return _render


def _level(level: int | str | None) -> int:
    if level is not None:
        return level_number(level)
    named = _config.log_level()
    return level_number(DEFAULT_LEVEL) if named is None else level_number(named, _config.LOG_LEVEL_VARIABLE)


def _format(wanted: str | None) -> str:
    source, chosen = "format", wanted
    if chosen is None:
        source, chosen = _config.LOG_FORMAT_VARIABLE, _config.log_format() or DEFAULT_FORMAT
    if chosen not in FORMATS:
        msg = f"{source} {chosen!r} is not known; use {' or '.join(FORMATS)}"
        raise InvalidConfigurationError(msg, context={"value": chosen, "allowed": list(FORMATS)})
    return chosen


def _file_sink(path: Path, max_bytes: int, backup_count: int, previous: LoggingHandle | None) -> FileSink:
    """The file, also if the configuration that is to be replaced holds it."""
    held = [sink for sink in (previous._sinks if previous else ()) if isinstance(sink, FileSink)]
    for sink in held:
        sink.unlock_file()
    try:
        return FileSink(path, max_bytes, backup_count)
    except BaseException:
        for sink in held:
            sink.lock_file()
        raise


def _new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
