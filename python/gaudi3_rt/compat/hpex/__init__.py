"""The fused optimizers and tools of ``habana_frameworks.torch.hpex``, legacy: for comparison, on any device.

Their names, arguments, defaults and formulas, computed by the kernels of ``gaudi3_rt.optim`` without the vendor's
package::

    from habana_frameworks.torch.hpex.optimizers import FusedAdamW   # before
    from gaudi3_rt.compat.hpex import FusedAdamW                     # the same formula
    from gaudi3_rt.optim import FusedAdamW                           # torch's formula

What is said of the vendor's classes was found by reading the public front end (HabanaAI/gaudi-pytorch-bridge, release
1.19), not by running it. Its kernels are closed: where a formula is not in the front end, these classes have torch's,
and say so. Arithmetic is float32 throughout, where the vendor's is in the dtype of the operation. New code is better
off with ``gaudi3_rt.optim`` and ``gaudi3_rt.grads``.
"""

from gaudi3_rt.compat.hpex.adamw import FusedAdamW
from gaudi3_rt.compat.hpex.clip_norm import FusedClipNorm
from gaudi3_rt.compat.hpex.ema import FusedEMA
from gaudi3_rt.compat.hpex.lamb import FusedLamb
from gaudi3_rt.compat.hpex.lars import FusedLars, FusedResourceApplyMomentum
from gaudi3_rt.compat.hpex.torchlike import FusedAdagrad, FusedSGD

__all__ = [
    "FusedAdagrad",
    "FusedAdamW",
    "FusedClipNorm",
    "FusedEMA",
    "FusedLamb",
    "FusedLars",
    "FusedResourceApplyMomentum",
    "FusedSGD",
]
