"""What to say when memory cannot be allocated: which device, how much was asked for, and who holds the rest."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from typing_extensions import Self

from gaudi3_rt import _process_memory
from gaudi3_rt._units import bytes_text
from gaudi3_rt.errors import (
    Gaudi3RTError,
    HPUMemoryError,
    InsufficientMemoryError,
    ParameterValidationError,
    classify,
)
from gaudi3_rt.memory._owners import report
from gaudi3_rt.memory._report import MemoryReport
from gaudi3_rt.memory._sources import MemorySource

logger = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])

_ASKED_FOR = re.compile(r"(?:you tried to allocate |size ?::)(\d+)")
"""As torch writes it for the CPU (c10/core/impl/alloc_cpu.cpp), and Habana's bridge (device_memory.cpp, device.cpp)."""
_OF_OTHERS = frozenset({"shared_memory", "killed_out_of_memory"})
"""Rows of the classifier for memory that ran out in other processes: who holds what in this one does not explain it."""
_TOP_OWNERS = 3


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception says that memory could not be allocated, on the host or on a device."""
    return _kind(error) is not None


def _kind(error: BaseException) -> type[HPUMemoryError | InsufficientMemoryError] | None:
    """The error to raise instead."""
    if isinstance(error, torch.OutOfMemoryError):
        return HPUMemoryError
    if isinstance(error, Gaudi3RTError) or not isinstance(error, RuntimeError | MemoryError | OSError):
        return None
    # By its text: what an exception follows from may be a failure that was dealt with long ago.
    found = classify(f"{type(error).__name__}: {error}")
    if found.row in _OF_OTHERS:
        return None
    return next((kind for kind in (HPUMemoryError, InsufficientMemoryError) if issubclass(found.error, kind)), None)


def _asked_for(error: BaseException) -> int | None:
    """Bytes, if the failure says it."""
    found = _ASKED_FOR.search(str(error))
    return None if found is None else int(found[1])


class explain_oom(contextlib.ContextDecorator):  # noqa: N801 (used like a function)
    """Turns an allocation failure in a block, or in a plain or async function, into one that says who holds the memory.

    What is one, ``gaudi3_rt.errors.classify`` knows. Anything else passes through. The report is
    ``error.context["report"]``, a :class:`MemoryReport`, and is logged; ``held_bytes`` is the sum for each owner.

    Args:
        model: whose tensors are called by their names.
        optimizer: of it, or several.
        device: asked for its memory when it happens; None: this process where the host ran out, nothing elsewhere.

    Raises:
        HPUMemoryError: a device's memory is exhausted.
        InsufficientMemoryError: the host's memory is.
        ParameterValidationError: a generator function was decorated.
    """

    def __init__(
        self,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        device: MemorySource | None = None,
    ) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device

    def __call__(self, func: _Function) -> _Function:
        """Decorates a function, of which all that runs until its result is covered."""
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            msg = f"{func.__qualname__} is a generator, whose body runs later; write 'with explain_oom(...):' in it"
            raise ParameterValidationError(msg)
        if not inspect.iscoroutinefunction(func):
            return super().__call__(func)

        @functools.wraps(func)
        async def explained(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await func(*args, **kwargs)

        return cast("_Function", explained)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del kind, traceback
        failure = None if error is None else _kind(error)
        if error is not None and failure is not None:
            raise self._explained(failure, _asked_for(error)) from error

    def _explained(
        self, kind: type[HPUMemoryError | InsufficientMemoryError], asked_for: int | None
    ) -> HPUMemoryError | InsufficientMemoryError:
        on_host = kind is InsufficientMemoryError
        where = self._device.name if self._device is not None else "this host" if on_host else "the device"
        asked = "memory" if asked_for is None else bytes_text(asked_for)
        found = self._report(on_host=on_host)
        held = found.by_owner()
        holders = [f"{owner} {bytes_text(size)}" for owner, size in list(held.items())[:_TOP_OWNERS]]
        taken = ""
        if found.stats is not None:
            limit = "" if found.stats.limit is None else f" of {bytes_text(found.stats.limit)}"
            taken = f"; {bytes_text(found.stats.allocated)}{limit} are taken"
            where += " (simulated)" if found.stats.simulated else ""
        message = (
            f"{asked} could not be allocated on {where}{taken}; tensors are held by: {', '.join(holders) or 'none'}"
        )
        logger.error("%s\n%s", message, found)
        return kind(
            message,
            context={"requested_bytes": asked_for, "held_bytes": held, "report": found},
            suggestions=(
                "make the batch smaller, or accumulate gradients over several",
                "keep less for each parameter: gaudi3_rt.memory.plan shows what moments_dtype, master and others take",
                "look for tensors under 'other' that should be gone, such as losses kept with their graphs",
            ),
        )

    def _report(self, *, on_host: bool) -> MemoryReport:
        stats = None
        try:
            if self._device is not None:
                stats = self._device.memory_stats()
            elif on_host:
                stats = _process_memory.process_memory_stats()
        except Exception:  # a device that has just failed may not answer; the report is worth more
            logger.warning("the device could not be asked for its memory", exc_info=True)
        try:
            return report(model=self._model, optimizer=self._optimizer, stats=stats)
        except Exception:  # the failure that is being explained must not be hidden by another
            logger.warning("model and optimizer could not be looked through; their tensors are 'other'", exc_info=True)
            return report(stats=stats)
