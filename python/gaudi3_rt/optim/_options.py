"""The options that every fused optimizer takes besides those of its torch counterpart."""

from __future__ import annotations

from typing import Literal, TypedDict

import torch


class StorageOptions(TypedDict, total=False):
    """How parameters and moments are stored. Not part of the ``state_dict``.

    Attributes:
        rounding: of bfloat16 parameters: ``"nearest"`` (ties to even) or ``"stochastic"``, which loses no small update
            on average. Moments in bfloat16 follow it.
        seed: of stochastic rounding, in [0, 2**64). The random bits are a function of seed, step, parameter and
            element: the same on any number of threads, for any sharding, and after a resume.
        master: keep bfloat16 parameters exactly, as float32: ``"float32"`` keeps a copy (4 bytes a parameter),
            ``"split"`` only the 16 bits that the parameter lacks (2 bytes).
        moments_dtype: of moments, or a pair: of those that may be negative and of second moments.
            ``torch.float32``; ``torch.bfloat16``, rounded stochastically; ``torch.int8``, ``torch.float8_e4m3fn``,
            ``torch.float8_e5m2`` in blocks of 256 elements, rounded stochastically. ``None``: the parameter's dtype,
            or float32 with a ``master``.
        ema_decay: keep an exponential moving average of the parameters in the state (``"ema"``, float32), updated in
            the same pass: ``ema += (1 - ema_decay) * (param - ema)``. It starts from the parameters before the first
            step; ``averaged_parameters`` puts it into place for a while.
    """

    rounding: Literal["nearest", "stochastic"]
    seed: int
    master: Literal["float32", "split"] | None
    moments_dtype: torch.dtype | tuple[torch.dtype, torch.dtype] | None
    ema_decay: float | None


class ClippingOptions(TypedDict, total=False):
    """Clipping by the global norm. Not part of the ``state_dict``.

    Attributes:
        max_grad_norm: clip the L2 norm of all gradients of all groups together to this, inside the step, with the
            coefficient of ``torch.nn.utils.clip_grad_norm_``; ``math.inf`` only measures it. ``None``: neither.
            The gradients themselves stay as they are, also under AMP. See ``last_grad_norm``.
        norm: when that norm is taken: ``"step"`` in a pass of its own at the start of the step, ``"overlapped"`` by
            hooks during backward, while each gradient is still in the cache. A gradient that has changed since is read
            again, if autograd knows of the change (it knows not of writes through ``grad.data``).
    """

    max_grad_norm: float | None
    norm: Literal["step", "overlapped"]


class Options(ClippingOptions, StorageOptions, total=False):
    """Keyword arguments of every fused optimizer: those of ``ClippingOptions`` and ``StorageOptions``."""
