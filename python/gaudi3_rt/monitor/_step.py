"""One step as the training code sees it: its parts by time, and figures that belong to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor._values import Held, hold

REST = "rest"
"""Phase of what is in none."""


class Owner(Protocol):
    """What a step says of itself to its monitor."""

    def _open(self, step: Step) -> float: ...
    def _close(self, step: Step) -> None: ...
    def _discard(self, step: Step) -> None: ...


class _Figure:
    """An attribute that holds one number, or a tensor that is read later."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._slot = f"_{name}"

    def __get__(self, step: Any, owner: type | None = None) -> Any:
        return self if step is None else getattr(step, self._slot)

    def __set__(self, step: Any, value: Any) -> None:
        setattr(step, self._slot, hold(self._name, value))


class Step:
    """One optimizer step under way; made by :meth:`TrainingMonitor.step`, whose ``with`` block it is.

    Figures can be set until the block is left. Tensors are taken as they are then: the graph behind them is not kept,
    and those on a device are not waited for.

    Attributes:
        number: of the step, counted from 1 over the whole run.
        samples: how many it trains on, on this rank.
        tokens: how many it trains on, on this rank.
        loss: of the step.
        accuracy: 0 to 1.
        gradient_norm: before clipping, as ``clip_grad_norm_`` returns it.
        learning_rate: of the first parameter group.
        skipped: the parameters were left as they were; None if nobody said.
    """

    samples = _Figure()
    tokens = _Figure()
    loss = _Figure()
    accuracy = _Figure()
    gradient_norm = _Figure()
    learning_rate = _Figure()

    __slots__ = (
        "_accuracy",
        "_before",
        "_current",
        "_found_inf",
        "_gradient_norm",
        "_last",
        "_learning_rate",
        "_loss",
        "_monotonic",
        "_owner",
        "_phases",
        "_samples",
        "_seconds",
        "_start",
        "_suspect",
        "_thread",
        "_tokens",
        "number",
        "skipped",
    )

    def __init__(
        self, owner: Owner, monotonic: Callable[[], float], number: int, *, samples: Any = None, tokens: Any = None
    ) -> None:
        self._owner = owner
        self._monotonic = monotonic
        self.number = number
        self._seconds: float | None = None
        self._samples = hold("samples", samples)
        self._tokens = hold("tokens", tokens)
        self._loss: Held = None
        self._accuracy: Held = None
        self._gradient_norm: Held = None
        self._learning_rate: Held = None
        self._suspect: Held = None
        """Of this only whether it is finite counts: a loss in a scale of its own."""
        self._found_inf: Held = None
        """Not 0 if an optimizer was called and left the parameters as they were, as those of torch under AMP do."""
        self.skipped: bool | None = None
        self._phases: dict[str, float] = {}
        self._current = REST
        self._before: list[str] = []
        self._start = self._last = 0.0
        self._thread = 0

    def __enter__(self) -> Self:
        waited = self._owner._open(self)
        if waited:
            self._phases["data"] = waited
        self._thread = threading.get_ident()
        self._last = self._monotonic()
        self._start = self._last - waited
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._owner._discard(self)
            return
        self.stop()
        self._owner._close(self)

    def phase(self, name: str) -> Phase:
        """Counts the time of a ``with`` block as this phase.

        ``data``, ``forward``, ``backward``, ``optimizer``, ``checkpoint`` and ``communication`` have a meaning to
        others; any other name will do. A block inside another one is counted as its own phase only.
        """
        return Phase(self, name)

    def switch(self, name: str) -> None:
        """Counts the time from now on as this phase, for code that has no blocks, such as callbacks."""
        self._count()
        self._current = name

    def stop(self) -> None:
        """Lets the step's time end now; figures can still be set until the block is left."""
        if self._seconds is None:
            self._count()
            self._seconds = self._last - self._start

    def _count(self) -> None:
        now = self._monotonic()
        if self._seconds is None:
            phases, current = self._phases, self._current
            phases[current] = phases.get(current, 0.0) + now - self._last
            self._last = now

    def _move(self, name: str, seconds: float) -> None:
        """Of the time that was just counted, so much belongs to another phase."""
        self._count()
        phases = self._phases
        phases[self._current] -= seconds
        phases[name] = phases.get(name, 0.0) + seconds

    def _push(self, name: str) -> None:
        self._count()
        self._before.append(self._current)
        self._current = name

    def _pop(self, depth: int = -1) -> None:
        """Goes back to the phase around, or to the one that was ``depth`` phases deep."""
        self._count()
        self._current = self._before[depth]
        del self._before[depth:]


class Phase:
    """A part of a step; made by :meth:`Step.phase`."""

    __slots__ = ("_depth", "_name", "_step")

    def __init__(self, step: Step, name: str) -> None:
        self._step = step
        self._name = name
        self._depth = 0

    def __enter__(self) -> None:
        step = self._step
        if step._thread != threading.get_ident():
            msg = (
                f"phase {self._name!r} begins in a thread that is not in step {step.number}: a phase is entered inside "
                "the step's with block, in its thread"
            )
            raise ParameterValidationError(msg)
        self._depth = len(step._before)
        step._push(self._name)

    def __exit__(self, *_: object) -> None:
        self._step._pop(self._depth)


class Checkpoint:
    """A checkpoint being written; made by :meth:`TrainingMonitor.checkpoint`, whose ``with`` block it is.

    Attributes:
        bytes: its size, if you say it.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
