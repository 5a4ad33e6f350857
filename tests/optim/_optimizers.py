"""The optimizers that the tests of this folder run over, and what each is compared with."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gaudi3_rt.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedLAMB, FusedLARS, FusedLion, FusedSGD
from gaudi3_rt.optim._fused import Fused


def parameters(dtype=torch.float32):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((4, 6), (7,), ())]


def train(params, optimizer, steps, first=0):
    """Steps with random gradients that depend only on the step's number."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


class Lion(torch.optim.Optimizer):
    """arXiv:2302.06675, Algorithm 2, in torch operations: torch has no such class."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None):
        """One step; the parameter is decayed first, as in torch.optim.AdamW."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["exp_avg"] = torch.tensor(0.0), torch.zeros_like(p)
                state["step"] += 1
                grad = -p.grad if group["maximize"] else p.grad
                p.mul_(1 - lr * group["weight_decay"])
                p.add_((beta1 * state["exp_avg"] + (1 - beta1) * grad).sign(), alpha=-lr)
                state["exp_avg"].lerp_(grad, 1 - beta2)
        return loss


class Lamb(torch.optim.Optimizer):
    """arXiv:1904.00962, Algorithm 2, with the options and guards of apex's FusedLAMB, in torch operations."""

    def __init__(self, params, lr=1e-3, **options):
        defaults = {
            "lr": lr,
            "bias_correction": True,
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0.01,
            "adam_w_mode": True,
            "grad_averaging": True,
            "use_nvlamb": False,
            "maximize": False,
        }
        options.pop("max_grad_norm", None)  # the tests clip by torch's function
        super().__init__(params, {**defaults, **options})

    @torch.no_grad()
    def step(self, closure=None):
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                t = float(state["step"]) if group["bias_correction"] else math.inf
                grad = -p.grad if group["maximize"] else p.grad
                if not group["adam_w_mode"]:
                    grad = grad + decay * p
                state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1 if group["grad_averaging"] else 1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                update = state["exp_avg"] / (1 - beta1**t)
                update /= (state["exp_avg_sq"] / (1 - beta2**t)).sqrt() + group["eps"]
                if group["adam_w_mode"]:
                    update += decay * p
                ratio = 1.0
                if (decay or group["use_nvlamb"]) and p.norm() != 0 and update.norm() != 0:
                    ratio = p.norm() / update.norm()
                p.sub_(lr * ratio * update)
        return loss


class Lars(torch.optim.Optimizer):
    """arXiv:1708.03888 on the update of torch.optim.SGD, with the options of timm's Lars, in torch operations."""

    def __init__(self, params, lr=1.0, **options):
        defaults = {
            "lr": lr,
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "trust_coeff": 0.001,
            "eps": 1e-8,
            "trust_clip": False,
            "always_adapt": False,
            "maximize": False,
        }
        super().__init__(params, {**defaults, **options})

    @torch.no_grad()
    def step(self, closure=None):
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum, decay = float(group["lr"]), group["momentum"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                grad = -p.grad if group["maximize"] else p.grad
                ratio = 1.0
                if (decay or group["always_adapt"]) and p.norm() != 0 and grad.norm() != 0:
                    ratio = group["trust_coeff"] * p.norm() / (grad.norm() + decay * p.norm() + group["eps"])
                    if group["trust_clip"]:
                        ratio = (ratio / lr).clamp(max=1)
                grad = ratio * (grad + decay * p)
                if state:
                    state["step"] += 1
                    state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - group["dampening"])
                else:
                    state["step"], state["momentum_buffer"] = torch.tensor(1.0), grad.clone()
                buffer = state["momentum_buffer"] if momentum else grad
                p.sub_(lr * (grad + momentum * buffer if group["nesterov"] else buffer))
        return loss


@dataclass(frozen=True)
class Case:
    """An optimizer with options.

    Attributes:
        ours: our class.
        theirs: torch's, or the definition in torch operations where torch has none.
        options: arguments of both.
        decays_by_factor: whether theirs multiplies parameters by 1 - lr * weight_decay, rounded to their dtype.
        steps_by_sign: whether a step is discontinuous: near a tie, rounding decides its sign.
        clips_by_default: whether ours clips by a global norm unless told not to.
    """

    ours: type[Fused]
    theirs: type[torch.optim.Optimizer]
    options: dict[str, Any]
    decays_by_factor: bool = False
    steps_by_sign: bool = False
    clips_by_default: bool = False

    def bare(self, params, **options):
        """Our optimizer with options of the test instead of the case; without clipping unless asked for."""
        return self.ours(params, **({"max_grad_norm": None, **options} if self.clips_by_default else options))

    def make(self, params, **more):
        """Our optimizer."""
        return self.bare(params, **{**self.options, **more})

    def reference(self, params, **more):
        """Theirs."""
        return self.theirs(params, **{**self.options, **more})

    def assert_close(self, got, want, atol):
        """Two lists of tensors agree; where steps are signs, one element in fifty may have taken another at a tie."""
        pairs = zip(got, want, strict=True)
        far = torch.cat([~((a.detach() - b.detach()).abs() <= atol).flatten() for a, b in pairs])
        allowed = far.numel() // 50 if self.steps_by_sign else 0
        assert far.sum() <= allowed, f"{far.sum()} of {far.numel()} elements are not within {atol}"


def _cases(ours, theirs, options, **how):
    return {f"{theirs.__name__}, {name}": Case(ours, theirs, some, **how) for name, some in options.items()}


