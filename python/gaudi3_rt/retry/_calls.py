"""What can be called again: plain and async functions, and what else looks like one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gaudi3_rt.errors import ParameterValidationError


def name_of(function: Callable[..., Any]) -> str:
    """Qualified name, also of what has none of its own."""
    inner = getattr(function, "func", function)  # functools.partial
    return getattr(inner, "__qualname__", type(inner).__qualname__)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether ``function`` has to be awaited.

    Raises:
        ParameterValidationError: it cannot be called again: it is no function, or a generator, whose items were used
            before it failed.
    """
    if not callable(function):
        message = f"a function is needed, not {function!r:.100}; write the parentheses: @retry_on_failure()"
        raise ParameterValidationError(message)
    call = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    for one in (function, call):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            message = (
                f"{name_of(function)} is a generator: some of its items are used before it fails, so it cannot simply "
                "be called again. Put the decorator on the function that fetches one item"
            )
            raise ParameterValidationError(message)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def refuse_coroutine(result: Any, function: Callable[..., Any]) -> None:
    """A plain function that returns a coroutine has not run yet, so its errors would pass unseen.

    Raises:
        ParameterValidationError: ``result`` is a coroutine.
    """
    if inspect.iscoroutine(result):
        result.close()
        message = f"{name_of(function)} returns a coroutine; make it an async function, or use execute_with_retry_async"
        raise ParameterValidationError(message)
