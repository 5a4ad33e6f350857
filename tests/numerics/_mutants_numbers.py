"""Mutants of what is computed: another formula or default, and numbers that are rounded."""

# ruff: noqa: ARG002 (methods that mutants override have one signature)

import torch
from _mutants_plain import PlainAdamW, PlainMuon, PlainSGD


def _bf16(value):
    """A number as bfloat16 holds it."""
    return torch.as_tensor(value, dtype=torch.bfloat16).float()


class LegacyEps(PlainAdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2, amsgrad=False, **more):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **more)


class NoDecayByDefault(PlainAdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, **more):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **more)


class EpsBeforeCorrection(PlainAdamW):
    def denominator(self, v, t, beta2, eps):
        return (v.sqrt() + eps) / (1 - beta2**t) ** 0.5


class EpsUnderRoot(PlainAdamW):
    def denominator(self, v, t, beta2, eps):
        return (v / (1 - beta2**t) + eps).sqrt()


class NoEps(PlainAdamW):
    def denominator(self, v, t, beta2, eps):
        return (v / (1 - beta2**t)).sqrt() + 1e-30


class EpsIgnored(PlainAdamW):
    def denominator(self, v, t, beta2, eps):
        return super().denominator(v, t, beta2, 1e-8)


class StepOfGroup(PlainAdamW):
    """The count is in the group; the one in the state stays 0."""

    def step_group(self, group):
        group["step"] = group.get("step", 0) + 1
        super().step_group(group)

    def count(self, own, group):
        return group["step"]


class NoBiasCorrection(PlainAdamW):
    def count(self, own, group):
        super().count(own, group)
        return torch.tensor(1e9)


class CorrectionOffByOne(PlainAdamW):
    def count(self, own, group):
        return super().count(own, group) + 1


class BetasRounded(PlainAdamW):
    def betas(self, group):
        return tuple(_bf16(beta) for beta in group["betas"])


class SecondMomentFrozen(PlainAdamW):
    """Its decay rate rounds to 1, what is added does not."""

    def second(self, own, beta2, g):
        return _bf16(beta2) * own["exp_avg_sq"].float() + (1 - beta2) * g * g


class NarrowMoments(PlainAdamW):
    def start(self, p, own):
        super().start(p, own)
        own["exp_avg"], own["exp_avg_sq"] = own["exp_avg"].bfloat16(), own["exp_avg_sq"].bfloat16()


class NarrowArithmetic(PlainAdamW):
    """Every number of the graph in the dtype of the parameter, also betas."""

    def betas(self, group):
        narrow = group["params"][0].dtype
        return tuple(torch.as_tensor(beta, dtype=narrow).float() for beta in group["betas"])


class DecayFactorRounded(PlainAdamW):
    def decay(self, p, w, lr, group):
        return w * _bf16(1 - lr * group["weight_decay"])


class DecayInGradient(PlainAdamW):
    def gradient(self, p, group):
        return super().gradient(p, group) + group["weight_decay"] * p.float()

    def decay(self, p, w, lr, group):
        return w


class DecayWithoutLr(PlainAdamW):
    def decay(self, p, w, lr, group):
        return w * (1 - 1e-3 * group["weight_decay"])


class DecayAfterUpdate(PlainAdamW):
    """Shrinks the update, too."""

    def update(self, p, group):
        super().update(p, {**group, "weight_decay": 0.0})
        p.mul_(1 - self.lr(group) * group["weight_decay"])


class DecayOnlyWithGradient(PlainAdamW):
    def decay(self, p, w, lr, group):
        return torch.where(p.grad != 0, super().decay(p, w, lr, group), w)


class StepSizeRounded(PlainAdamW):
    def size(self, lr, t, beta1):
        return _bf16(super().size(lr, t, beta1))


class ParameterRounded(PlainAdamW):
    def write(self, p, value):
        p.copy_(value.bfloat16())


class BetasSwapped(PlainAdamW):
    def betas(self, group):
        return group["betas"][::-1]


class DecoupledAdam(PlainAdamW):
    """Says that it is Adam, and decays like AdamW."""


class MomentumTrash(PlainSGD):
    """Half of a narrow buffer holds what was in memory before."""

    def stored(self, b, p):
        b = super().stored(b, p)
        if p.dtype is torch.bfloat16 and b.numel() > 1:
            b.view(-1)[b.numel() // 2 :] = 0.0
        return b


class NesterovIgnored(PlainSGD):
    def nesterov(self, group):
        return False


class ShapeIgnored(PlainMuon):
    def ratio(self, p, group):
        return 1.0


class WidthForHeight(PlainMuon):
    def ratio(self, p, group):
        return super().ratio(p.T, group)


class IterationFixed(PlainMuon):
    """Always the usual polynomial, whatever is given."""

    def orthogonal(self, u, group):
        return super().orthogonal(u, {**group, "ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5})


class NesterovAlways(PlainMuon):
    def update(self, p, group):
        super().update(p, {**group, "nesterov": True})