EVERY_OPTION = {
    **_cases(
        FusedAdamW,
        torch.optim.AdamW,
        {
            "defaults": {},
            "amsgrad": {"amsgrad": True},
            "maximize": {"maximize": True},
            "amsgrad and maximize": {"amsgrad": True, "maximize": True},
            "no weight decay": {"weight_decay": 0.0},
            "large weight decay": {"weight_decay": 0.5},
            "large eps": {"eps": 1e-2},
            "betas": {"betas": (0.5, 0.95)},
            "betas of zero": {"betas": (0.0, 0.0), "eps": 1e-3},
            "tensor lr": {"lr": torch.tensor(3e-3)},
            "tensor betas": {"betas": (torch.tensor(0.8), torch.tensor(0.98))},
            "foreach": {"foreach": True},
            "fused": {"fused": True},
        },
        decays_by_factor=True,
    ),
    **_cases(
        FusedAdam,
        torch.optim.Adam,
        {
            "defaults": {},
            "weight decay": {"weight_decay": 0.1},
            "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
            "maximize": {"maximize": True, "weight_decay": 0.1},
            "large eps": {"eps": 1e-2},
            "betas": {"betas": (0.5, 0.95)},
            "tensor lr": {"lr": torch.tensor(3e-3)},
            "foreach": {"foreach": True},
            "fused": {"fused": True, "weight_decay": 0.1},
        },
    ),
    **_cases(
        FusedAdam,
        torch.optim.Adam,
        {
            "decoupled": {"decoupled_weight_decay": True, "weight_decay": 0.1},
            "decoupled amsgrad": {"decoupled_weight_decay": True, "weight_decay": 0.1, "amsgrad": True},
        },
        decays_by_factor=True,
    ),
    **_cases(
        FusedSGD,
        torch.optim.SGD,
        {
            "defaults": {},
            "weight decay": {"weight_decay": 0.1},
            "momentum": {"momentum": 0.9},
            "dampening": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            "dampening of one": {"momentum": 0.99, "dampening": 1.0},
            "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            "maximize": {"momentum": 0.9, "maximize": True, "weight_decay": 0.1},
            "tensor lr": {"lr": torch.tensor(3e-3), "momentum": 0.9},
            "foreach": {"foreach": True, "momentum": 0.5},
            "fused": {"fused": True, "momentum": 0.9, "weight_decay": 0.1},
        },
    ),
    **_cases(
        FusedLion,
        Lion,
        {
            "defaults": {},
            "weight decay": {"weight_decay": 0.1},
            "betas": {"betas": (0.5, 0.95)},
            "maximize": {"maximize": True, "weight_decay": 0.1},
            "tensor lr": {"lr": torch.tensor(3e-3)},
        },
        decays_by_factor=True,
        steps_by_sign=True,
    ),
    **_cases(
        FusedAdagrad,
        torch.optim.Adagrad,
        {
            "defaults": {},
            "lr_decay": {"lr_decay": 1e-2, "weight_decay": 0.1, "initial_accumulator_value": 0.1},
            "large eps": {"eps": 1e-2},
            "maximize": {"maximize": True, "weight_decay": 0.1},
            "tensor lr": {"lr": torch.tensor(3e-3)},
            "foreach": {"foreach": True},
            "fused": {"fused": True, "weight_decay": 0.1},
        },
    ),
    **_cases(
        FusedLAMB,
        Lamb,
        {
            "defaults": {},
            "L2": {"adam_w_mode": False, "weight_decay": 0.1},
            "without corrections": {"bias_correction": False, "grad_averaging": False},
            "without decay": {"weight_decay": 0.0},
            "always adapting": {"weight_decay": 0.0, "use_nvlamb": True, "eps": 1e-2},
            "maximize": {"maximize": True, "betas": (0.5, 0.95)},
            "tensor lr": {"lr": torch.tensor(3e-3)},
        },
        clips_by_default=True,
    ),
    **_cases(
        FusedLARS,
        Lars,
        {
            "defaults": {"lr": 0.1},
            "momentum": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "trust_coeff": 0.02},
            "dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "always_adapt": True, "trust_coeff": 0.02},
            "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "trust_coeff": 0.02},
            "clipped": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "trust_clip": True, "trust_coeff": 0.2},
            "maximize": {"lr": torch.tensor(0.1), "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
        },
    ),
}

# One case for each kernel of an optimizer; of these, the last one of each class.
EVERY_KERNEL = {
    name: EVERY_OPTION[name]
    for name in (
        "AdamW, amsgrad",
        "AdamW, defaults",
        "Adam, amsgrad",
        "Adam, weight decay",
        "SGD, weight decay",
        "SGD, nesterov",
        "SGD, dampening",
        "Lion, weight decay",
        "Adagrad, lr_decay",
        "Lamb, L2",
        "Lamb, defaults",
        "Lars, nesterov",
        "Lars, momentum",
    )
}
EVERY_CLASS = {case.ours: case for case in EVERY_KERNEL.values()}

every_option = pytest.mark.parametrize("case", EVERY_OPTION.values(), ids=EVERY_OPTION)
every_kernel = pytest.mark.parametrize("case", EVERY_KERNEL.values(), ids=EVERY_KERNEL)
# Without those that form a step from moments as they are stored: that is two roundings, not one.
ONCE_ROUNDED = {name: case for name, case in EVERY_KERNEL.items() if case.ours is not FusedLAMB}
every_once_rounded = pytest.mark.parametrize("case", ONCE_ROUNDED.values(), ids=ONCE_ROUNDED)
every_class = pytest.mark.parametrize("case", EVERY_CLASS.values(), ids=lambda case: case.ours.__name__)
