"""Plain optimizers in torch operations, and copies of them with one thing changed: what an audit has to find.

Each mutant has a defect that was found in a published optimizer, or one that is near to such. They override one method
of the plain one, or two where a defect has two places.
"""

# ruff: noqa: ARG002 (methods that mutants override have one signature)

import itertools
import os

import torch


class PlainAdamW(torch.optim.Optimizer):
    """AdamW as torch documents it, float32 arithmetic, one rounding of what is stored."""

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        *,
        maximize=False,
        foreach=None,
        capturable=False,
        differentiable=False,
        fused=None,
    ):
        self.check_ranges(lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def check_ranges(self, lr, betas, eps, weight_decay):
        if min(float(lr), eps, weight_decay) < 0 or not all(0 <= beta < 1 for beta in betas):
            msg = "out of range"
            raise ValueError(msg)

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_all()
        return loss

    @torch.no_grad()
    def step_all(self):
        if not self.skips():
            for group in self.param_groups:
                self.step_group(group)

    def skips(self):
        return getattr(self, "found_inf", None) is not None and bool(self.found_inf)

    def step_group(self, group):
        for p in group["params"]:
            if p.grad is not None:
                self.update(p, group)

    def update(self, p, group):
        own = self.state[p]
        if not own:
            self.start(p, own)
        lr, g = self.lr(group), self.gradient(p, group)
        t = self.count(own, group)
        beta1, beta2 = self.betas(group)
        w = self.decay(p, p.float(), lr, group)
        m = self.first(own, beta1, g)
        v = self.second(own, beta2, g)
        own["exp_avg"].copy_(m)
        own["exp_avg_sq"].copy_(v)
        if group["amsgrad"]:
            v = torch.maximum(own.setdefault("max_exp_avg_sq", torch.zeros_like(p)).float(), v)
            own["max_exp_avg_sq"].copy_(v)
        self.write(p, w - self.size(lr, t, beta1) * m / self.denominator(v, t, beta2, group["eps"]))

    def start(self, p, own):
        own["step"] = torch.zeros(())
        own["exp_avg"] = torch.zeros_like(p)
        own["exp_avg_sq"] = torch.zeros_like(p)

    def count(self, own, group):
        own["step"] += 1
        return own["step"]

    def lr(self, group):
        return group["lr"]

    def betas(self, group):
        return group["betas"]

    def gradient(self, p, group):
        scale = getattr(self, "grad_scale", None)
        g = p.grad.float() if scale is None else p.grad.float() / scale
        return -g if group["maximize"] else g

    def decay(self, p, w, lr, group):
        return w * (1 - lr * group["weight_decay"])

    def first(self, own, beta1, g):
        return beta1 * own["exp_avg"].float() + (1 - beta1) * g

    def second(self, own, beta2, g):
        return beta2 * own["exp_avg_sq"].float() + (1 - beta2) * g * g

    def size(self, lr, t, beta1):
        return lr / (1 - beta1**t)

    def denominator(self, v, t, beta2, eps):
        return (v / (1 - beta2**t)).sqrt() + eps

    def write(self, p, value):
        p.copy_(value)


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


class StepOfGroup(PlainAdamW):
    """The count is in the group; the one in the state stays 0."""

    def step_group(self, group):
        group["step"] = group.get("step", 0) + 1
        super().step_group(group)

    def count(self, own, group):
        return group["step"]


class StepLostOnLoad(PlainAdamW):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for own in self.state.values():
            own["step"].zero_()


class StepCastOnLoad(PlainAdamW):
    """The count is cast to the parameter's dtype, like moments."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for p, own in self.state.items():
            own["step"] = own["step"].to(p.dtype)


class MomentsNotSaved(PlainAdamW):
    def state_dict(self):
        saved = super().state_dict()
        saved["state"] = {i: {"step": own["step"]} for i, own in saved["state"].items()}
        return saved

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for p, own in self.state.items():
            own["exp_avg"], own["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)


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


class DecayOnlyWithGradient(PlainAdamW):
    def decay(self, p, w, lr, group):
        return torch.where(p.grad != 0, super().decay(p, w, lr, group), w)


class StepSizeRounded(PlainAdamW):
    def size(self, lr, t, beta1):
        return _bf16(super().size(lr, t, beta1))


class ParameterRounded(PlainAdamW):
    def write(self, p, value):
        p.copy_(value.bfloat16())


class LrAsNumber(PlainAdamW):
    """A number in the graph: compiled anew when it changes."""

    def lr(self, group):
        return float(group["lr"])


class ClosureWithoutGradients(PlainAdamW):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        self.step_all()
        return loss


class ClosureNotReturned(PlainAdamW):
    def step(self, closure=None):
        super().step(closure)


class NoMaximize(PlainAdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class NoAmsgrad(PlainAdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, *, maximize=False):
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize)


class OwnKeywordsOnly(PlainAdamW):
    """Nothing that chooses between torch's implementations."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class MaximizeIgnored(PlainAdamW):
    def gradient(self, p, group):
        return super().gradient(p, {**group, "maximize": False})


class AmsgradIgnored(PlainAdamW):
    def update(self, p, group):
        super().update(p, {**group, "amsgrad": False})


class NegativeDecayTaken(PlainAdamW):
    def check_ranges(self, lr, betas, eps, weight_decay):
        super().check_ranges(lr, betas, eps, abs(weight_decay))


class ZeroGradWithoutArgument(PlainAdamW):
    def zero_grad(self):
        super().zero_grad()


class EmptyEndsGroup(PlainAdamW):
    """A group whose last tensor is empty is passed over."""

    def step_group(self, group):
        if group["params"][-1].numel():
            super().step_group(group)


class MemoryOrder(PlainAdamW):
    """Gradients are read in the order in which they lie in memory."""

    def gradient(self, p, group):
        g = super().gradient(p, group)
        return g if g.is_contiguous() else g.as_strided((g.numel(),), (1,)).view(g.shape)


class ContiguousCopy(PlainAdamW):
    """A parameter that is not contiguous is copied, and the copy is updated."""

    def write(self, p, value):
        p.contiguous().copy_(value)


class TailForgotten(PlainAdamW):
    """Whole vectors only: what is left over stays as it was."""

    def write(self, p, value):
        whole = p.numel() // 8 * 8 if p.numel() > 8 else p.numel()
        p.view(-1)[:whole].copy_(value.view(-1)[:whole]) if p.is_contiguous() else p.copy_(value)


class ZeroDimForgotten(PlainAdamW):
    def step_group(self, group):
        super().step_group({**group, "params": [p for p in group["params"] if p.dim()]})


class MissingIsZero(PlainAdamW):
    """No gradient is taken as a gradient of zeros: the parameter decays."""

    def step_group(self, group):
        for p in group["params"]:
            if p.grad is None:
                self.write(p, self.decay(p, p.float(), self.lr(group), group))
            else:
                self.update(p, group)


class FoundInfIgnored(PlainAdamW):
    def skips(self):
        return False


class GradScaleIgnored(PlainAdamW):
    def gradient(self, p, group):
        return -p.grad.float() if group["maximize"] else p.grad.float()


class SkippedStepCounted(PlainAdamW):
    def skips(self):
        skipped = super().skips()
        if skipped:
            for own in self.state.values():
                own["step"] += 1
        return skipped


class GradientNegated(PlainAdamW):
    """``maximize`` writes into the gradient."""

    def gradient(self, p, group):
        if group["maximize"]:
            p.grad.neg_()
        return super().gradient(p, {**group, "maximize": False})


class LrOfConstructor(PlainAdamW):
    def lr(self, group):
        return self.defaults["lr"] if group is self.param_groups[0] else group["lr"]


class GroupsShareDecay(PlainAdamW):
    def decay(self, p, w, lr, group):
        return super().decay(p, w, lr, self.defaults)


class LateGroupAsFirst(PlainAdamW):
    """A group that is added later is stepped with the options of the first."""

    def step_group(self, group):
        late = group is self.param_groups[-1] and len(self.param_groups) > 2
        super().step_group({**self.param_groups[0], "params": group["params"]} if late else group)


class Unseeded(PlainAdamW):
    """Rounds by random numbers that no seed reaches."""

    _calls = itertools.count(int.from_bytes(os.urandom(4), "little"))

    def write(self, p, value):
        random = torch.Generator().manual_seed(next(self._calls))
        p.copy_(value * (1 + 1e-6 * torch.rand(value.shape, generator=random)))


class ThreadsInResult(PlainAdamW):
    """Adds up in as many parts as there are threads."""

    def write(self, p, value):
        p.copy_(value * (1 + 1e-6 * torch.get_num_threads()))


class KeepsGradient(PlainAdamW):
    def update(self, p, group):
        super().update(p, group)
        self.state[p]["previous"] = torch.stack([p.grad.float(), p.float()])


class BetasSwapped(PlainAdamW):
    def betas(self, group):
        return group["betas"][::-1]


class RaisesForNarrow(PlainAdamW):
    def update(self, p, group):
        if p.dtype is not torch.float32:
            msg = "float32 only"
            raise RuntimeError(msg)
        super().update(p, group)


class DecoupledAdam(PlainAdamW):
    """Says that it is Adam, and decays like AdamW."""


class PlainSGD(torch.optim.Optimizer):
    """SGD as torch documents it."""

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        *,
        maximize=False,
        foreach=None,
        differentiable=False,
        fused=None,
    ):
        if min(float(lr), momentum, weight_decay) < 0:
            msg = "out of range"
            raise ValueError(msg)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group)
        return loss

    def update(self, p, group):
        g = -p.grad.float() if group["maximize"] else p.grad.float()
        g = g + group["weight_decay"] * p.float()
        if group["momentum"]:
            old = self.state[p].get("momentum_buffer")
            b = g if old is None else group["momentum"] * old.float() + (1 - group["dampening"]) * g
            self.state[p]["momentum_buffer"] = self.stored(b, p)
            g = g + group["momentum"] * b if self.nesterov(group) else b
        p.copy_(p.float() - group["lr"] * g)

    def stored(self, b, p):
        return b.to(p.dtype)

    def nesterov(self, group):
        return group["nesterov"]


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
