"""Legacy AdamW: eps beside the uncorrected root, and one step count for a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import ParamsT

from gaudi3_rt.optim._fused import Fused

_MOMENTS = ("exp_avg", "exp_avg_sq")
_MOMENTS_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class FusedAdamW(Fused, torch.optim.Optimizer):
    r"""Legacy: the AdamW of ``habana_frameworks.torch.hpex.optimizers``, which is not torch's.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        \alpha &= \eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \quad \text{or} \quad \eta
            \text{ without bias\_correction} \\
        p &= p - \eta \lambda p - \alpha \, m \,/\, (\sqrt{v} + \epsilon)

    with :math:`\eta` ``lr`` and :math:`\lambda` ``weight_decay``. It differs from ``torch.optim.AdamW`` in this:

    - ``eps`` is added to the root before bias correction: as if torch's were :math:`\epsilon / \sqrt{1 - \beta_2^t}`,
      31 times as large in the first step with :math:`\beta_2 = 0.999`. Updates by small gradients are smaller.
    - ``eps`` is 1e-6 and ``weight_decay`` 0 by default; torch's are 1e-8 and 1e-2.
    - :math:`t` is counted for a group, in ``param_groups[i]["step"]``: a parameter that gets its first gradient late
      has nearly no bias correction. The count in its state stays 0.

    From the vendor's class it differs in this: arithmetic is float32, so that a small decay of a bfloat16 parameter is
    not rounded away (a bfloat16 parameter is still rounded to nearest after each step); a closure runs with gradients
    enabled; moments may not be 8-bit floats; and a checkpoint of ``torch.optim.AdamW``, with which the vendor's class
    starts again at :math:`t = 1`, is refused. Its own checkpoints load in both directions.

    Args:
        params: as for ``gaudi3_rt.optim.FusedAdamW``.
        lr: learning rate.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the uncorrected root of the second moment.
        weight_decay: decoupled: multiplied by ``lr``.
        bias_correction: whether :math:`\alpha` is corrected.
        moments_dtype: dtype of the moments or a pair of them: float32, bfloat16 or float16; ``None``: the parameter's.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        moments_dtype: torch.dtype | tuple[torch.dtype, torch.dtype] | None = None,
    ) -> None:
        if not lr >= 0:
            msg = f"lr={lr!r}: must be >= 0"
            raise ValueError(msg)
        if not all(0 <= beta < 1 for beta in betas):
            msg = f"betas={betas!r}: both must be in [0, 1)"
            raise ValueError(msg)
        if not eps >= 0:
            msg = f"eps={eps!r}: must be >= 0"
            raise ValueError(msg)
        pair = moments_dtype if isinstance(moments_dtype, tuple) else (moments_dtype, moments_dtype)
        if len(pair) != len(_MOMENTS) or any(dtype not in (None, *_MOMENTS_DTYPES) for dtype in pair):
            msg = f"moments_dtype={moments_dtype!r}: must be one of {_MOMENTS_DTYPES}, a pair of them, or None"
            raise ValueError(msg)
        self.moments_dtype = moments_dtype
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "bias_correction": bias_correction})
        self._start({})

    def _run_up(self) -> None:
        super()._run_up()
        self.register_state_dict_post_hook(_zero_steps, prepend=True)

    def _kernel(self, group: Mapping[str, Any]) -> str:  # noqa: ARG002 (the same for all)
        return "adamw"

    # The kernel's own bias correction is switched off by an infinite count, at which beta^t is 0; what depends on the
    # group's count goes into its lr.

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        beta1, beta2 = group["betas"]
        lr = alpha = float(group["lr"])
        if group["bias_correction"]:
            t = group.get("step", 0) + 1
            alpha *= math.sqrt(1 - beta2**t) / (1 - beta1**t)
        decay = lr * group["weight_decay"] / alpha if alpha else 0.0
        return [alpha, beta1, beta2, group["eps"], decay]

    def _first_state(self, own: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:
        dtypes = self.moments_dtype if isinstance(self.moments_dtype, tuple) else (self.moments_dtype,) * 2
        made = {
            name: torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
            for name, dtype in zip(_MOMENTS, dtypes, strict=True)
            if name not in own
        }
        return {"step": torch.full((), math.inf), **made}

    @_disable_dynamo
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step, under ``torch.compile`` outside of the graph; see ``gaudi3_rt.optim.FusedAdamW``."""
        return super().step(closure)

    def _eager_step(self) -> None:
        super()._eager_step()
        if not self.last_step_skipped:
            for group in self.param_groups:
                if any(p.grad is not None for p in group["params"]):
                    group["step"] = group.get("step", 0) + 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of the vendor's, also an old one with ``correct_bias``.

        Raises:
            ValueError: it is of another class, or does not fit; the optimizer is as before.
        """
        groups = [dict(group) for group in state_dict["param_groups"]]
        for group in groups:
            if "correct_bias" in group:
                group["bias_correction"] = group.pop("correct_bias")
        super().load_state_dict({**state_dict, "param_groups": groups})

    def __getstate__(self) -> dict[str, Any]:  # noqa: D105 (Python's own)
        return {**super().__getstate__(), "moments_dtype": self.moments_dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:  # noqa: D105 (same)
        super().__setstate__(state)
        for own in self.state.values():
            own["step"] = torch.full((), math.inf)


def _zero_steps(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """As the vendor's class saves them."""
    state_dict["state"] = {index: {**own, "step": 0} for index, own in state_dict["state"].items()}
