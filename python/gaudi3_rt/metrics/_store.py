"""The figures of all metrics by their labels, bounded."""

from __future__ import annotations

import logging
import math
import threading
from bisect import bisect_left
from dataclasses import dataclass

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt.metrics._catalogue import BOUNDS, BY_NAME, DURATIONS, OTHER

LONGEST_LABEL = 128
"""Characters; what is longer is ``other``."""

_log = logging.getLogger(__name__)
Labels = tuple[str, ...]
Kept = tuple[Labels, float]
"""The labels under which something is kept, and its value now."""


@dataclass
class Distribution:
    """What a histogram has counted.

    Attributes:
        counts: by bucket, not cumulative; the last is the infinite one.
        sum: of all values.
    """

    counts: list[int]
    sum: float = 0.0

    def copy(self) -> Distribution:
        """As it is now."""
        return Distribution(self.counts.copy(), self.sum)


class Store:
    """Figures by names of the catalogue, without the prefix. Who writes gets what is kept.

    A label has as many values as the catalogue bounds it to. What is counted beyond that is counted under ``other``.
    What has no sum, such as a temperature, is left out there, which is logged once.

    Attributes:
        lock: for those who share it; they hold it for each call.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in BY_NAME}
        self._distributions: dict[str, dict[Labels, Distribution]] = {name: {} for name in BY_NAME}
        self._texts: dict[tuple[str, str], set[str]] = {}
        self._is_logged = False
        self._after_fork()
        reset_in_children(self)

    def _after_fork(self) -> None:
        """Also at the start."""
        self.lock = threading.Lock()

    def add(self, name: str, amount: float, *labels: str) -> Kept | None:
        """Counts. What is negative or not finite is no amount, and counts nothing."""
        if not 0 <= amount < math.inf:
            return None
        values = self._values[name]
        if labels not in values:
            labels = self._bounded(name, labels)
        value = values[labels] = values.get(labels, 0) + amount
        return labels, value

    def put(self, name: str, value: float | None, *labels: str) -> Kept | None:
        """Replaces a value: of a gauge, or of a counter that somebody else counts. None takes it away."""
        values = self._values[name]
        if value is None:
            values.pop(tuple(map(clean, labels)), None)
            return None
        if labels not in values:
            bounded = self._bounded(name, labels)
            if OTHER in bounded and OTHER not in labels:
                self._log_left_out(name)
                return None
            labels = bounded
        values[labels] = value
        return labels, value

    def observe(self, name: str, value: float, *labels: str) -> Kept | None:
        """Counts a duration in its bucket. What is negative or not finite is no duration."""
        if not 0 <= value < math.inf:
            return None
        distributions = self._distributions[name]
        found = distributions.get(labels)
        if found is None:
            labels = self._bounded(name, labels)
            found = distributions.setdefault(labels, Distribution([0] * (len(DURATIONS) + 1)))
        found.counts[bisect_left(DURATIONS, value)] += 1
        found.sum += value
        return labels, value

    def figures(self) -> dict[str, dict[Labels, float | Distribution]]:
        """Everything as it is now, by name, then by labels."""
        values: dict[str, dict[Labels, float | Distribution]] = {
            name: dict(found) for name, found in self._values.items() if found
        }
        for name, found in self._distributions.items():
            if found:
                values[name] = {labels: one.copy() for labels, one in found.items()}
        return values

    def _bounded(self, name: str, labels: Labels) -> Labels:
        """The labels under which this is kept."""
        known = zip(BY_NAME[name].labels, labels, strict=True)
        return tuple(self._bounded_text(name, label, clean(text)) for label, text in known)

    def _bounded_text(self, name: str, label: str, text: str) -> str:
        texts = self._texts.setdefault((name, label), set())
        if text not in texts:
            if len(texts) >= BOUNDS[label] or len(text) > LONGEST_LABEL:
                return OTHER
            if text != OTHER:
                texts.add(text)
        return text

    def _log_left_out(self, name: str) -> None:
        if not self._is_logged:
            self._is_logged = True
            _log.warning("%s: there are more values of %s than are exposed", name, ", ".join(BY_NAME[name].labels))


def clean(text: str) -> str:
    """A label that can be written: a lone surrogate, as in some file names, would break the whole exposition."""
    return text.encode("utf-8", "replace").decode()
