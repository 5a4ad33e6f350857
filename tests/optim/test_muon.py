"""Muon's update is its definition around torch's own products, for every option."""

import copy
import math

import pytest
import torch
from _muon import (
    OPTIONS,
    STEPS,
    UNIT,
    buffers,
    exact_newton_schulz,
    largest,
    parameters,
    ratio,
    set_grads,
    total,
    train,
)
from torch.optim._muon import _zeropower_via_newtonschulz

from gaudi3_rt.optim import FusedAdamW, FusedMuon
from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._rule import Rule

pytestmark = pytest.mark.usefixtures("one_thread")


# The update


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_step_is_the_definition_around_torchs_own_products(options):
    """Momentum by the kernel, Newton-Schulz by torch's function, the update in double: equal to one rounding."""
    params = parameters()
    optimizer = FusedMuon(params, **{"lr": 0.02, **options})
    (group,) = optimizer.param_groups
    lr, mu = float(group["lr"]), group["momentum"]
    kernel = "muon_momentum_nesterov" if group["nesterov"] else "muon_momentum"
    average = [torch.zeros_like(p) for p in params]
    for step in range(STEPS):
        set_grads(step, params)
        before = [p.detach().double() for p in params]
        updates = [torch.empty(p.shape, dtype=torch.bfloat16) for p in params]
        batch = Batch()
        operands = [updates, [p.grad for p in params], average]
        counters = [torch.zeros(()) for _ in params]
        batch.add(Rule(kernel, [mu]), ["momentum_buffer"], operands, counters, range(len(params)))
        batch.step(grad_factor=1.0, max_norm=None, skip_nonfinite=False)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(buffers(optimizer), average, strict=True))
        for p, q, u in zip(params, before, updates, strict=True):
            o = _zeropower_via_newtonschulz(u, group["ns_coefficients"], group["ns_steps"], group["eps"]).double()
            decay, move = lr * group["weight_decay"] * q, lr * ratio(group["adjust_lr_fn"], p.shape) * o
            want = q - decay - move
            # One rounding of the result, and a few of what is subtracted.
            allowed = UNIT * want.abs() + 4 * UNIT * (decay.abs() + move.abs())
            assert ((p.detach() - want).abs() <= allowed).all()
            assert largest([want], [q]) > 1e-3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_same_update_as_torch_for_every_option(options):
    """After 30 steps the momentum is torch's to float rounding, and the parameters are as bfloat16 products allow.

    A step rounds an average by up to two units of it, which the next steps forget like all else: 1 / (1 - mu) such
    errors add up; and each gradient, or its difference to the average, by up to four. Where that moves an element of u
    to the next bfloat16 number, the products differ, but by far less than they do from the same iteration in double;
    and ours are not farther from that than torch's.
    """
    options = {"lr": 0.02, **options}
    ours, theirs = parameters(), parameters()
    start, exact = parameters(), [p.detach().double() for p in parameters()]
    a, b = FusedMuon(ours, **options), torch.optim.Muon(theirs, **copy.deepcopy(options))
    (group,) = a.param_groups
    lr, mu = float(group["lr"]), group["momentum"]
    average = [torch.zeros_like(p) for p in exact]
    for step in range(STEPS):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
        for p, q, m in zip(ours, exact, average, strict=True):
            m.mul_(mu).add_((1 - mu) * p.grad.double())
            u = mu * m + (1 - mu) * p.grad.double() if group["nesterov"] else m
            o = exact_newton_schulz(u, group)
            q.sub_(lr * group["weight_decay"] * q + lr * ratio(group["adjust_lr_fn"], q.shape) * o)
    rounding = UNIT * (2 * max(float(m.abs().max()) for m in average) / (1 - mu) + 4 * 5)  # 5 > any gradient
    assert largest(buffers(a), buffers(b)) < rounding
    assert largest(buffers(a), average) < rounding
    of_bfloat16 = total(theirs, exact)
    assert total(ours, theirs) < 0.2 * of_bfloat16
    assert total(ours, exact) < 1.05 * of_bfloat16
    assert total(ours, start) > 50 * of_bfloat16


