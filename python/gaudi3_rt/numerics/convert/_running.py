"""How an optimizer goes on from a ``state_dict``: the class itself where it is here, or a model of its formula."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Gradients = Sequence[Sequence[Tensor]]
"""By step, then by parameter in the order of the groups."""


def with_class(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    state_dict: Mapping[str, Any],
    params: Sequence[Tensor],
    gradients: Gradients,
) -> dict[str, Any]:
    """Loads a state into an optimizer and takes steps with it; ``params`` are updated in place.

    Args:
        make: an optimizer of groups.
        state_dict: as it loads it.
        params: in the order of the groups.
        gradients: of each step.

    Returns:
        The ``state_dict`` after that.
    """
    leaves = [torch.nn.Parameter(param) for param in params]
    rest = iter(leaves)
    groups = [{"params": [next(rest) for _ in group["params"]]} for group in state_dict["param_groups"]]
    optimizer = make(groups)
    optimizer.load_state_dict(copy.deepcopy(dict(state_dict)))
    for step in gradients:
        for leaf, gradient in zip(leaves, step, strict=True):
            leaf.grad = gradient.clone()
        optimizer.step()
    return optimizer.state_dict()


Update = Callable[[Tensor, Tensor, dict[str, Any], Mapping[str, Any]], None]
"""One update of a float32 parameter, in place: parameter, gradient, its state, its group."""


def with_model(
    update: Update, state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients
) -> dict[str, Any]:
    """The same with a formula, written out in torch operations, that reads counts and moments where its library does.

    Arithmetic is float32, and the parameter is rounded to its dtype after each step.
    """
    state: dict[str, Any] = copy.deepcopy(dict(state_dict))
    for step in gradients:
        rest = iter(zip(params, step, strict=True))
        for group in state["param_groups"]:
            if "step" in group:
                group["step"] = group["step"] + 1
            for key in group["params"]:
                param, gradient = next(rest)
                wide = param.float()
                update(wide, gradient.float(), state["state"][key], group)
                param.copy_(wide)
    return state


def adam_moments(gradient: Tensor, first: Tensor, second: Tensor, betas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Both moments after an update, float32: each its old value times beta, plus the new one times 1 - beta."""
    beta1, beta2 = betas[:2]
    return (
        beta1 * first.float() + (1 - beta1) * gradient,
        beta2 * second.float() + (1 - beta2) * gradient * gradient,
    )
