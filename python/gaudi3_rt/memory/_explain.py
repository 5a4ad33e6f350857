"""What to say when memory cannot be allocated: which device, how much was asked for, and who holds the rest."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Sequence
from types import TracebackType

import torch
from typing_extensions import Self

from gaudi3_rt import _process_memory
from gaudi3_rt.errors import Gaudi3RTError, HPUMemoryError, InsufficientMemoryError
from gaudi3_rt.memory._format import bytes_text
from gaudi3_rt.memory._owners import report
from gaudi3_rt.memory._report import MemoryReport
from gaudi3_rt.memory._sources import MemorySource

logger = logging.getLogger(__name__)

_HOST = (
    re.compile(
        r"DefaultCPUAllocator: (?:can't allocate memory: you tried to allocate (?P<bytes>\d+) bytes|not enough)"
    ),
    re.compile(r"std::bad_alloc"),
)
"""What torch raises for the CPU: c10/core/impl/alloc_cpu.cpp."""
_HPU = (
    re.compile(r"Allocation failed for size::(?P<bytes>\d+)"),
    re.compile(r"workspace Allocation of size ::(?P<bytes>\d+)"),
)
"""What Habana's bridge raises: backend/synapse_helpers/device_memory.cpp and device.cpp of gaudi-pytorch-bridge."""
_TOP_OWNERS = 3


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception says that memory could not be allocated, on the host or on a device."""
    return _kind(error) is not None


def _kind(error: BaseException) -> tuple[type[HPUMemoryError | InsufficientMemoryError], int | None] | None:
    """The error to raise instead, and the bytes that were asked for."""
    if isinstance(error, Gaudi3RTError):
        return None
    text = str(error)
    for kind, patterns in ((InsufficientMemoryError, _HOST), (HPUMemoryError, _HPU)):
        for pattern in patterns:
            found = pattern.search(text)
            if found is not None and isinstance(error, RuntimeError | MemoryError):
                size = found.groupdict().get("bytes")
                return kind, None if size is None else int(size)
    if isinstance(error, MemoryError):
        return InsufficientMemoryError, None
    if isinstance(error, torch.OutOfMemoryError):
        return HPUMemoryError, None
    return None


class explain_oom(contextlib.ContextDecorator):  # noqa: N801 (used like a function)
    """Turns an allocation failure in a block, or in a function, into an error that says who holds the memory.

    Anything else passes through. The report is ``error.context["report"]``, a :class:`MemoryReport`, and is logged.

    Args:
        model: whose tensors are called by their names.
        optimizer: of it, or several.
        device: asked for its memory when it happens; None: this process where the host ran out, nothing elsewhere.

    Raises:
        HPUMemoryError: a device's memory is exhausted.
        InsufficientMemoryError: the host's memory is.
    """

    def __init__(
        self,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        device: MemorySource | None = None,
    ) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del kind, traceback
        failure = None if error is None else _kind(error)
        if failure is not None:
            raise self._explained(*failure) from error

    def _explained(
        self, kind: type[HPUMemoryError | InsufficientMemoryError], size: int | None
    ) -> HPUMemoryError | InsufficientMemoryError:
        on_host = kind is InsufficientMemoryError
        where = self._device.name if self._device is not None else "this host" if on_host else "the device"
        asked = "memory" if size is None else bytes_text(size)
        found = self._report(on_host=on_host)
        holders = [f"{owner} {bytes_text(held)}" for owner, held in list(found.by_owner().items())[:_TOP_OWNERS]]
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
            context={"requested_bytes": size, "report": found},
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
        return report(model=self._model, optimizer=self._optimizer, stats=stats)
