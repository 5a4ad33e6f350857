"""Does another service answer? Over HTTP, or by taking a TCP connection."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gaudi3_rt._forms import is_loopback, url_fault
from gaudi3_rt._protocols import Clock
from gaudi3_rt._redact import redact_text
from gaudi3_rt._section import RULE, AsInteger, AsList, PathText, Positive, Text, setting
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._status import HealthStatus, Outcome, Verdict

HttpStatus = Annotated[int, Field(ge=100, le=599), AsInteger]
_SUCCESS = range(200, 300)
_SHARE = 0.9
"""Of ``timeout_seconds``, what the network has: a check that needs all of it counts as hanging, whatever it finds."""


def _fit_to_ask(text: str) -> str:
    fault = url_fault(text, ("http", "https"))
    if fault is not None:
        raise PydanticCustomError(RULE, "{message}", {"message": f"the URL {fault}"})
    return text


class HttpServiceCheck(Check):
    """A service that answers over HTTP.

    A redirect is an answer and is not followed. Proxies of the environment are used as ``curl`` does, but never for
    this machine. Certificates are verified.
    """

    type: Literal["http_service"] = setting("http_service", "A service that answers over HTTP.")
    url: Annotated[Text, AfterValidator(_fit_to_ask)] = setting(
        ..., "What is asked for. It is never shown over the network, and nowhere with its query."
    )
    method: Literal["GET", "HEAD"] = setting("GET", "How it is asked for.")
    expected_statuses: Annotated[list[HttpStatus], Field(min_length=1, max_length=100), AsList] | None = setting(
        None, "Statuses that are well; null: 200 to 299."
    )
    slow_seconds: Positive | None = setting(None, "An answer that takes longer is worth a warning.", "seconds")
    ca_file: PathText | None = setting(None, "Certificates to trust in place of the system's; null for those.")

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (durations are real)
        """Asks once."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        where = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
        began = time.perf_counter()
        try:
            status = self._ask(parts.hostname or "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return _failure(error, where)
        return _answer(
            f"HTTP {status}",
            {"http_status": status},
            time.perf_counter() - began,
            is_well=status in (_SUCCESS if self.expected_statuses is None else self.expected_statuses),
            slow_seconds=self.slow_seconds,
            where=where,
        )

    def _ask(self, host: str) -> int:
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(host):
            handlers.append(urllib.request.ProxyHandler({}))
        if self.url.startswith("https"):
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.ca_file)))
        request = urllib.request.Request(self.url, method=self.method, headers={"User-Agent": "gaudi3-rt-health"})  # noqa: S310 (http or https)
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=_SHARE * self.timeout_seconds) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


class TcpServiceCheck(Check):
    """A service that takes TCP connections; nothing is sent."""

    type: Literal["tcp_service"] = setting("tcp_service", "A service that takes TCP connections.")
    host: Text = setting(..., "Name or address. It is never shown over the network.")
    port: Annotated[int, Field(ge=1, le=65535), AsInteger] = setting(..., "Port.", "1")
    slow_seconds: Positive | None = setting(None, "A connection that takes longer is worth a warning.", "seconds")

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (durations are real)
        """Connects once."""
        where = f"{self.host}:{self.port}"
        began = time.perf_counter()
        try:
            socket.create_connection((self.host, self.port), timeout=_SHARE * self.timeout_seconds).close()
        except (OSError, UnicodeError) as error:
            return _failure(error, where)
        seconds = time.perf_counter() - began
        return _answer("connected", {}, seconds, is_well=True, slow_seconds=self.slow_seconds, where=where)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead anywhere."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """None is: do not follow."""


def _answer(
    text: str, figures: dict[str, int], seconds: float, *, is_well: bool, slow_seconds: float | None, where: str
) -> Outcome:
    verdict = Verdict()
    verdict.figures.update(figures, response_seconds=round(seconds, 6))
    if not is_well:
        verdict.find(HealthStatus.CRITICAL, text)
    verdict.limit(
        f"{text} after {seconds * 1000:.0f} ms",
        seconds,
        warning=slow_seconds,
        critical=None,
        form=lambda value: f"{value:g} s",
    )
    return verdict.outcome(detail=where)


def _failure(error: Exception, where: str) -> Outcome:
    """What went wrong, in words that name nobody; the error's own may hold hosts, and are for those on the machine."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    match cause:
        case TimeoutError():
            text = "no answer in time"
        case socket.gaierror():
            text = "the name of its host cannot be resolved"
        case ssl.SSLCertVerificationError():
            text = "its certificate is not accepted"
        case ssl.SSLError():
            text = "TLS failed"
        case ConnectionRefusedError():
            text = "connection refused"
        case ConnectionError():
            text = "the connection broke"
        case http.client.HTTPException():
            text = "the answer is not HTTP"
        case FileNotFoundError():
            text = "the file with certificates is not there"
        case _:
            text = "cannot be reached"
    detail = f"{where}: {redact_text(str(cause))}"
    return Outcome(status=HealthStatus.CRITICAL, message=text, detail=detail)
