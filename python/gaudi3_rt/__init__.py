"""Fused optimizers with torch.optim's numerics, for CPUs and Intel Gaudi.

``import gaudi3_rt`` starts no thread, writes no environment variable and acquires no device.
"""

from importlib.metadata import version

import torch  # noqa: F401  (first: the kernels run in the OpenMP runtime that torch loads)

from gaudi3_rt import amp, grads, hpu, optim, reduce
from gaudi3_rt._build import build_info

__all__ = ["amp", "build_info", "grads", "hpu", "optim", "reduce"]
__version__ = version("gaudi3_rt")
