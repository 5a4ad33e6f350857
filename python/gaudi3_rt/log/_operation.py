"""How long a piece of work took, and how it ended."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, TypeVar

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.log._context import bind
from gaudi3_rt.log._entry import FIELDS
from gaudi3_rt.log._levels import level_number

_log = logging.getLogger("gaudi3_rt.operation")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Block = AbstractContextManager[dict[str, Any]]


class Operation:
    """What :func:`operation` returns: for any number of ``with``, of one thread or task, or of calls as a decorator."""

    def __init__(self, begin: Callable[[], _Block]) -> None:
        self._begin = begin
        self._blocks: list[_Block] = []

    def __enter__(self) -> dict[str, Any]:
        block = self._begin()
        found = block.__enter__()
        self._blocks.append(block)
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return self._blocks.pop().__exit__(kind, error, tb)

    def __call__(self, function: _Function) -> _Function:
        """Decorates a plain or an async function, of which the time until its result is logged.

        Raises:
            ParameterValidationError: the function is a generator, whose call ends before its body begins.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            msg = (
                f"@operation(...) on the generator function {function.__qualname__} would time its creation only; "
                "write `with operation(...)` around the loop that consumes it"
            )
            raise ParameterValidationError(msg)
        logged: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def logged(*args: Any, **kwargs: Any) -> Any:
                with self._begin():
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def logged(*args: Any, **kwargs: Any) -> Any:
                with self._begin():
                    return function(*args, **kwargs)

        decorated: _Function = logged
        return decorated


def operation(
    name: str,
    *,
    level: int | str = logging.INFO,
    logger: logging.Logger = _log,
    clock: Callable[[], float] = time.perf_counter,
    **fields: Any,
) -> Operation:
    """Logs that a block begins (``debug``) and how it ended, with ``duration_seconds`` and ``status``.

    The status is ``ok``; ``failed``, at level ``error`` with the exception, which goes on; or ``cancelled``, when the
    block was left by a task's cancellation, an interrupt or a generator's end. Entries written inside have the field
    ``operation``. Also a decorator, for plain and async functions.

    Args:
        name: the text of both entries.
        level: of the entry at the end of a block that did not fail.
        logger: which of :mod:`logging` writes them.
        clock: seconds, from any beginning.
        **fields: written with both entries.

    Returns:
        A context manager that gives a dict, for what becomes known inside: the entry at the end has it too.

    Raises:
        InvalidConfigurationError: the level is none.
    """
    return Operation(functools.partial(_block, name, level_number(level), logger, clock, fields))


@contextmanager
def _block(
    name: str, number: int, logger: logging.Logger, clock: Callable[[], float], fields: dict[str, Any]
) -> Iterator[dict[str, Any]]:
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
