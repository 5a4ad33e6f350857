"""What was built, which of it is in force, and how far each kernel has come: CPU, emulated, compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaudi3_rt import _config, _core, hpu, tpc
from gaudi3_rt._redact import redact_text
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section
from gaudi3_rt.optim import _hpu

CPU, EMULATED, COMPILED = "cpu", "emulated", "compiled"
"""Status of a kernel: it runs on CPUs; it is written for the TPC, too, and was executed in the emulator; and the
kernel library has it as a compiled program. None says ``hardware``: that would take a run on a Gaudi."""

_OWN = "gaudi3_rt: docs/tpc.md"
_SUFFIXES = tuple(_hpu.SUFFIXES.values())


def probe(host: Host) -> Section:
    """The section ``build``."""
    isas = _core.isas()
    wanted = host.environment.get(_config.ISA_VARIABLE)
    library = tpc.kernel_library()
    kernel_path = host.environment.get(_config.KERNEL_PATH_VARIABLE, "")
    facts: dict[str, Any] = {
        "compiler": _core.COMPILER,
        "isa": isas[0] if wanted is None else wanted if wanted in isas else None,
        "isas": isas,
        "kernels": {**{name: kernel_status(name) for name in _core.kernels()}, **dict.fromkeys(_helpers(), _on_tpc())},
        "reductions": _core.reductions(),
        "codecs": _core.codecs(),
        "tpc_compiler": _core.TPC_COMPILER or None,
        "tpc_library": str(library) if library.is_file() else None,
        "tpc_library_compiled": tpc.has_compiled_kernels(),
        "tpc_library_on_path": str(library) in kernel_path.split(os.pathsep),
        "hpu_operators": hpu_operators().is_file(),
        "hpu_operators_loaded": hpu.is_loaded(),
    }
    return Section(name="build", facts=facts, findings=(*_isa(wanted, isas), *_on_hpu(host, facts, library)))


def kernel_status(kernel: str) -> str:
    """How far a kernel has come: ``cpu``, ``emulated`` or ``compiled``."""
    if not _hpu._chain(kernel, "f32"):
        return CPU
    return _on_tpc()


def _on_tpc() -> str:
    """How far what is written for the TPC has come."""
    return COMPILED if tpc.has_compiled_kernels() else EMULATED


def _helpers() -> list[str]:
    """Kernels for the TPC that take no step: sums, factors, casts, quantisation."""
    steps = {tpc_kernel["name"] for name in _core.kernels() for s in _SUFFIXES for tpc_kernel in _hpu._chain(name, s)}
    return [name for name in _hpu.TABLE if name not in steps]


def hpu_operators() -> Path:
    """Where the PyTorch operators for an HPU are, if they were built."""
    return Path(_core.__file__).with_name(hpu._LIBRARY)


def _isa(wanted: str | None, isas: list[str]) -> Iterator[Finding]:
    """A build that was asked for and cannot run."""
    if wanted is not None and wanted not in isas:
        yield Finding(
            severity="error",
            what=f"{_config.ISA_VARIABLE} names a build that cannot run here",
            seen=redact_text(wanted)[:60],
            allowed=", ".join(isas),
            todo=f"unset {_config.ISA_VARIABLE}, or set it to one of these",
            source="gaudi3_rt.build_info()",
            configuration=True,
        )


def _on_hpu(host: Host, facts: dict[str, Any], library: Path) -> Iterator[Finding]:
    """HPUs that the kernels cannot run on."""
    if not host.modules:
        return
    if not facts["tpc_library_compiled"] or not facts["hpu_operators"]:
        missing = (
            "its TPC kernels were not compiled" if not facts["tpc_library_compiled"] else "its operators were not built"
        )
        yield Finding(
            severity="warning",
            what=f"on an HPU, gaudi3_rt steps with torch operations of the same formula: {missing}",
            todo="install habanatools (tpc-clang) and Habana's bridge, then gaudi3_rt again: "
            "pip install --no-build-isolation --force-reinstall --no-deps gaudi3_rt",
            source=_OWN,
            configuration=True,
        )
    elif not facts["tpc_library_on_path"]:
        yield Finding(
            severity="warning",
            what=f"{_config.KERNEL_PATH_VARIABLE} does not name gaudi3_rt's kernels, so the graph compiler lacks them",
            seen=redact_text(host.environment.get(_config.KERNEL_PATH_VARIABLE, ""))[:300] or "not set",
            allowed=f"{library}, a colon, and the vendor's libtpc_kernels.so",
            todo=f"export {_config.KERNEL_PATH_VARIABLE}={library}:${_config.KERNEL_PATH_VARIABLE}",
            source=_OWN,
            configuration=True,
        )
