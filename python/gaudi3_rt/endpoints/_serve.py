"""One call that makes a run observable: metrics, devices, health checks, and the server that shows them."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Self

from gaudi3_rt import _providers, health
from gaudi3_rt._show import show
from gaudi3_rt.endpoints._address import BACKLOG, choose_port, is_exposed, listen, require_bound, urls
from gaudi3_rt.endpoints._routes import HealthSource, Routes
from gaudi3_rt.endpoints._server import Limits, Server
from gaudi3_rt.endpoints._token import read_token
from gaudi3_rt.errors import ParameterValidationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gaudi3_rt.metrics import Metrics

_log = logging.getLogger(__name__)


def serve(
    metrics: CollectorRegistry | Metrics | Literal[False] | None = None,
    health: HealthSource | Literal[False] | None = None,
    port: int | None = None,
    host: str = "localhost",
    token: str | None = None,
    *,
    token_file: str | os.PathLike[str] | None = None,
    listener: socket.socket | None = None,
    allow_unauthenticated: bool = False,
    interval_seconds: float = 10.0,
    linger_seconds: float = 0.0,
    limits: Limits | None = None,
) -> Endpoints:
    """Shows metrics and health of this process over HTTP while the block runs.

    What is not given is made, and lives as long as the block: metrics of all events, a sampler of the devices, and
    :func:`gaudi3_rt.health.create_default_hpu_health_checks`. Devices are those that this process has acquired
    before, else all that there are.

    Args:
        metrics: a registry of prometheus-client, or a :class:`gaudi3_rt.metrics.Metrics`; False for no ``/metrics``.
        health: a :class:`gaudi3_rt.health.HealthMonitor`, or whatever has its ``report()``; False for none, then the
            process is ready as long as it answers.
        port: exactly this one; 0 for no endpoints: then nothing is started. None: ``GAUDI3_RT_METRICS_PORT``, else
            9200, each plus the number of this process on its machine.
        host: ``localhost`` is 127.0.0.1 and ::1, which nobody else can reach.
        token: has to be sent as ``Authorization: Bearer`` for all but bare liveness and readiness.
        token_file: a file with the token.
        listener: a TCP socket that is bound already, in place of host and port, whether it listens yet or not; the
            server closes it. A test binds one to port 0, a service manager hands one over.
        allow_unauthenticated: without a token, let other machines read all that is shown.
        interval_seconds: between looks at devices and checks that are made here.
        linger_seconds: how long the end of the block waits for one more scrape, so that Prometheus sees how the run has
            ended: somewhat more than its scrape interval. Not where an exception ends the block.
        limits: what a client can have.

    Raises:
        ParameterValidationError: an argument is not allowed, or other machines could read without a token.
        InvalidConfigurationError: a variable or the token's file is wrong.
        ResourceError: on entering the block: the port is taken; the message says by whom if that can be seen.
        ImportError: on entering the block: metrics are wanted, and prometheus-client is not installed.
    """
    secret = read_token(token, token_file)
    if listener is not None:
        if port is not None:
            msg = "port and listener exclude each other: the listener has its port"
            raise ParameterValidationError(msg)
        number, chosen = -1, "listener="
    else:
        number, chosen = choose_port(port)
    if not 0 <= linger_seconds <= threading.TIMEOUT_MAX:
        msg = f"linger_seconds={show(linger_seconds)}: has to be a number of seconds, 0 or more"
        raise ParameterValidationError(msg)
    wanted = _Wanted(metrics, health, interval_seconds)
    return Endpoints(
        wanted,
        host,
        number,
        chosen,
        secret,
        listener,
        limits,
        allow_unauthenticated=allow_unauthenticated,
        linger_seconds=linger_seconds,
    )


class Endpoints:
    """What :func:`serve` returns; a context manager.

    Attributes:
        urls: where it answers, such as ``("http://127.0.0.1:9200", "http://[::1]:9200")``; empty before the block, and
            where the port is 0.
        health: the monitor that is shown, once the block runs; None if there is none.
        registry: the registry that is shown, once the block runs; None if there is none.
    """

    def __init__(
        self,
        wanted: _Wanted,
        host: str,
        port: int,
        chosen: str,
        token: str | None,
        listener: socket.socket | None,
        limits: Limits | None,
        *,
        allow_unauthenticated: bool,
        linger_seconds: float,
    ) -> None:
        self._wanted, self._host, self._port, self._chosen = wanted, host, port, chosen
        self._token, self._listener, self._limits = token, listener, limits
        self._allow_unauthenticated, self._linger_seconds = allow_unauthenticated, linger_seconds
        self._open: ExitStack | None = None
        self.urls: tuple[str, ...] = ()
        self.health: HealthSource | None = None
        self.registry: CollectorRegistry | None = None

    @property
    def url(self) -> str | None:
        """The first of ``urls``; None if there is none."""
        return self.urls[0] if self.urls else None

    def __enter__(self) -> Self:
        if self._open is not None:
            msg = "these endpoints are open already; call serve() again, or leave their with block first"
            raise ParameterValidationError(msg)
        if self._port == 0:
            _log.info("no endpoints: %s", self._chosen)
            self._open = ExitStack()
            return self
        with ExitStack() as stack:
            listeners = [self._listener] if self._listener is not None else self._bind()
            for one in listeners:
                stack.callback(one.close)
            if self._listener is not None:
                require_bound(self._listener)
            self._check_exposure(listeners)
            if self._listener is not None:
                self._listener.listen(BACKLOG)
            self.registry, self.health = self._wanted.enter(stack)
            server = Server(listeners, Routes(self.registry, self.health, self._token), self._limits)
            stack.callback(server.close)
            server.start()
            stack.push(self._linger(server))
            self.urls = urls(listeners)
            self._open = stack.pop_all()
        _log.info("endpoints: %s (%s)", ", ".join(self.urls), self._chosen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._open, self.urls = self._open, None, ()
        if opened is not None:
            opened.__exit__(kind, error, traceback)

    def _linger(self, server: Server) -> Callable[[type[BaseException] | None, object, object], None]:
        def wait(kind: type[BaseException] | None, *_: object) -> None:
            if kind is None and self._linger_seconds > 0 and self.registry is not None:
                server.wait_for_scrape(self._linger_seconds)

        return wait

    def _bind(self) -> list[socket.socket]:
        return listen(self._host, self._port, self._chosen)

    def _check_exposure(self, listeners: list[socket.socket]) -> None:
        """Other machines see nothing without a token, unless somebody has said that they may."""
        if self._token is not None or not is_exposed(listeners):
            return
        what = "all metrics of this run (loss, throughput, devices, machine) and the state of its health checks"
        if not self._allow_unauthenticated:
            msg = (
                f"host={self._host!r} would show {what} to every machine that can reach this one; give token_file= or "
                "token=, stay with host='localhost', or say allow_unauthenticated=True"
            )
            raise ParameterValidationError(msg)
        _log.warning("%s shows %s to every machine that can reach this one", ", ".join(urls(listeners)), what)


class _Wanted:
    """What is to be shown: given, or to be made."""

    def __init__(self, metrics: Any, health: Any, interval_seconds: float) -> None:
        self._metrics, self._health, self._interval_seconds = metrics, health, interval_seconds

    def enter(self, stack: ExitStack) -> tuple[CollectorRegistry | None, HealthSource | None]:
        """Registry and health; what is made is started, and ends with the stack."""
        source: Any = None if self._health is False else self._health
        if self._health is None:
            own = [device.name for device in _providers.all_acquired()]
            checks = health.create_default_hpu_health_checks(own or None)
            source = stack.enter_context(health.HealthMonitor(checks, self._interval_seconds))
        if self._metrics is False:
            return None, source
        if self._metrics is None:
            made = self._make_metrics(stack)
            if isinstance(source, health.HealthMonitor):
                made.health = source.statuses
            return made.registry, source
        return getattr(self._metrics, "registry", self._metrics), source

    def _make_metrics(self, stack: ExitStack) -> Metrics:
        from gaudi3_rt.device import DeviceSampler, devices  # noqa: PLC0415 (only where they are wanted)
        from gaudi3_rt.metrics import Metrics  # noqa: PLC0415

        made = stack.enter_context(Metrics())
        there = _providers.all_acquired() or [one for one in devices() if one.name != "cpu"]
        if there:
            stack.enter_context(DeviceSampler(there, interval_seconds=self._interval_seconds))
        return made
