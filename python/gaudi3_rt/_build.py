"""What was built, and what of it runs here."""

from __future__ import annotations

from dataclasses import dataclass

from gaudi3_rt import _config, _core


@dataclass(frozen=True)
class BuildInfo:
    """What ``build_info()`` found.

    Attributes:
        compiler: compiler and version that built the kernels.
        isa: the kernel build in use; ``GAUDI3_RT_ISA`` forces another.
        isas: the builds that this CPU can run, fastest first.
        kernels: names of the kernels.
        reductions: names of the reductions.
        transfers: names of the functions from one tensor to another.
        wires: forms in which gradients are sent.
        codecs: ways in which tensors may be stored; arithmetic is float32.
    """

    compiler: str
    isa: str
    isas: tuple[str, ...]
    kernels: tuple[str, ...]
    reductions: tuple[str, ...]
    transfers: tuple[str, ...]
    wires: tuple[str, ...]
    codecs: tuple[str, ...]


def build_info() -> BuildInfo:
    """Returns what was built and which kernel build is in use.

    Raises:
        ValueError: ``GAUDI3_RT_ISA`` names a build that cannot run here.
    """
    return BuildInfo(
        compiler=_core.COMPILER,
        isa=_config.isa(),
        isas=tuple(_core.isas()),
        kernels=tuple(_core.kernels()),
        reductions=tuple(_core.reductions()),
        transfers=tuple(_core.transfers()),
        wires=tuple(_core.wires()),
        codecs=tuple(_core.codecs()),
    )
