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


_reductions: weakref.WeakSet[Joinable] = weakref.WeakSet()


def add(reduction: Joinable) -> None:
    """From now on it is asked, until it is removed or gone."""
    _reductions.add(reduction)


def remove(reduction: Joinable) -> None:
    """It is not asked any more."""
    _reductions.discard(reduction)


def join(params: Iterable[Tensor]) -> None:
    """Waits for the reductions of the gradients of these parameters."""
    if _reductions:
        listed = list(params)
        for reduction in list(_reductions):
            reduction.join_for(listed)
