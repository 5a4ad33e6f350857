"""Where the kernel library for Gaudi's graph compiler is."""

from __future__ import annotations

from pathlib import Path

from gaudi3_rt import _core

NAME = "libgaudi3_rt_tpc.so"


def kernel_library() -> Path:
    """The path of the kernel library, for ``GC_KERNEL_PATH``.

    The variable must be set before the process starts and must name the vendor's library too::

        export GC_KERNEL_PATH=$(python -c 'from gaudi3_rt import tpc; print(tpc.kernel_library())'):$GC_KERNEL_PATH

    Whether the library carries compiled kernels depends on whether a TPC compiler was at hand when it was built: see
    ``has_compiled_kernels``. Without them the graph compiler gets an error for every kernel.
    """
    return Path(_core.__file__).with_name("tpc") / NAME


def has_compiled_kernels() -> bool:
    """Whether the kernel library was built with a TPC compiler."""
    return bool(_core.TPC_COMPILER)
