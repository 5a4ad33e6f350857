"""Follows backward passes: which gradients are there, when a bucket is complete, and when a pass has ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gaudi3_rt.reduce._layout import Layout


class Owner(Protocol):
    """Who is told."""

    def _begin_pass(self, *, broken_off: bool) -> None:
        """The first gradient of a pass is there; an exception may have broken off the pass before."""

    def _begin_again(self) -> None:
        """A gradient of a bucket that was complete is there again, in the same pass: all will be sent anew."""

    def _send(self, bucket: int) -> None:
        """This bucket is complete, or backward has ended; they come in order."""

    def _end_pass(self) -> None:
        """Backward has ended, and all buckets were sent."""


class _End:
    """Called when a pass ends. Autograd alone holds it, so when it is gone the pass is over, well or badly."""

    def __init__(self, backward: Backward) -> None:
        self._backward = weakref.ref(backward)

    def __call__(self) -> None:
        backward = self._backward()
        if backward is not None:
            backward._end()


class Backward:
    """Hooks on parameters; at most one pass at a time.

    Args:
        params: the parameters.
        owner: who is told; not kept alive.
        overlap: tell of buckets during the pass, not only when it has ended.

    Attributes:
        paused: passes are not followed.
        has_begun: a pass has begun and not ended: it goes on, or an exception has broken it off.
        order: numbers of parameters as their gradients came; ``None`` where it is not asked for any more.
    """

    def __init__(self, params: Sequence[Tensor], owner: Owner, *, overlap: bool) -> None:
        self._owner = weakref.ref(owner)
        self._overlap = overlap
        self.paused = False
        self.order: list[int] | None = []
        self.has_begun = False
        self._running: weakref.ref[_End] | None = None
        self._waiting: list[int] = []  # gradients that each bucket still waits for
        self._next = 0  # bucket to be sent
        alive = weakref.ref(self)

        def watcher(number: int) -> Callable[[Tensor], None]:
            def complete(_: Tensor) -> None:
                backward = alive()
                if backward is not None and not backward.paused:
                    backward._complete(number)

            return complete

        self._handles: list[Any] = [
            param.register_post_accumulate_grad_hook(watcher(number))  # type: ignore[no-untyped-call]
            for number, param in enumerate(params)
        ]

    def lay_out(self, layout: Layout) -> None:
        """Takes other buckets."""
        self._layout = layout

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def forget(self) -> None:
        """Takes a pass that was broken off for one that never was."""
        self.has_begun, self._running = False, None

    @property
    def last_sent(self) -> int:
        """Number of the bucket that was sent last; -1 before the first."""
        return self._next - 1

    def _complete(self, number: int) -> None:
        """The gradient of a parameter is there."""
        owner = self._owner()
        if owner is None:
            return
        bucket = self._layout.bucket_of[number]
        if self._running is None or self._running() is None:
            self._expect_all()
            owner._begin_pass(broken_off=self.has_begun)
            self.has_begun = True
            end = _End(self)
            self._running = weakref.ref(end)
            torch.autograd.Variable._execution_engine.queue_callback(end)
        elif self._waiting[bucket] == 0:
            self._expect_all()
            owner._begin_again()
        self._waiting[bucket] -= 1
        if self.order is not None:
            self.order.append(number)
        if self._waiting[bucket] == 0 and self._overlap:
            self._send_complete(owner)

    def _end(self) -> None:
        """What is not complete by now was not used."""
        self.has_begun, self._running = False, None
        owner = self._owner()
        if owner is not None:
            self._waiting = [0] * len(self._waiting)
            self._send_complete(owner)
            owner._end_pass()

    def _expect_all(self) -> None:
        """Nothing of a pass is there yet."""
        self._waiting = [len(one.params) for one in self._layout.buckets]
        self._next = 0

    def _send_complete(self, owner: Owner) -> None:
        """Only what comes next, so that all ranks send buckets in one order."""
        while self._next < len(self._waiting) and self._waiting[self._next] == 0:
            self._next += 1
            owner._send(self._next - 1)
