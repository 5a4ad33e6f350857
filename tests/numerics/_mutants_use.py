"""Mutants of what trainings do with an optimizer: options, groups, closures, scalers."""

# ruff: noqa: ARG002 (methods that mutants override have one signature)

import inspect

import torch
from _mutants_plain import PlainAdamW


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


class UnknownKeywordsTaken(PlainAdamW):
    """A word that is misspelt does nothing."""

    def __init__(self, params, *arguments, **options):
        known = inspect.signature(PlainAdamW).parameters
        super().__init__(params, *arguments, **{name: value for name, value in options.items() if name in known})


class NeedsDevice(PlainAdamW):
    """Has a tensor on a device that is not there."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        torch.zeros(1, device="cuda:77")


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


class MissingIsZero(PlainAdamW):
    """No gradient is taken as a gradient of zeros: the parameter decays."""

    def step_group(self, group):
        for p in group["params"]:
            if p.grad is None:
                self.write(p, self.decay(p, p.float(), self.lr(group), group))
            else:
                self.update(p, group)


class FrozenDecays(PlainAdamW):
    """Decay does not ask whether a parameter is trained."""

    @torch.no_grad()
    def step_all(self):
        super().step_all()
        for group in self.param_groups:
            for p in group["params"]:
                if not p.requires_grad:
                    self.write(p, self.decay(p, p.float(), self.lr(group), group))


class RaisesForNarrow(PlainAdamW):
    def update(self, p, group):
        if p.dtype is not torch.float32:
            msg = "float32 only"
            raise RuntimeError(msg)
        super().update(p, group)


class GradientNegated(PlainAdamW):
    """``maximize`` writes into the gradient."""

    def gradient(self, p, group):
        if group["maximize"]:
            p.grad.neg_()
        return super().gradient(p, {**group, "maximize": False})


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
