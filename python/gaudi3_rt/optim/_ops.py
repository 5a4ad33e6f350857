"""``torch.ops.gaudi3_rt.*``: the kernels as torch operators, so that torch.compile can see what they read and write."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._matrices import MuonBatch
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._storage import Storage

if TYPE_CHECKING:
    from gaudi3_rt.optim._fused import Fused

LIVE: weakref.WeakValueDictionary[str, Fused] = weakref.WeakValueDictionary()
"""Optimizers by the name that stands for them in a compiled graph: a string, which dynamo never makes symbolic."""


@torch.library.custom_op("gaudi3_rt::step_", mutates_args=("params", "states", "steps"))
def step_(
    kernel: str,
    keys: str,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[Tensor],
    steps: list[Tensor],
    hyper: Tensor,
    grad_factor: Tensor | None = None,
    found_inf: Tensor | None = None,
    numbers: list[int] | None = None,
    optimizer: str | None = None,
) -> None:
    """One step of a kernel for n parameters, in place.

    Args:
        kernel: a name of ``gaudi3_rt.build_info().kernels``.
        keys: what ``states`` are, by their keys in an optimizer's state, with spaces between: the kernel's states, each
            plain or as ``<state>_codes`` and ``<state>_scales``; then ``param_low`` or ``param_master``, and ``ema``,
            if there are any.
        params: n tensors.
        grads: n tensors, shaped like ``params``.
        states: all tensors of the first key, then all of the second, ...: n of each.
        steps: n step counters, 0-d; each is advanced by 1 first.
        hyper: float64, 1-d: the kernel's hyper-parameters, then 1 to descend or -1 to ascend (maximize).
        grad_factor: 1 element; gradients are multiplied by it. ``None``: 1.
        found_inf: 1 element; if it is not 0, nothing is changed.
        numbers: of the parameters in their optimizer, for random numbers; ``None``: 0, 1, ...
        optimizer: the name of a live optimizer, whose storage options hold; ``None``: the default ones.

    Raises:
        ValueError: unknown kernel, lists of different lengths, or shapes that do not match.
    """
    if found_inf is not None and float(found_inf) != 0:
        return
    n = len(params)
    names = keys.split()
    if len(states) != n * len(names):
        msg = f"{n} parameters with the keys {names} have {n * len(names)} tensors of state, got {len(states)}"
        raise ValueError(msg)
    *hyper_values, sign = hyper.tolist()
    storage = Storage() if optimizer is None else LIVE[optimizer]._storage
    batch = Batch()
    rule = Rule(kernel, hyper_values, maximize=sign < 0, storage=storage)
    operands = [params, grads, *(states[k * n : (k + 1) * n] for k in range(len(names)))]
    batch.add(rule, names, operands, steps, list(range(n)) if numbers is None else numbers)
    factor = 1.0 if grad_factor is None else float(grad_factor)
    batch.step(grad_factor=factor, max_norm=None, skip_nonfinite=False)


@step_.register_fake
def _(
    kernel: str,
    keys: str,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[Tensor],
    steps: list[Tensor],
    hyper: Tensor,
    grad_factor: Tensor | None = None,
    found_inf: Tensor | None = None,
    numbers: list[int] | None = None,
    optimizer: str | None = None,
) -> None:
    return None


@torch.library.custom_op("gaudi3_rt::group_hyper", mutates_args=())
def group_hyper(anchor: Tensor, optimizer: str, index: int) -> Tensor:
    """The present hyper-parameters of parameters that a live optimizer steps together, as ``step_`` takes them.

    Read when the graph runs and not when it is traced: a scheduler that changes ``lr`` recompiles nothing.

    Args:
        anchor: any tensor; keeps a compiler from taking the result for a constant.
        optimizer: the name of the optimizer.
        index: of those parameters among what was traced.
    """
    return torch.tensor(LIVE[optimizer].traced_hyper(index), dtype=torch.float64)


@group_hyper.register_fake
def _(anchor: Tensor, optimizer: str, index: int) -> Tensor:
    return torch.empty(LIVE[optimizer].n_hyper(index), dtype=torch.float64)


@torch.library.custom_op("gaudi3_rt::grad_factor", mutates_args=())
def grad_factor(
    anchor: Tensor,
    sum_squares: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    optimizer: str,
) -> tuple[Tensor, Tensor]:
    """What a live optimizer's step multiplies its gradients by, and 1 if it is to be skipped, else 0.

    Args:
        anchor: any tensor, as in ``group_hyper``.
        sum_squares: of all gradients; ``None`` without clipping.
        grad_scale: the scale that gradients carry; ``None``: 1.
        found_inf: not 0 if some gradient is not finite; ``None`` without AMP, which never skips.
        optimizer: the name of the optimizer; its ``last_grad_norm`` and ``last_step_skipped`` are set.
    """
    factor, skip = LIVE[optimizer].traced_factor(
        *(None if tensor is None else float(tensor) for tensor in (sum_squares, grad_scale, found_inf))
    )
    return torch.tensor(factor, dtype=torch.float64), torch.tensor(skip, dtype=torch.float64)


@grad_factor.register_fake
def _(
    anchor: Tensor,
    sum_squares: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    optimizer: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty((), dtype=torch.float64), torch.empty((), dtype=torch.float64)


@torch.library.custom_op("gaudi3_rt::muon_step_", mutates_args=("params", "momentum_buffers"))
def muon_step_(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    hyper: Tensor,
    optimizer: str,
    group: int,
    grad_factor: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of Muon for parameters of one group of a live optimizer, in place.

    Args:
        params: n matrices.
        grads: n tensors, shaped like ``params``.
        momentum_buffers: n tensors, shaped like ``params``.
        hyper: what ``group_hyper`` gave for the group; options are read from the optimizer.
        optimizer: the name of the optimizer.
        group: index of the group.
        grad_factor: 1 element; gradients are multiplied by it. ``None``: 1.
        found_inf: 1 element; if it is not 0, nothing is changed.
    """
    if found_inf is not None and float(found_inf) != 0:
        return
    live = LIVE[optimizer]
    options = live.param_groups[group]
    rule = Rule(live._kernel(options), hyper[:-1].tolist(), group=group)
    batch = MuonBatch()
    for index, tensors in enumerate(zip(params, grads, momentum_buffers, strict=True)):
        batch.add_matrix(rule, options, index, *tensors)
    batch.step(grad_factor=1.0 if grad_factor is None else float(grad_factor), max_norm=None, skip_nonfinite=False)


@muon_step_.register_fake
def _(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    hyper: Tensor,
    optimizer: str,
    group: int,
    grad_factor: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    return None