def test_a_small_weight_decay_is_not_lost():
    """A decay of 0.45 * 2^-24 is one in the mean; in torch 1 minus it rounds to 1.

    The updates of Muon do not depend on parameters, so that a run without decay shows what the decay did.
    """
    lr, decay, steps = 1e-3, 0.45 * UNIT, 200

    def mean_decay(cls):
        runs = []
        for weight_decay in (decay / lr, 0.0):
            p = torch.nn.Parameter(1 + torch.rand(32, 32, generator=torch.Generator().manual_seed(0)))
            start = p.detach().double()
            train([p], cls([p], lr=lr, weight_decay=weight_decay), steps)
            runs.append(p.detach().double())
        return float((runs[1] - runs[0]).mean() / start.mean()) / steps

    assert mean_decay(FusedMuon) == pytest.approx(decay, rel=0.03)
    assert mean_decay(torch.optim.Muon) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_are_rounded_once(dtype):
    """Parameter and momentum are those of float arithmetic on what is stored, rounded to nearest."""
    params = parameters(dtype=dtype)
    optimizer = FusedMuon(params, lr=0.02)
    for step in range(5):
        set_grads(step, params)
        wide = [torch.nn.Parameter(p.detach().float()) for p in params]
        reference = FusedMuon(wide, lr=0.02)
        set_grads(step, params)
        for p, w in zip(params, wide, strict=True):
            w.grad = p.grad.float()
            if p in optimizer.state:
                reference.state[w]["momentum_buffer"] = optimizer.state[p]["momentum_buffer"].float()
        optimizer.step()
        reference.step()
        assert all(torch.equal(p, w.to(dtype)) for p, w in zip(params, wide, strict=True))
        for m, w in zip(buffers(optimizer), buffers(reference), strict=True):
            assert m.dtype == dtype
            assert torch.equal(m, w.to(dtype))


def test_float64_parameters_are_stepped_in_float64():
    """By torch operations: momentum and update have the precision of double, the products that of bfloat16."""
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    a, b = FusedMuon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)
    for step in range(5):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
    assert largest(buffers(a), buffers(b)) < 1e-14
    # No element of u is so near to the middle of two bfloat16 numbers that double would tell it wrong.
    assert largest(ours, theirs) < 1e-14
    assert largest(ours, parameters(dtype=torch.float64)) > 1e-2


# Clipping, AMP, closures, groups


@pytest.mark.parametrize("max_norm", [1e-2, 1.0, 1e6])
def test_clipping_is_clip_grad_norm_and_step(max_norm):
    """The momentum is that of clipped gradients, over all groups; gradients themselves stay."""
    ours, theirs = parameters(), parameters()
    a = FusedMuon([{"params": ours[:2]}, {"params": ours[2:], "nesterov": False}], lr=0.02, max_grad_norm=max_norm)
    b = torch.optim.Muon([{"params": theirs[:2]}, {"params": theirs[2:], "nesterov": False}], lr=0.02)
    for step in range(20):
        set_grads(step, ours, theirs)
        kept = [p.grad.clone() for p in ours]
        a.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        b.step()
        torch.testing.assert_close(a.last_grad_norm, norm, rtol=2e-6, atol=0)
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, kept, strict=True))
    scale = max(float(m.abs().max()) for m in buffers(b))
    assert largest(buffers(a), buffers(b)) < 1e-5 * scale
    assert total(ours, theirs) < 1e-2 * total(ours, parameters())


def test_amp_unscales_and_a_skipped_step_leaves_every_byte():
    """GradScaler's two attributes: momentum of unscaled gradients; no state from a first step that is skipped."""
    ours, plain = parameters(), parameters()
    a, b = FusedMuon(ours, lr=0.02, max_grad_norm=1.0), FusedMuon(plain, lr=0.02, max_grad_norm=1.0)
    a.grad_scale, a.found_inf = torch.tensor(64.0), torch.tensor(1.0)
    set_grads(0, ours, scale=64.0)
    a.step()
    assert a.last_step_skipped
    assert not a.state
    for step in range(4):
        set_grads(step, ours, scale=64.0)
        set_grads(step, plain)
        if step == 2:
            ours[3].grad[0, 1] = math.inf
        before = [t.clone() for t in (*ours, *(buffers(a) if a.state else ()))]
        a.found_inf = torch.tensor(0.0)
        a.step()
        assert a.last_step_skipped == (float(a.found_inf) == 1) == (step == 2)
        if step == 2:
            assert all(torch.equal(x, y) for x, y in zip(before, (*ours, *buffers(a)), strict=True))
        else:
            b.step()
        assert all(torch.equal(p, q) for p, q in zip((*ours, *buffers(a)), (*plain, *buffers(b)), strict=True))


def test_closures_groups_schedulers_and_the_rest_in_adamw():
    """A network of matrices and vectors under both classes of optimizer learns as it does under torch's two."""

    def train(matrices, others):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
        hidden = [p for p in model.parameters() if p.ndim == 2]
        muon = matrices(hidden[:1], lr=0.02)
        muon.add_param_group({"params": hidden[1:], "momentum": 0.5, "adjust_lr_fn": "match_rms_adamw"})
        adamw = others([p for p in model.parameters() if p.ndim != 2], lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(muon, 40)
        x, y = torch.randn(64, 16), torch.randn(64, 8)

        def closure():
            model.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        losses = []
        for _ in range(40):
            losses.append(float(muon.step(closure).detach()))
            adamw.step()
            scheduler.step()
        return losses

    ours, theirs = train(FusedMuon, FusedAdamW), train(torch.optim.Muon, torch.optim.AdamW)
    assert ours[-1] < 0.7 * ours[0]
    assert ours == pytest.approx(theirs, rel=5e-3)
