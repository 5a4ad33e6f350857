"""The TPC kernels as PyTorch operators on Intel Gaudi: loads them for optimizers and gradient tools."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import torch

from gaudi3_rt import _config, _core, tpc
from gaudi3_rt.optim import _hpu

__all__ = ["is_loaded", "load"]

_LIBRARY = "libgaudi3_rt_hpu.so"


def load(library: str | os.PathLike[str] | None = None) -> None:
    """Loads ``torch.ops.gaudi3_rt_hpu``; from then on optimizers and gradient tools use the TPC kernels on "hpu".

    That is for float32 and bfloat16 tensors. Before, and for other dtypes, they use torch operations of the same
    formula, where there are some. Nothing is loaded unless this is called. Imports ``habana_frameworks.torch.core`` and
    writes no environment variable: the graph compiler reads ``GC_KERNEL_PATH`` at its start, so it has to be set before
    the process begins (``tpc.kernel_library``).
    Calling it again does nothing.

    Args:
        library: the operators, built elsewhere; by default those that were built with the package.

    Raises:
        RuntimeError: something that they need is missing; the message says what and how to get it.
    """
    if _hpu.is_loaded():
        return
    path = Path(_core.__file__).with_name(_LIBRARY) if library is None else Path(library)
    if not path.is_file():
        msg = (
            f"there are no HPU operators at {path}; install gaudi3_rt with --no-build-isolation where Habana's PyTorch "
            "bridge (habana_frameworks) is installed, or give the path of the library"
        )
        raise RuntimeError(msg)
    if not tpc.has_compiled_kernels():
        msg = (
            f"{tpc.kernel_library()} has no compiled kernels, because there was no TPC compiler when it was built; "
            "install Habana's habanatools (tpc-clang) and install gaudi3_rt again"
        )
        raise RuntimeError(msg)
    kernel_path = _config.kernel_path()
    if str(tpc.kernel_library()) not in kernel_path.split(os.pathsep):
        msg = (
            f"{_config.KERNEL_PATH_VARIABLE}={kernel_path!r} does not name {tpc.kernel_library()}; set it to that, a "
            "colon and the vendor's libtpc_kernels.so before the process starts"
        )
        raise RuntimeError(msg)
    try:
        importlib.import_module("habana_frameworks.torch.core")
    except ImportError as error:
        msg = f"Habana's PyTorch bridge cannot be imported ({error}); it comes with the Gaudi software"
        raise RuntimeError(msg) from error
    torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    _hpu.set_loaded()


def is_loaded() -> bool:
    """Whether the operators are loaded."""
    return _hpu.is_loaded()
