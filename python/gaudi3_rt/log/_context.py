"""What is known around a log entry (step, epoch, request), bound once and written with every entry."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from typing_extensions import Self

_P = ParamSpec("_P")
_R = TypeVar("_R")
_ABSENT = object()
_bound: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("gaudi3_rt_log", default={})  # noqa: B039 (never changed)


class Binding:
    """What :func:`bind` did; as a context manager it gives these names their former values back at the end."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        before = _bound.get()
        self._before = {name: before.get(name, _ABSENT) for name in fields}
        _bound.set({**before, **fields})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        now = {**_bound.get(), **self._before}
        _bound.set({name: value for name, value in now.items() if value is not _ABSENT})


def bind(**fields: Any) -> Binding:
    """Gives every entry these fields, from now on, or for the block of a ``with``.

    What is bound belongs to this thread and this asyncio task, and is inherited by tasks that they start. A new thread
    begins with nothing bound, unless what it runs was wrapped by :func:`in_context`.
    """
    return Binding(fields)


def unbind(*names: str) -> None:
    """Writes these fields no more; those that are not bound are ignored."""
    _bound.set({name: value for name, value in _bound.get().items() if name not in names})


def context() -> dict[str, Any]:
    """What is bound here and now."""
    return dict(_bound.get())


def in_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets other threads call a function with what is bound here and now.

    ``Thread(target=in_context(work))``, ``executor.submit(in_context(work), item)``. Every call begins with what was
    bound when it was wrapped, and what it binds itself ends with it.
    """
    captured = contextvars.copy_context()

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return captured.copy().run(function, *args, **kwargs)

    return call
