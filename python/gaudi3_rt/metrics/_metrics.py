"""The metrics of this process: what events, machine and health checks say, for Prometheus to scrape."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from typing_extensions import Self

from gaudi3_rt import _config, events
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics._catalogue import BOUNDS, HEALTH
from gaudi3_rt.metrics._exposition import Exposition, Figures, prometheus
from gaudi3_rt.metrics._store import Store, clean
from gaudi3_rt.metrics._system import System
from gaudi3_rt.metrics._translate import KINDS, forget_device, start, translate, truth

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FRESH_INTERVALS = 3
"""What a device said is taken away when so many of its intervals have passed without another word."""

LINGER = 1.0
"""Seconds for which an event may wait to be counted; a scrape does not wait for that."""
PATIENCE = 0.2
"""Seconds that a scrape waits until what was emitted before it is counted."""

_log = logging.getLogger(__name__)


class Metrics:
    """Counts what events say, while its block runs, and offers it in ``registry``.

    Events are counted in a thread of the subscription; the machine is read at the time of a scrape. Counters begin at 0
    in every process. A forked child counts for itself, and nobody scrapes it.

    Args:
        registry: of prometheus-client, to offer the metrics in; None for one of its own.
        rank: label of every sample; None for what torchrun or Slurm says.
        system: whether the machine's own figures are offered, or a :class:`System` that reads them.
        health: gives ``healthy``, ``degraded``, ``critical`` or ``unknown`` by name of check; asked at every scrape.
        capacity: how many events may wait to be counted. Those beyond are lost and show in ``events_dropped_total``.
        clock: what time it is.

    Raises:
        ImportError: prometheus-client is not installed.
        ParameterValidationError: the registry has metrics of these names, when the block is entered.

    Attributes:
        registry: the registry.
        health: as given; can be set later.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        rank: int | None = None,
        system: bool | System = True,
        health: Callable[[], Mapping[str, str]] | None = None,
        capacity: int = 4096,
        clock: Clock = time,
    ) -> None:
        self.registry: CollectorRegistry = prometheus().CollectorRegistry() if registry is None else registry
        self.health = health
        self.rank = _config.rank() if rank is None else rank
        self._capacity = capacity
        self._clock = clock
        self._versions = version("gaudi3_rt"), torch.__version__, platform.python_version()
        self._store = Store()
        self._due: dict[tuple[str, str], float] = {}
        self._is_health_failing = False
        self._pid = 0
        self._subscription: events.Subscription | None = None
        machine = System() if system is True else system
        self._exposition = Exposition(self.rank, self._counted, self._runtime, *([machine] if machine else []))

    def __enter__(self) -> Self:
        if self._subscription is not None:
            msg = "these metrics are being counted already; make others, or leave their with block first"
            raise ParameterValidationError(msg)
        try:
            self.registry.register(self._exposition)
        except ValueError as error:
            msg = f"the registry has metrics of these names already: {error}; give each Metrics a registry of its own"
            raise ParameterValidationError(msg) from error
        self._pid = os.getpid()
        with self._store.lock:
            start(self._store)
        try:
            self._subscription = events.subscribe(self._count, *KINDS, capacity=self._capacity, linger=LINGER)
        except BaseException:
            self.registry.unregister(self._exposition)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                subscription.close()
            finally:
                if os.getpid() == self._pid:  # a forked child's registry may be locked by a thread that it has not
                    self.registry.unregister(self._exposition)

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until what was emitted before is counted; whether it was within ``timeout`` seconds."""
        subscription = self._subscription  # the block may end meanwhile, in another thread
        return subscription is None or subscription.flush(timeout)

    def write_textfile(self, path: str | os.PathLike[str]) -> None:
        """Writes what a scrape would get into a file, which is replaced as a whole.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        prometheus().write_to_textfile(os.fspath(path), self.registry)

    def _count(self, event: events.Event) -> None:
        with self._store.lock:
            if isinstance(event, events.DeviceSampled):
                due = self._clock.monotonic() + FRESH_INTERVALS * event.interval_seconds
                self._due[event.device, truth(event.simulated)] = due
            translate(event, self._store)

    # What a scrape gets

    def _counted(self) -> Figures:
        """Counted from events; what devices said long ago is not what they would say now."""
        self.flush(PATIENCE)
        with self._store.lock:
            now = self._clock.monotonic()
            for labels in [labels for labels, due in self._due.items() if due < now]:
                del self._due[labels]
                forget_device(self._store, *labels)
            return self._store.figures()

    def _runtime(self) -> Figures:
        """Of this package."""
        return {
            "events_dropped_total": {(): events.dropped()},
            "build_info": {self._versions: 1},
            "health_status": self._statuses(),
        }

    def _statuses(self) -> dict[tuple[str, ...], float]:
        """Of the health checks. A word that is none of theirs is ``unknown``; checks that fail break no scrape."""
        if self.health is None:
            return {}
        try:
            found = dict(self.health())
        except Exception:  # noqa: BLE001 (whatever a check raises, the other metrics are scraped)
            if not self._is_health_failing:
                self._is_health_failing = True
                _log.exception("health cannot be read; it is left out of the metrics until it can")
            return {}
        self._is_health_failing = False
        first = list(found.items())[: BOUNDS["check"]]
        return {(clean(name),): HEALTH.get(str(status).lower(), HEALTH["unknown"]) for name, status in first}
