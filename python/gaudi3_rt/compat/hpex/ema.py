"""Legacy EMA: averages of a module's whole state, with a decay that grows from 0."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Collection

import torch

from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._rule import Rule


class FusedEMA:
    r"""Legacy: the moving average of ``habana_frameworks.torch.hpex.movingavrg``.

    .. math:: d = d_0 \, (1 - e^{-n / 2000}) \qquad a = d \, a + (1 - d) \, x

    with :math:`d_0` ``decay``, :math:`n` the number of the update, :math:`x` an entry of the model's ``state_dict``. It
    differs from ``torch.optim.swa_utils.AveragedModel`` and ``gaudi3_rt.optim.FusedEMA`` in this: the decay grows from
    nearly 0, so that the first averages are the model itself; buffers are averaged like parameters; and averages have
    the dtype of the model. Entries that are not floating-point, such as a count of batches, are copied; what the
    vendor's closed kernel does with them is not known.

    Args:
        model: the module to average, or one in ``DataParallel`` or ``DistributedDataParallel``.
        decay: what :math:`d` grows to.
        updates: how many updates were made before.

    Attributes:
        ema: a copy of the module, in evaluation mode, that holds the averages.
        decay: gives the decay of an update by its number.
        updates: how many updates were made.

    Raises:
        ValueError: ``decay`` is negative.
    """

    def __init__(self, model: torch.nn.Module, decay: float = 0.9999, updates: float = 0) -> None:
        if not decay >= 0:
            msg = f"decay={decay!r}: must be >= 0"
            raise ValueError(msg)
        self.ema = copy.deepcopy(_unwrapped(model)).eval()
        self.decay: Callable[[float], float] = functools.partial(_decay, decay)
        self.updates = updates

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Moves the averages towards the present state of the model.

        Raises:
            ValueError: the model has other entries than when this object was made, or of another shape; all averages
                are as before.
        """
        averages, state = self.ema.state_dict(), _unwrapped(model).state_dict()
        if averages.keys() != state.keys():
            msg = f"the model and its averages differ in the entries {sorted(averages.keys() ^ state.keys())}"
            raise ValueError(msg)
        pairs = [(averages[key], state[key]) for key in state]
        averaged = [(average, value) for average, value in pairs if average.is_floating_point()]
        counters = [torch.zeros(()) for _ in averaged]  # the formula counts updates by itself
        batch = Batch()
        operands = [list(x) for x in zip(*averaged, strict=True)]
        batch.add(Rule("ema", [self.decay(self.updates + 1)]), [], operands, counters, range(len(counters)))
        batch.step(grad_factor=1.0, max_norm=None, skip_nonfinite=False)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
        self.updates += 1

    def update_attr(
        self,
        model: torch.nn.Module,
        include: Collection[str] = (),
        exclude: Collection[str] = ("process_group", "reducer"),
    ) -> None:
        """Copies public attributes of the model that are no modules or tensors of it: those included, or all."""
        for name, value in vars(model).items():
            if not name.startswith("_") and name not in exclude and (not include or name in include):
                setattr(self.ema, name, value)


def _decay(final: float, n: float) -> float:
    return final * (1 - math.exp(-n / 2000))


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model
