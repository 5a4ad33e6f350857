"""Is the network there? Interfaces that are up, their errors, and whether names can be resolved."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

import psutil
from pydantic import Field, PrivateAttr

from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import AsInteger, AsList, Text, form, setting
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._status import HealthStatus, Outcome, Verdict

_LOOPBACK = ("lo", "lo0")
Interface = Annotated[Text, form(r"[A-Za-z0-9_.:@-]{1,63}", "the name of an interface")]


class NetworkCheck(Check):
    """Interfaces of this machine. Whether another one can be reached is what ``tcp_service`` finds out."""

    type: Literal["network"] = setting("network", "Interfaces of this machine.")
    interfaces: Annotated[list[Interface], Field(min_length=1, max_length=64), AsList] | None = setting(
        None, "Those that have to be up; null: any one but loopback."
    )
    max_new_errors: Annotated[int, Field(ge=0, lt=2**63), AsInteger] | None = setting(
        None, "Errors of these interfaces since the last look that are no warning yet; null: not watched.", "errors"
    )
    resolve: Text | None = setting(
        None, "The name of a host that has to have an address; null for none. It is never shown over the network."
    )

    _errors: int | None = PrivateAttr(default=None)

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (as it is now)
        """Reads the kernel's counters."""
        verdict = Verdict()
        states = psutil.net_if_stats()
        watched = self.interfaces or [name for name in states if name not in _LOOPBACK]
        up = [name for name in watched if name in states and states[name].isup]
        verdict.figures.update(interfaces_up=len(up), interfaces=len(watched))
        down = [name for name in watched if name not in up]
        if self.interfaces and down:
            text = ", ".join(f"{name} is {'down' if name in states else 'not there'}" for name in down)
            verdict.find(HealthStatus.CRITICAL, text)
        elif not up:
            verdict.find(HealthStatus.CRITICAL, "no interface but loopback is up")
        else:
            verdict.note(f"{', '.join(up)} up")
        self._judge_errors(verdict, watched)
        detail = "" if self.resolve is None else self._judge_resolver(verdict, self.resolve)
        return verdict.outcome(detail=detail)

    def _judge_errors(self, verdict: Verdict, watched: list[str]) -> None:
        counters = psutil.net_io_counters(pernic=True)
        errors = sum(counters[name].errin + counters[name].errout for name in watched if name in counters)
        before, self._errors = self._errors, errors
        if before is None or errors < before:  # an interface has gone, and its count with it
            return
        verdict.figures["new_errors"] = errors - before
        if self.max_new_errors is not None and errors - before > self.max_new_errors:
            verdict.find(HealthStatus.DEGRADED, f"{errors - before} new errors of interfaces")

    @staticmethod
    def _judge_resolver(verdict: Verdict, name: str) -> str:
        """What is for those on the machine."""
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError) as error:
            verdict.find(HealthStatus.CRITICAL, "the name of a host cannot be resolved")
            return f"{name}: {error}"
        verdict.note("names are resolved")
        return name
