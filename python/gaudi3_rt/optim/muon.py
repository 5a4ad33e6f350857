"""Muon: momentum whose matrices are orthogonalised before they are applied, with the numerics of torch.optim.Muon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from gaudi3_rt.optim._fused import Fused
from gaudi3_rt.optim._matrices import MuonBatch, check_group, workspace
from gaudi3_rt.optim._options import ClippingOptions
from gaudi3_rt.optim._traced import _Traced


class FusedMuon(Fused, torch.optim.Muon):
    r"""``torch.optim.Muon`` with its elementwise parts fused, and with gradient clipping and AMP unscaling inside it.

    .. math::
        m &= \mu m + (1 - \mu) g \qquad u = \mu m + (1 - \mu) g \text{ with nesterov, else } m \\
        p &= p - \eta \lambda p - \eta \, r(p) \, \mathrm{NS}(u)

    with :math:`\mu` ``momentum``, :math:`\eta` ``lr``, :math:`\lambda` ``weight_decay``. NS is the quintic
    Newton-Schulz iteration in bfloat16, which brings all singular values of a matrix near 1; :math:`r` adjusts ``lr``
    to its shape: for A rows and B columns, :math:`\sqrt{\max(1, A / B)}` or, with ``"match_rms_adamw"``,
    :math:`0.2 \sqrt{\max(A, B)}` (kellerjordan.github.io/posts/muon; arXiv:2502.16982).

    One pass over all parameters clips, unscales and averages and leaves u in bfloat16; the matrix products are torch's,
    operation by operation those of ``torch.optim.Muon``; one pass applies decay and update. Elementwise arithmetic is
    float32 whatever the storage (float64 for float64 parameters); a bfloat16 or float16 parameter is rounded once.
    During a step all u together take 2 bytes for each element. ``state_dict`` is that of ``torch.optim.Muon`` and loads
    in both directions.

    Muon is for the matrices of hidden layers. The rest of a model takes another optimizer::

        hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
        taken = set(hidden)
        rest = [p for p in model.parameters() if p not in taken]
        optimizers = [FusedMuon(hidden, lr=0.02), FusedAdamW(rest, lr=3e-4)]
        ...
        for optimizer in optimizers:
            optimizer.step()

    Each then clips by the norm of its own gradients; for one norm over both, clip before the steps.

    Args:
        params: 2-D parameters, named parameters or groups. The u of a DTensor is gathered for its products: each rank
            computes the whole matrix, with the same result as without sharding.
        lr: learning rate, a float or a tensor of one element.
        weight_decay: decoupled: multiplied by ``lr`` alone, without :math:`r`.
        momentum: share of the average that is kept in a step.
        nesterov: look one step of momentum ahead.
        ns_coefficients: of the polynomial a x + b x^3 + c x^5 that an iteration applies to the singular values.
        eps: least norm by which a matrix is divided before it is iterated.
        ns_steps: number of iterations, at most 99.
        adjust_lr_fn: ``"original"`` (or ``None``) or ``"match_rms_adamw"``.
        **options: clipping; see ``gaudi3_rt.optim.Options``. Parameters and momentum keep their dtype; bfloat16 is
            rounded to nearest.

    Raises:
        ValueError: a parameter is not 2-D, or an argument is out of range.
    """

    _batch_type = MuonBatch
    _options = ClippingOptions
    _batch: MuonBatch

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **options: Unpack[ClippingOptions],
    ) -> None:
        rate: Any = lr  # torch accepts a tensor but does not say so
        super().__init__(params, rate, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn)
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        return "muon_momentum_nesterov" if group["nesterov"] else "muon_momentum"

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        check_group(group)
        return [float(group["momentum"])]

    def _missing(self, own: Mapping[str, Any], kernel: str, p: Tensor) -> Iterator[tuple[str, Tensor]]:
        return (item for item in super()._missing(own, kernel, p) if item[0] != "step")  # torch.optim.Muon has none

    def _required_state(self, kernel: str) -> set[str]:
        return super()._required_state(kernel) - {"step"}

    def _workspace(self) -> int:
        return workspace([p for group in self.param_groups for p in group["params"] if p.grad is not None])

    def _add_all(self, batch: MuonBatch) -> bool:  # type: ignore[override]  # it is always self._batch
        for g, group in enumerate(self.param_groups):
            rule = self._rule(g)
            for index, param in enumerate(group["params"]):
                if param.grad is None:
                    continue
                momentum_buffer = self.state.get(param, {}).get("momentum_buffer")
                if momentum_buffer is None:
                    return False
                batch.add_matrix(rule, group, index, param, param.grad, momentum_buffer)
        return True

    def _traced_step_of(
        self, entry: _Traced, seen: list[int], hyper: Tensor, factor: Tensor | None, found_inf: Tensor | None
    ) -> None:
        params = [entry["params"][i] for i in seen]
        torch.ops.gaudi3_rt.muon_step_(
            [p.detach() for p in params],
            [p.grad for p in params],
            [entry["states"][0][i] for i in seen],
            hyper,
            self._name,
            entry["group"],
            factor,
            found_inf,
        )
