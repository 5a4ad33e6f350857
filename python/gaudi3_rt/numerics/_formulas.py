"""The documented updates, each in plain operations on float64 tensors of the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Rule = Callable[[Tensor, Tensor, State, Mapping[str, Any], int], Tensor]
"""New parameter from parameter, gradient, state (updated in place), options, and number of the step from 1."""


Round = Callable[[Tensor], Tensor]
"""What arithmetic does to a result."""


def _adam(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int, *, decoupled: bool) -> Tensor:
    lr, (beta1, beta2), decay = float(options["lr"]), map(float, options["betas"]), options["weight_decay"]
    if decoupled:
        p = p - lr * decay * p
    else:
        g = g + decay * p
    m = state["exp_avg"] = beta1 * state.get("exp_avg", torch.zeros_like(p)) + (1 - beta1) * g
    v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", torch.zeros_like(p)) + (1 - beta2) * g * g
    if options["amsgrad"]:
        v = state["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", v), v)
    denominator: Tensor = (v / (1 - beta2**t)).sqrt() + options["eps"]
    return p - lr * (m / (1 - beta1**t)) / denominator


def adam_l2(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """Adam, with decay in the gradient unless it says otherwise."""
    return _adam(p, g, state, options, t, decoupled=bool(options.get("decoupled_weight_decay")))


def adamw(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """Adam with decoupled decay."""
    return _adam(p, g, state, options, t, decoupled=True)


def sgd(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """Gradient descent with momentum."""
    g = g + options["weight_decay"] * p
    momentum = options["momentum"]
    if momentum:
        old = state.get("momentum_buffer")
        b = state["momentum_buffer"] = g if t == 1 or old is None else momentum * old + (1 - options["dampening"]) * g
        g = g + momentum * b if options["nesterov"] else b
    return p - float(options["lr"]) * g


def adagrad(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """Adagrad."""
    g = g + options["weight_decay"] * p
    first = torch.full_like(p, options["initial_accumulator_value"])
    total = state["sum"] = state.get("sum", first) + g * g
    lr = float(options["lr"]) / (1 + (t - 1) * float(options["lr_decay"]))
    return p - lr * g / (total.sqrt() + float(options["eps"]))


def lion(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:  # noqa: ARG001 (as Rule)
    """Lion."""
    lr, (beta1, beta2), decay = float(options["lr"]), options["betas"], float(options["weight_decay"])
    m = state.get("exp_avg", torch.zeros_like(p))
    state["exp_avg"] = beta2 * m + (1 - beta2) * g
    sign: Tensor = (beta1 * m + (1 - beta1) * g).sign()
    return p - lr * (sign + decay * p)


def lamb(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """LAMB, of one tensor."""
    (beta1, beta2), decay = options["betas"], float(options["weight_decay"])
    m = state["exp_avg"] = beta1 * state.get("exp_avg", torch.zeros_like(p)) + (1 - beta1) * g
    v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", torch.zeros_like(p)) + (1 - beta2) * g * g
    u: Tensor = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + options["eps"]) + decay * p
    of_p, of_u = float(p.norm()), float(u.norm())
    ratio = of_p / of_u if decay and of_p and of_u else 1.0
    return p - float(options["lr"]) * ratio * u


def muon(
    p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int, *, rounded: Round = lambda x: x
) -> Tensor:
    """Muon, of one matrix."""
    del t
    lr, momentum = float(options["lr"]), options["momentum"]
    b = state["momentum_buffer"] = momentum * state.get("momentum_buffer", torch.zeros_like(p)) + (1 - momentum) * g
    u = (1 - momentum) * g + momentum * b if options["nesterov"] else b
    rows, columns = p.shape
    ratio = math.sqrt(max(1.0, rows / max(columns, 1)))
    if options["adjust_lr_fn"] == "match_rms_adamw":
        ratio = 0.2 * math.sqrt(max(rows, columns))
    return p - lr * float(options["weight_decay"]) * p - lr * ratio * _orthogonal(u, options, rounded)


def _orthogonal(u: Tensor, options: Mapping[str, Any], rounded: Round) -> Tensor:
    """The quintic Newton-Schulz iteration: a x + b x^3 + c x^5 of each singular value of u over its norm."""
    a, b, c = options["ns_coefficients"]
    x = rounded(u.T if u.shape[0] > u.shape[1] else u)
    x = rounded(x / max(float(x.norm()), options["eps"]))
    for _ in range(options["ns_steps"]):
        gram = rounded(x @ x.T)
        x = rounded(a * x + rounded(b * gram + c * (gram @ gram)) @ x)
    turned: Tensor = x.T if u.shape[0] > u.shape[1] else x
    return turned


def bfloat16(x: Tensor) -> Tensor:
    """Rounded to bfloat16."""
    return x.bfloat16().double()


def lars(p: Tensor, g: Tensor, state: State, options: Mapping[str, Any], t: int) -> Tensor:
    """LARS, of one tensor."""
    decay, of_p, of_g = float(options["weight_decay"]), float(p.norm()), float(g.norm())
    ratio = 1.0
    if decay and of_p and of_g:
        ratio = options["trust_coeff"] * of_p / (of_g + decay * of_p + options["eps"])
    return sgd(p, ratio * (g + decay * p), state, {**options, "weight_decay": 0.0}, t)
