"""What each path answers, and who may see it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

from gaudi3_rt.endpoints._http import Request, Response, answer, error
from gaudi3_rt.health import HealthReport

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

METRICS = "/metrics"
FORMAT_VERSION = 1
"""Of the JSON of ``/health/detailed``; a higher one when a key goes or changes its meaning."""
_ALLOWED = ("GET", "HEAD")
_NO_CHECKS = "this process has no health checks"
_log = logging.getLogger(__name__)


class HealthSource(Protocol):
    """Whoever knows how all is: a ``HealthMonitor``. It must not wait for anything."""

    def report(self) -> HealthReport:
        """What is known now."""
        ...


class Routes:
    """The answers of one server.

    Args:
        registry: what ``/metrics`` shows; None for no such page.
        health: what the others show; None for a process that is ready as long as it answers.
        token: what has to be sent as ``Authorization: Bearer``, but for bare liveness and readiness, whose bodies say
            one word; None for no token.
    """

    def __init__(self, registry: CollectorRegistry | None, health: HealthSource | None, token: str | None) -> None:
        self._registry, self._health, self._token = registry, health, token
        self._is_failing = False
        self._pages: dict[str, Callable[[Request], Response]] = {
            "/livez": self._alive,
            "/readyz": self._ready,
            "/ready": self._ready,
            "/health/ready": self._ready,
            "/health": self._status,
            "/health/detailed": self._detailed,
        }

    def paths(self) -> list[str]:
        """All that there are."""
        return [*self._pages, *([METRICS] if self._registry is not None else [])]

    def answer(self, request: Request) -> Response | None:
        """The answer; None for the metrics, which take a while: see :meth:`render`. Waits for nothing."""
        if request.path not in self.paths():
            return error(HTTPStatus.NOT_FOUND, f"there is no such page; there are {', '.join(self.paths())}")
        if request.method not in _ALLOWED:
            return error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", Allow=", ".join(_ALLOWED))
        if not self._may_see(request):
            return error(
                HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer ...", WWW_Authenticate="Bearer"
            )
        page = self._pages.get(request.path)
        if page is None:
            return None
        try:
            return page(request)
        except Exception:  # noqa: BLE001 (whatever a health source raises, the server goes on)
            self._log_once("health")
            return error(HTTPStatus.SERVICE_UNAVAILABLE, "health cannot be told")

    def render(self, request: Request) -> Response:
        """The metrics, in the format and encoding that the request wants."""
        from prometheus_client import make_wsgi_app  # noqa: PLC0415 (where there is a registry, it is there)

        if self._registry is None:
            return error(HTTPStatus.NOT_FOUND, "this process has no metrics")
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": METRICS,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        said: dict[str, str] = {}
        try:
            chunks = make_wsgi_app(self._registry)(environ, lambda _, headers: said.update(headers))
            body = b"".join(chunks)
        except Exception:  # noqa: BLE001 (a collector of the user's may raise anything)
            self._log_once("metrics")
            return error(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics cannot be collected; the log says why")
        self._is_failing = False
        return Response(HTTPStatus.OK, body, said.pop("Content-Type"), {**said, "Vary": "Accept, Accept-Encoding"})

    def _log_once(self, what: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.exception("%s cannot be served; said once until they can", what)

    def _may_see(self, request: Request) -> bool:
        is_bare = request.path in {"/livez", "/readyz", "/ready", "/health/ready"} and not _is_verbose(request)
        if self._token is None or is_bare:
            return True
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(sent.strip().encode("utf-8", "replace"), self._token.encode())
        return matches and scheme.lower() == "bearer"

    # The pages

    @staticmethod
    def _alive(_: Request) -> Response:
        """That this is answered is all that it says."""
        return answer(HTTPStatus.OK, {"alive": True})

    def _ready(self, request: Request) -> Response:
        if self._health is None:
            return answer(HTTPStatus.OK, {"ready": True})
        report = self._health.report()
        content: dict[str, Any] = {"ready": report.is_ready}
        if _is_verbose(request):
            checks = {one.check: one.status.value for one in report.results}
            content |= {"status": report.status.value, "checks": checks}
        return answer(_code(report), content)

    def _status(self, _: Request) -> Response:
        if self._health is None:
            return error(HTTPStatus.NOT_FOUND, _NO_CHECKS)
        report = self._health.report()
        return answer(_code(report), {"status": report.status.value, "ready": report.is_ready})

    def _detailed(self, _: Request) -> Response:
        if self._health is None:
            return error(HTTPStatus.NOT_FOUND, _NO_CHECKS)
        report = self._health.report()
        content: Mapping[str, Any] = {"version": FORMAT_VERSION, "ready": report.is_ready, **report.to_dict()}
        return answer(_code(report), content)


def _code(report: HealthReport) -> HTTPStatus:
    return HTTPStatus.OK if report.is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _is_verbose(request: Request) -> bool:
    return "verbose" in parse_qs(request.query, keep_blank_values=True, max_num_fields=100) if request.query else False
