"""The matrices of one step of Muon: momentum, Newton-Schulz, update."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._sharding import gather, is_dtensor, scatter_

_MOST_NS_STEPS = 99  # as in torch
_ADJUST_LR_FNS = (None, "original", "match_rms_adamw")


def _orthogonalize(matrix: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The Newton-Schulz iteration of torch.optim.Muon: the same operations in the same order, so that bits are equal.

    Matrices of equal shape are not batched: torch.bmm does not always have the bits of single products, and is not
    faster from about 256 x 256 on.
    """
    a, b, c = group["ns_coefficients"]
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.to(torch.bfloat16)
    if is_tall:
        x = x.T
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def workspace(params: Sequence[Tensor]) -> int:
    """Bytes of a step's tensors: each u and counter, and the products of the matrix that needs most.

    Those are x and its successor, and two squares.
    """
    kept, most = 4 * len(params), 0
    for param in params:
        local: Any = param
        is_wide = param.dtype is torch.float64
        held = (local.to_local() if is_dtensor(param) else param).numel()
        kept += held * (8 if is_wide else 2)
        rows, columns = sorted(param.shape)
        copies = 3 if is_wide or is_dtensor(param) else 2
        most = max(most, 2 * (copies * rows * columns + 2 * rows * rows))
    return kept + most


def _lr_ratio(adjust_lr_fn: str | None, shape: torch.Size) -> float:
    """By what lr is multiplied for a matrix of this shape."""
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / max(columns, 1)))


def check_group(group: Mapping[str, Any]) -> None:
    """Refuses options that were changed to something with which no step can be taken, and parameters that are not 2-D.

    Raises:
        ValueError: what was found and what is allowed.
    """
    if len(group["ns_coefficients"]) != 3:  # noqa: PLR2004 (a, b, c)
        msg = f"ns_coefficients={group['ns_coefficients']!r}: must be three numbers"
        raise ValueError(msg)
    if not 0 <= group["ns_steps"] <= _MOST_NS_STEPS:
        msg = f"ns_steps={group['ns_steps']!r}: must be from 0 to {_MOST_NS_STEPS}"
        raise ValueError(msg)
    if group["adjust_lr_fn"] not in _ADJUST_LR_FNS:
        msg = f"adjust_lr_fn={group['adjust_lr_fn']!r}: must be one of {_ADJUST_LR_FNS}"
        raise ValueError(msg)
    for i, param in enumerate(group["params"]):
        if param.ndim != 2:  # noqa: PLR2004 (a matrix)
            msg = (
                f"Muon only supports 2D parameters, and parameter {i} of the group has the shape {tuple(param.shape)}; "
                "give it to another optimizer, such as FusedAdamW"
            )
            raise ValueError(msg)


@dataclass
class MuonBatch(Batch):
    """The matrices of one step: first a batch of ``muon_momentum``, then the products, then one of ``muon_apply``."""

    _apply: Batch = field(default_factory=Batch)
    _updates: list[tuple[Tensor, Mapping[str, Any]]] = field(default_factory=list)  # with their groups

    def clear(self) -> None:
        """Forgets all tensors."""
        super().clear()
        self._apply.clear()
        self._updates.clear()

    def add_matrix(
        self, rule: Rule, group: Mapping[str, Any], index: int, param: Tensor, grad: Tensor, momentum_buffer: Tensor
    ) -> None:
        """Adds a parameter.

        Args:
            rule: of its momentum.
            group: the options of its group.
            index: of the parameter in its group, for errors.
            param: 2-D.
            grad: shaped like it.
            momentum_buffer: shaped like it.

        Raises:
            ValueError, TypeError: as ``add_from_state``.
        """
        dtype = torch.float64 if param.dtype is torch.float64 else torch.bfloat16
        update = torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format)
        counter = torch.zeros(())  # the kernels count steps, but no term of Muon depends on the count
        self.add(rule, ["momentum_buffer"], [[update], [grad], [momentum_buffer]], [counter], [index])
        numbers = [float(group["lr"]), float(group["weight_decay"]), _lr_ratio(group["adjust_lr_fn"], param.shape)]
        self._apply.add(Rule("muon_apply", numbers, group=rule.group), [], [[param], [update]], [counter], [index])
        self._updates.append((update, group))

    def step(
        self,
        *,
        grad_factor: float | Tensor,
        max_norm: float | None,
        skip_nonfinite: bool,
        sum_squares: float | None = None,
    ) -> tuple[float | Tensor | None, bool]:
        """Takes the step; arguments and results are those of ``Batch.step``."""
        self._apply.check_overlap()
        norm, stepped = super().step(
            grad_factor=grad_factor, max_norm=max_norm, skip_nonfinite=skip_nonfinite, sum_squares=sum_squares
        )
        if stepped:
            for update, group in self._updates:
                scatter_(update, _orthogonalize(gather(update), group))
            self._apply.step(grad_factor=1.0, max_norm=None, skip_nonfinite=False)
        return norm, stepped


def _composite_momentum(
    hyper: Sequence[float],
    t: float,
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    total: Total,
    nesterov: bool = False,
) -> None:
    del t, total
    (momentum,) = hyper
    (buffer,) = states
    average = momentum * buffer.to(grad.dtype) + (1 - momentum) * grad
    buffer.copy_(average)
    param.copy_(momentum * average + (1 - momentum) * grad if nesterov else average)


def _composite_apply(
    hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor], total: Total
) -> None:
    del t, states, total
    lr, weight_decay, ratio = hyper
    wide = param.to(grad.dtype)
    param.copy_(wide - (lr * weight_decay * wide + lr * ratio * grad))


COMPOSITES["muon_momentum"] = _composite_momentum
COMPOSITES["muon_momentum_nesterov"] = functools.partial(_composite_momentum, nesterov=True)
COMPOSITES["muon_apply"] = _composite_apply
