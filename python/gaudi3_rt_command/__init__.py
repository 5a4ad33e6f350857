"""The command ``gaudi3-rt``, outside the package: what it starts must be able to examine a torch that cannot start.

``import torch`` imports the plugins of devices, Habana's among them, and fails with them (torch >= 2.5, entry points
``torch.backends``). The commands need no plugin until they use a device, and import it then; so none is loaded here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["main"]

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def main() -> None:
    """Entry point of ``gaudi3-rt``."""
    with without_plugins():
        from gaudi3_rt.cli import main as run  # noqa: PLC0415 (imports torch)
    run()


@contextmanager
def without_plugins() -> Iterator[None]:
    """Torch imports no plugin inside the block, unless the user's environment says that it should.

    The variable is gone afterwards: processes that a command starts decide for themselves.
    """
    if AUTOLOAD in os.environ:
        yield
        return
    os.environ[AUTOLOAD] = "0"
    try:
        yield
    finally:
        del os.environ[AUTOLOAD]
