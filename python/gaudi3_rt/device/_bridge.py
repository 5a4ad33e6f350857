"""Habana's PyTorch bridge, imported when a device is used and not before."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from gaudi3_rt.errors import HPUDriverError

PACKAGE = "habana_frameworks"


@dataclass(frozen=True)
class Bridge:
    """The parts of it that are used.

    Attributes:
        hpu: ``habana_frameworks.torch.hpu``.
        core: ``habana_frameworks.torch.core``.
        lazy: whether it runs in lazy mode, where ``mark_step`` does something.
        simulated: it is the software HPU's stand-in.
    """

    hpu: Any
    core: Any
    lazy: bool
    simulated: bool


def load() -> Bridge:
    """Imports the bridge, which writes ``TORCHINDUCTOR_COMPILE_THREADS`` for itself; acquires no device.

    Raises:
        HPUDriverError: it is not installed, or it does not fit this torch; the message has its words.
    """
    try:
        torch_part = importlib.import_module(f"{PACKAGE}.torch")
        hpu = importlib.import_module(f"{PACKAGE}.torch.hpu")
        core = importlib.import_module(f"{PACKAGE}.torch.core")
    except (ImportError, AssertionError, OSError, AttributeError) as error:
        msg = f"Habana's PyTorch bridge cannot be imported: {error or type(error).__name__}"
        raise HPUDriverError(
            msg,
            suggestions=(
                "install habana-torch-plugin of the driver's version, or use a container of Habana's",
                "look for 'pip list | grep torch': another package may have replaced Gaudi's torch",
            ),
        ) from error
    return Bridge(getattr(torch_part, "hpu", hpu), core, _is_lazy(), bool(getattr(hpu, "simulated", False)))


def is_installed() -> bool:
    """Whether a real bridge could be imported; nothing is imported to find out."""
    if PACKAGE in sys.modules:
        return not getattr(sys.modules.get(f"{PACKAGE}.torch.hpu"), "simulated", False)
    return importlib.util.find_spec(PACKAGE) is not None


def is_loaded() -> bool:
    """Whether something in this process has imported the bridge, or the software HPU's stand-in."""
    return f"{PACKAGE}.torch.hpu" in sys.modules


def _is_lazy() -> bool:
    """As the bridge sees it; True where it does not say, as its ``mark_step`` does nothing in eager mode."""
    with contextlib.suppress(ImportError, AttributeError):
        return bool(importlib.import_module(f"{PACKAGE}.torch.utils.internal").is_lazy())
    return True
