"""Which checks a run has that has named none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaudi3_rt import _providers
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._files import FileSystemCheck
from gaudi3_rt.health._hpu import HpuDeviceCheck
from gaudi3_rt.health._process import ProcessCheck
from gaudi3_rt.health._system import SystemResourcesCheck

_MOST_DEVICES = 1024
_LIMITS = (
    "memory_warning_ratio",
    "memory_critical_ratio",
    "temperature_warning_celsius",
    "temperature_critical_celsius",
)


def create_default_hpu_health_checks(
    devices: int | Sequence[str] | None = None, *, step_timeout_seconds: float | None = None, **limits: float | None
) -> list[Check]:
    """One check for each HPU, this machine's resources, the space of the working directory, and steps if they are due.

    Args:
        devices: so many HPUs, of those that this process may use the first, or their names, such as ``["hpu:2"]`` or
            ``["simulated:0"]``; an HPU that should be there and is not is CRITICAL. None: those that are there now,
            simulated ones too.
        step_timeout_seconds: a step of the training that takes longer is CRITICAL; None: not watched.
        **limits: ``memory_warning_ratio``, ``memory_critical_ratio``, ``temperature_warning_celsius`` and
            ``temperature_critical_celsius`` of the HPUs, None for not watched; by default those of
            :class:`HpuDeviceCheck`.

    Raises:
        ParameterValidationError: a number, a name or a limit is not allowed.
    """
    unknown = sorted(set(limits) - set(_LIMITS))
    if unknown:
        msg = f"there is no limit {', '.join(unknown)}; there are {', '.join(_LIMITS)}"
        raise ParameterValidationError(msg)
    checks: list[Check] = [_made(HpuDeviceCheck, device=name, **limits) for name in _names(devices)]
    checks += [
        SystemResourcesCheck(),
        FileSystemCheck(name="working_directory", path=".", writable=False, critical=False),
    ]
    if step_timeout_seconds is not None:
        checks.append(_made(ProcessCheck, name="training_steps", stale_critical_seconds=step_timeout_seconds))
    return checks


def _made(kind: type[Check], **settings: Any) -> Check:
    """A check; what is wrong with its settings is one error of ours."""
    try:
        return kind(**settings)
    except ValueError as error:
        msg = f"{kind.__name__}: {'; '.join(one['msg'] for one in getattr(error, 'errors', list)())}"
        raise ParameterValidationError(msg) from error


def _names(devices: int | Sequence[str] | None) -> list[str]:
    there = [one.name for one in _providers.all_devices() if one.name != "cpu"]
    if devices is None:
        return there
    if isinstance(devices, int):
        if isinstance(devices, bool) or not 1 <= devices <= _MOST_DEVICES:
            msg = f"devices={devices!r}: a number of HPUs is 1 to {_MOST_DEVICES}; None for those that are there"
            raise ParameterValidationError(msg)
        names = [name for name in there if name.startswith("hpu:")][:devices]
        missing = (name for name in (f"hpu:{number}" for number in range(_MOST_DEVICES)) if name not in names)
        return names + [next(missing) for _ in range(devices - len(names))]
    if isinstance(devices, str):
        msg = f"devices={devices!r}: give a list of names, such as [{devices!r}], or a number of HPUs"
        raise ParameterValidationError(msg)
    return list(devices)
