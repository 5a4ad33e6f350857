"""Figures of the catalogue as prometheus-client has them, with the label ``rank``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from gaudi3_rt.metrics._catalogue import CATALOGUE, PREFIX, RANK, Metric
from gaudi3_rt.metrics._store import Distribution, Labels

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

Figures = Mapping[str, Mapping[Labels, float | Distribution]]
"""By name without the prefix, then by values of the labels."""


def prometheus(part: str = "prometheus_client") -> Any:
    """The package.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(part)
    except ImportError as error:
        msg = 'metrics need prometheus-client; install it with: pip install "gaudi3_rt[ops]"'
        raise ImportError(msg) from error


class Exposition:
    """A collector of prometheus-client: whatever its sources have at the time of a scrape.

    Args:
        rank: of this process.
        *sources: each is asked for all its figures at every scrape; no two have the same metric.
    """

    def __init__(self, rank: int, *sources: Callable[[], Figures]) -> None:
        self._rank = str(rank)
        self._sources = sources

    def describe(self) -> list[Family]:
        """All families without samples, by which a registry sees that two collectors have the same names."""
        return [_family(metric) for metric in CATALOGUE]

    def collect(self) -> Iterator[Family]:
        """The families that have samples, in the catalogue's order."""
        figures: dict[str, Mapping[Labels, float | Distribution]] = {}
        for source in self._sources:
            figures.update(source())
        for metric in CATALOGUE:
            samples = figures.get(metric.name.removeprefix(PREFIX))
            if samples:
                yield self._filled(metric, samples)

    def _filled(self, metric: Metric, samples: Mapping[Labels, float | Distribution]) -> Family:
        family: Any = _family(metric)
        for labels, value in samples.items():
            everything = (self._rank, *labels)
            if isinstance(value, Distribution):
                family.add_metric(everything, _cumulative(metric.buckets, value.counts), value.sum)
            else:
                family.add_metric(everything, value)
        filled: Family = family
        return filled


def _family(metric: Metric) -> Family:
    core = prometheus("prometheus_client.core")
    kind = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }[metric.type]
    family: Family = kind(metric.name, metric.help, labels=(RANK, *metric.labels), unit=metric.unit)
    return family


def _cumulative(buckets: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    """Buckets as they are exposed, each with all below it."""
    bounds = [*(str(float(bound)) for bound in buckets), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))
