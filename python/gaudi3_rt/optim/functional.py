"""The steps as functions of lists of tensors, with the signatures of torch.optim's functional forms.

All of them update in place: lists of n parameters, their gradients and states (of the parameter's shape; dtypes as for
the classes), and their step counters (0-d float32 or float64, advanced by 1 first). Options that choose between
torch's own implementations (``foreach``, ``fused``, ``capturable``) or only describe the tensors (``has_complex``,
``has_sparse_grad``) are accepted and change nothing; ``differentiable=True`` is refused. Gradients are divided by
``grad_scale``; if ``found_inf`` is not 0, nothing is changed. Formulas are in the classes' docstrings.

Under torch.compile each is a graph break; the classes' ``step`` is none.

All of them raise ValueError if lists differ in length, shapes differ from the parameter's or written memory overlaps,
and TypeError for what is no tensor, or sparse, complex or not floating-point. Nothing is changed then.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from gaudi3_rt import _core
from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._hyper import hyper_parameters
from gaudi3_rt.optim._loading import refuse_differentiable
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim.sgd import sgd_kernel

__all__ = ["adagrad", "adam", "adamw", "lion", "sgd"]


def adamw(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    *,
    amsgrad: bool,
    beta1: float | Tensor,
    beta2: float | Tensor,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """One step of AdamW, as ``torch.optim.adamw.adamw``; ``max_exp_avg_sqs`` is only read with ``amsgrad``."""
    refuse_differentiable(adamw, {"differentiable": differentiable})
    _step(
        "adamw_amsgrad" if amsgrad else "adamw",
        {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        [params, grads, exp_avgs, exp_avg_sqs, *([max_exp_avg_sqs] if amsgrad else [])],
        state_steps,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def adam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    decoupled_weight_decay: bool = False,
    *,
    amsgrad: bool,
    beta1: float | Tensor,
    beta2: float | Tensor,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """One step of Adam, as ``torch.optim.adam.adam``; ``max_exp_avg_sqs`` is only read with ``amsgrad``."""
    refuse_differentiable(adam, {"differentiable": differentiable})
    stem = "adamw" if decoupled_weight_decay else "adam"
    _step(
        f"{stem}_amsgrad" if amsgrad else stem,
        {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        [params, grads, exp_avgs, exp_avg_sqs, *([max_exp_avg_sqs] if amsgrad else [])],
        state_steps,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def sgd(
    params: list[Tensor],
    d_p_list: list[Tensor],
    momentum_buffer_list: list[Tensor | None],
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of SGD, as ``torch.optim.sgd.sgd``.

    With momentum, ``None`` in ``momentum_buffer_list`` stands for a parameter in its first step; it is replaced by the
    buffer. Without momentum the list is not read.
    """
    kernel = sgd_kernel(momentum, nesterov=nesterov)
    given: list[Tensor | None] = [None] * len(params) if momentum == 0 else list(momentum_buffer_list)
    buffers = [
        torch.zeros_like(p, memory_format=torch.preserve_format) if buffer is None else buffer
        for p, buffer in zip(params, given, strict=False)  # lengths are checked with those of all lists
    ]
    stepped = _step(
        kernel,
        {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay},
        [params, d_p_list, *([] if momentum == 0 else [buffers])],
        [
            torch.tensor(0.0 if buffer is None else 1.0) for buffer in given
        ],  # all that counts is which step is the first
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    if stepped and momentum != 0:
        momentum_buffer_list[:] = buffers


def adagrad(
    params: list[Tensor],
    grads: list[Tensor],
    state_sums: list[Tensor],
    state_steps: list[Tensor],
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: float | Tensor,
    weight_decay: float,
    lr_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """One step of Adagrad, as ``torch.optim.adagrad.adagrad``."""
    refuse_differentiable(adagrad, {"differentiable": differentiable})
    _step(
        "adagrad",
        {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps},
        [params, grads, state_sums],
        state_steps,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    state_steps: list[Tensor],
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    beta1: float | Tensor,
    beta2: float | Tensor,
    lr: float | Tensor,
    weight_decay: float,
    maximize: bool,
) -> None:
    """One step of Lion; torch has no such function, the arguments are like those of the others."""
    _step(
        "lion",
        {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay},
        [params, grads, exp_avgs],
        state_steps,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


@_disable_dynamo
@torch.no_grad()
def _step(
    kernel: str,
    options: Mapping[str, Any],
    operands: Sequence[list[Tensor]],
    steps: list[Tensor],
    *,
    maximize: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> bool:
    """Takes one step; returns whether it was taken and not skipped."""
    if found_inf is not None and float(found_inf) != 0:
        return False
    for tensor in itertools.chain(*operands, steps):
        if not isinstance(tensor, Tensor):
            msg = f"found {tensor!r} where lists must hold tensors (step counters: 0-d, float32 or float64)"
            raise TypeError(msg)
    batch = Batch()
    rule = Rule(kernel, hyper_parameters(kernel, options), maximize)
    batch.add(rule, _core.describe_kernel(kernel)["state"], operands, steps, range(len(steps)))
    factor = 1.0 if grad_scale is None else 1.0 / float(grad_scale)
    batch.step(grad_factor=factor, max_norm=None, skip_nonfinite=False)
    return True
