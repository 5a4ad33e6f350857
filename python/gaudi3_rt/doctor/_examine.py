"""Runs the probes, each for a limited time; one that fails or hangs becomes a finding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from gaudi3_rt import _config
from gaudi3_rt._redact import redact_text
from gaudi3_rt.doctor import _build, _devices, _drivers, _environment, _resources, _security, _versions
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Report, Section
from gaudi3_rt.errors import Gaudi3RTError, InvalidConfigurationError, ParameterValidationError

Probe = Callable[[Host], Section]

_PROBES: dict[str, Probe] = {
    "versions": _versions.probe,
    "devices": _devices.probe,
    "drivers": _drivers.probe,
    "environment": _environment.probe,
    "build": _build.probe,
    "security": _security.probe,
    "disk": _resources.probe_disk,
    "memory": _resources.probe_memory,
}
SECTIONS = tuple(_PROBES)
"""Names of the sections, in the order of a report."""

_OWN = "gaudi3_rt.doctor"


def examine(
    *,
    checkpoint_dir: str | Path | None = None,
    root: str | Path = "/",
    environment: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Report:
    """Examines this machine.

    Takes milliseconds where there is no HPU to ask. Devices of an open software HPU are reported as ``simulated``.

    Args:
        checkpoint_dir: folder whose disk is examined.
        root: folder with ``dev``, ``proc``, ``sys`` and ``usr``: where a container sees those of its host.
        environment: variables in place of this process's.
        timeout: seconds for each section; what has not answered by then is left behind and reported.

    Raises:
        ParameterValidationError: the timeout is not a positive number.
    """
    if not 0 < timeout < float("inf"):
        msg = f"timeout is {timeout!r}; it has to be a number of seconds above 0 and finite"
        raise ParameterValidationError(msg)
    host = Host(
        root=Path(root),
        environment=_config.environment() if environment is None else environment,
        checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
    )
    return Report(sections=tuple(_run(name, probe, host, timeout) for name, probe in _PROBES.items()))


def _run(name: str, probe: Probe, host: Host, timeout: float) -> Section:
    """One section. A thread, since a driver that hangs cannot be interrupted; the process can still end."""
    answers: list[Section] = []

    def work() -> None:
        try:
            answers.append(probe(host))
        except Exception as error:  # noqa: BLE001 (whatever goes wrong in a probe is what the report is for)
            answers.append(Section(name=name, findings=(_failed(name, error),)))

    thread = threading.Thread(target=work, name=f"gaudi3_rt doctor {name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        return Section(name=name, findings=(_failed(name, error),))
    thread.join(timeout)
    return answers[0] if answers else Section(name=name, findings=(_silent(name, timeout),))


def _failed(name: str, error: Exception) -> Finding:
    """A probe that ended with an error; one of ours says by itself what to do."""
    if isinstance(error, Gaudi3RTError):
        return Finding(
            severity="error",
            what=error.message,
            todo="; ".join(error.suggestions) or f"gaudi3-rt explain {error.code}",
            source=_OWN,
            configuration=isinstance(error, InvalidConfigurationError),
        )
    return Finding(
        severity="error",
        what=f"the {name} could not be examined",
        seen=redact_text(f"{type(error).__name__}: {error}")[:500],
        todo="read the error; if it is not of this machine, report it with the output of gaudi3-rt doctor --json",
        source=_OWN,
    )


def _silent(name: str, timeout: float) -> Finding:
    """A probe that has not answered."""
    return Finding(
        severity="error",
        what=f"the {name} did not answer within {timeout:g} s",
        todo="look for a driver or a file system that hangs: dmesg -T | tail; ps -eo pid,stat,cmd | grep ' D'",
        source=_OWN,
    )
