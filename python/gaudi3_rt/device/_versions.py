"""Which versions of driver, firmware, plugin and torch are there, and whether they fit; nothing is imported for it."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gaudi3_rt import _config, _providers
from gaudi3_rt.device import _machine
from gaudi3_rt.device._findings import Finding
from gaudi3_rt.device._hl_smi import HlSmi
from gaudi3_rt.device._sources import SourceError
from gaudi3_rt.errors import HPUNotAvailableError

PLUGIN = "habana-torch-plugin"
KNOWN_NOT_TO_WORK = {("1.16.1", "1.16.0"): "containers/ai-lab-recipes#587"}
"""Releases of driver and plugin that users have seen fail, with where."""

_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_TORCH = re.compile(r"(\d+)\.(\d+)")
_GAUDI_LOCAL = re.compile(r"(hpu|git)", re.IGNORECASE)
_LOCK_STEP = "containers/ai-lab-recipes#587: driver, firmware and PyTorch packages have to have the same version"


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions as their owners write them; None if it is not there or cannot be told.

    Attributes:
        gaudi3_rt: of this package.
        python: of the interpreter.
        torch: of the installed distribution, with its local part: Gaudi's has one, as in ``2.7.1+hpu.1.22.2.32...``.
        plugin: of habana-torch-plugin, Habana's PyTorch bridge.
        pyhlml: of habana-pyhlml.
        driver: of the kernel's module habanalabs.
        firmware: of the first HPU.
        findings: what does not fit.
        simulated: driver, firmware, plugin and torch are what a software HPU claims.
    """

    gaudi3_rt: str
    python: str
    torch: str | None
    plugin: str | None
    pyhlml: str | None
    driver: str | None
    firmware: str | None
    findings: tuple[Finding, ...]
    simulated: bool = False


def versions(
    *, simulated: bool = False, root: str | Path = "/", environment: Mapping[str, str] | None = None
) -> Versions:
    """What is installed. Reads files and package metadata; runs hl-smi only if the driver's files do not tell.

    Args:
        simulated: of the open software HPU in place of the machine's.
        root: folder with ``sys``.
        environment: variables in place of this process's; ``PT_HPU_LAZY_MODE`` decides which torch the plugin takes.

    Raises:
        HPUNotAvailableError: ``simulated``, and no software HPU is open.
    """
    variables = _config.environment() if environment is None else environment
    provider = _providers.find("simulated")
    if simulated and provider is None:
        msg = "no software HPU is open, so it has no versions; open one: with gaudi3_rt.testing.SoftwareHPU():"
        raise HPUNotAvailableError(msg, "simulated", retryable=False)
    if simulated and provider is not None:
        claimed = dict(provider.versions())
        required = None
    else:
        claimed = _installed(Path(root))
        required = _required_torch()
    lazy = variables.get("PT_HPU_LAZY_MODE", "")
    return Versions(
        gaudi3_rt=metadata.version("gaudi3_rt"),
        python=platform.python_version(),
        torch=claimed.get("torch"),
        plugin=claimed.get("plugin"),
        pyhlml=_distribution("habana-pyhlml"),
        driver=claimed.get("driver"),
        firmware=claimed.get("firmware"),
        findings=tuple(mismatches(claimed, required_torch=required, lazy={"": None, "0": False}.get(lazy, True))),
        simulated=simulated,
    )


def mismatches(
    found: Mapping[str, str], *, required_torch: str | None = None, lazy: bool | None = None
) -> Iterator[Finding]:
    """What does not fit among versions.

    Args:
        found: any of ``driver``, ``firmware``, ``plugin``, ``torch``.
        required_torch: what the plugin was compiled for, e.g. ``2.7.1``.
        lazy: whether lazy mode is asked for; None if it is not said.
    """
    driver, plugin, torch = (found.get(name) for name in ("driver", "plugin", "torch"))
    if driver and plugin:
        yield from _lock_step(driver, plugin)
    if plugin and not driver:
        yield Finding(
            severity="warning",
            subject="driver",
            message=f"plugin {plugin} is installed, but there is no driver (module habanalabs) to be seen",
            advice="load the driver, or give the container the devices; without them only the CPU can be used",
            source=_LOCK_STEP,
        )
    if plugin and torch:
        yield from _torch_fits(torch, required_torch, lazy)


def _lock_step(driver: str, plugin: str) -> Iterator[Finding]:
    """Driver and plugin: the same release."""
    releases = _RELEASE.match(driver), _RELEASE.match(plugin)
    if releases[0] is None or releases[1] is None or releases[0].groups() == releases[1].groups():
        return
    known = KNOWN_NOT_TO_WORK.get((releases[0][0], releases[1][0]))
    other_minor = releases[0].groups()[:2] != releases[1].groups()[:2]
    yield Finding(
        severity="error" if known or other_minor else "warning",
        subject="plugin",
        message=f"{PLUGIN} {plugin} does not have the driver's version, {driver}"
        + ("; this pair is known not to work" if known else ""),
        advice=f"install {PLUGIN} {releases[0][0]}.* and the torch that belongs to it, or a container of that release",
        source=known or (f"{_LOCK_STEP}; opea-project/GenAIExamples#366" if other_minor else _LOCK_STEP),
    )


def _torch_fits(torch: str, required: str | None, lazy: bool | None) -> Iterator[Finding]:
    """Torch and plugin: the version that it was compiled for, and a build for Gaudi."""
    public, _, local = torch.partition("+")
    here, there = _TORCH.match(public), _TORCH.match(required or "")
    if here and there and here.groups() != there.groups():
        yield Finding(
            severity="error",
            subject="torch",
            message=f"torch is {torch}, but the plugin was compiled for {required} and refuses to be imported",
            advice=f"install Gaudi's torch {there[0]} again from Habana's installer",
            source="HabanaAI/gaudi-pytorch-bridge, habana_frameworks/torch/__init__.py",
        )
    if not _GAUDI_LOCAL.match(local):
        yield Finding(
            severity="warning" if lazy is False else "error",
            subject="torch",
            message=f"torch {torch} is not Gaudi's build, whose version goes on with +hpu or +git; pip may have "
            "replaced it as a dependency of another package"
            + ("" if lazy is False else "; lazy mode does not work with it"),
            advice="install Gaudi's torch again from Habana's installer, and other packages with pip's --no-deps, or "
            "with a constraints file that has torch's version",
            source="huggingface/tgi-gaudi#246; HabanaAI/gaudi-pytorch-bridge, habana_frameworks/torch/__init__.py",
        )


def _installed(root: Path) -> dict[str, str]:
    """Of this machine."""
    modules = _machine.modules(root)
    system = modules[0].system if modules else None
    driver = _machine.read(root / "sys/module/habanalabs/version")
    if driver is None and modules:
        driver = _driver_by_command()
    readers: dict[str, Callable[[], str | None]] = {
        "driver": lambda: driver,
        "firmware": lambda: _machine.read(system / "fw_os_ver") if system else None,
        "plugin": lambda: _distribution(PLUGIN),
        "torch": lambda: _distribution("torch"),
    }
    return {name: version for name, read in readers.items() if (version := read()) is not None}


def _driver_by_command() -> str | None:
    """As hl-smi has it."""
    try:
        return next((board.driver_version for board in HlSmi().boards()), None)
    except SourceError:
        return None


def _distribution(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required_torch() -> str | None:
    """What the installed plugin was compiled for; it has a file that says so."""
    try:
        distribution = metadata.distribution(PLUGIN)
    except metadata.PackageNotFoundError:
        return None
    return _machine.read(Path(str(distribution.locate_file("habana_frameworks/torch/required_version.txt"))))
