"""Gradients that are still being reduced: whoever wants to read them asks here first."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Joinable(Protocol):
    """A reduction that can be waited for."""

    def join_for(self, params: Iterable[Tensor]) -> None:
        """Waits if one of these parameters belongs to it."""

    def has(self, param: Tensor) -> bool:
        """Whether this parameter belongs to it."""


_reductions: weakref.WeakSet[Joinable] = weakref.WeakSet()


def add(reduction: Joinable) -> None:
    """From now on it is asked, until it is removed or gone."""
    _reductions.add(reduction)


def remove(reduction: Joinable) -> None:
    """It is not asked any more."""
    _reductions.discard(reduction)


def is_reduced(param: Tensor) -> bool:
    """Whether this parameter belongs to one that is asked."""
    return any(reduction.has(param) for reduction in list(_reductions))


def join(params: Iterable[Tensor]) -> None:
    """Waits for the reductions of the gradients of these parameters."""
    if _reductions:
        listed = list(params)
        for reduction in list(_reductions):
            reduction.join_for(listed)
