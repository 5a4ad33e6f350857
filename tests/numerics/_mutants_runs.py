"""Mutants of tensors, state and runs: layouts, shards, checkpoints, repetition, memory."""

import itertools
import os

import torch
from _mutants_plain import PlainAdamW


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


class OptionsNotLoaded(PlainAdamW):
    """Goes on with the lr that it was made with."""

    def load_state_dict(self, state_dict):
        before = [group["lr"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, lr in zip(self.param_groups, before, strict=True):
            group["lr"] = lr


class MomentsLoadedTurned(PlainAdamW):
    """A checkpoint's moments go to other elements of a parameter, which does not show in sums."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for own in self.state.values():
            own["exp_avg"], own["exp_avg_sq"] = own["exp_avg"].flip(0), own["exp_avg_sq"].flip(0)


class EmptyEndsGroup(PlainAdamW):
    """A group whose last tensor is empty is passed over."""

    def step_group(self, group):
        if group["params"][-1].numel():
            super().step_group(group)


class EmptyAloneEndsStep(PlainAdamW):
    """The step ends at a group in which all is empty."""

    def step_group(self, group):
        if not sum(p.numel() for p in group["params"]):
            self.ended = True
        if not getattr(self, "ended", False):
            super().step_group(group)

    def step_all(self):
        self.ended = False
        super().step_all()


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
