"""How long a piece of work took, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gaudi3_rt.log._context import bind
from gaudi3_rt.log._entry import FIELDS
from gaudi3_rt.log._levels import level_number

_log = logging.getLogger("gaudi3_rt.operation")


@contextmanager
def operation(
    name: str,
    *,
    level: int | str = logging.INFO,
    logger: logging.Logger = _log,
    clock: Callable[[], float] = time.perf_counter,
    **fields: Any,
) -> Iterator[dict[str, Any]]:
    """Logs that a block begins (``debug``) and how it ended, with ``duration_seconds`` and ``status``.

    The status is ``ok``; ``failed``, at level ``error`` with the exception, which goes on; or ``cancelled``, when the
    block was left by a task's cancellation, an interrupt or a generator's end. Entries written inside have the field
    ``operation``. Also a decorator.

    Args:
        name: the text of both entries.
        level: of the entry at the end of a block that did not fail.
        logger: which of :mod:`logging` writes them.
        clock: seconds, from any beginning.
        **fields: written with both entries.

    Yields:
        A dict for what becomes known inside: the entry at the end has it too.

    Raises:
        InvalidConfigurationError: the level is none.
    """
    number = level_number(level)
    found: dict[str, Any] = {}
    with bind(operation=name):
        logger.debug(name, extra={FIELDS: {**fields, "status": "started"}})
        begin = clock()

        def ended(level: int, status: str, **more: Any) -> None:
            times = {"duration_seconds": round(clock() - begin, 6), "status": status}
            logger.log(level, name, extra={FIELDS: {**fields, **found, **times, **more}})

        try:
            yield found
        except Exception as error:
            ended(logging.ERROR, "failed", error=error)
            raise
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit) as error:
            ended(number, "cancelled", reason=type(error).__name__)
            raise
        else:
            ended(number, "ok")
