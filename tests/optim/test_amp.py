"""Mixed precision: torch's scaler and ours drive the step through ``grad_scale`` and ``found_inf``."""

import copy
import itertools
import math

import pytest
import torch
from _optimizers import EVERY_CLASS, every_kernel

import gaudi3_rt
from gaudi3_rt.optim import FusedAdamW

SCALERS = {"torch": torch.amp.GradScaler, "ours": gaudi3_rt.amp.GradScaler}
every_scaler = pytest.mark.parametrize("scaler_class", SCALERS.values(), ids=SCALERS)


def network():
    """A small network with equal weights at each call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))


def scaled_backward(model, scaler, seed, *, poison=False):
    """Gradients of a scaled loss; with poison, one of them overflows."""
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    if poison:
        model[2].weight.grad[1, 3] = math.inf


def everything(model, optimizer):
    """Every byte that a step may change."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [t.detach().clone() for t in (*model.parameters(), *states, *(p.grad for p in model.parameters()))]


# Every combination for one optimizer, and for the others the one in which the step has most to do.
TRAININGS = [
    *itertools.product([EVERY_CLASS[FusedAdamW]], SCALERS.values(), [None, 0.05], [False, True]),
    *((case, gaudi3_rt.amp.GradScaler, 0.05, False) for cls, case in EVERY_CLASS.items() if cls is not FusedAdamW),
]


@pytest.mark.parametrize(("case", "scaler_class", "max_norm", "unscale"), TRAININGS)
def test_training_with_a_scaler_is_that_of_torch(case, scaler_class, max_norm, unscale):
    """60 steps with overflows in between: parameters, skipped steps and the scale follow torch's."""
    ours, theirs = network(), network()
    a = case.make(ours.parameters(), lr=1e-2, max_grad_norm=max_norm)
    b = case.reference(theirs.parameters(), lr=1e-2)
    options = {"device": "cpu", "init_scale": 1024.0, "growth_interval": 7}
    scaler, reference = scaler_class(**options), torch.amp.GradScaler(**options)
    for step in range(60):
        poison = step % 13 == 5
        scaled_backward(ours, scaler, step, poison=poison)
        scaled_backward(theirs, reference, step, poison=poison)
        if unscale:
            scaler.unscale_(a)
        scaler.step(a)
        scaler.update()
        reference.unscale_(b)
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
            if not poison:
                torch.testing.assert_close(a.last_grad_norm, norm, rtol=1e-5, atol=0)
        reference.step(b)
        reference.update()
        assert scaler.get_scale() == reference.get_scale()
        assert a.last_step_skipped == poison
    case.assert_close(ours.parameters(), theirs.parameters(), 2e-5)
    assert all(state["step"] == 60 - 5 for state in a.state.values())


@every_kernel
@every_scaler
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("warm", [False, True])
def test_a_skipped_step_leaves_every_byte_as_it_was(case, scaler_class, max_norm, warm):
    """Parameters, moments, counters and gradients; nor is state made by a first step that is skipped."""
    model = network()
    optimizer = case.make(model.parameters(), max_grad_norm=max_norm)
    scaler = scaler_class("cpu", init_scale=8.0)
    at_first = len(optimizer.state)
    if warm:
        scaled_backward(model, scaler, 0)
        scaler.step(optimizer)
        scaler.update()
    scaled_backward(model, scaler, 1, poison=True)
    before = everything(model, optimizer)
    scaler.step(optimizer)
    after = everything(model, optimizer)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert len(optimizer.state) == (4 if warm else at_first)


def test_driven_directly():
    """Without a scaler: the step divides by ``grad_scale``, and raises ``found_inf`` itself when it clips."""
    model = network()
    plain = copy.deepcopy(model)
    optimizer, reference = (FusedAdamW(m.parameters(), max_grad_norm=0.1) for m in (model, plain))
    for m, scale in ((model, 64.0), (plain, 1.0)):
        m(torch.ones(4, 12)).square().mean().mul(scale).backward()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(64.0), torch.tensor(0.0)
    optimizer.step()
    reference.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(optimizer.last_grad_norm, reference.last_grad_norm)
    next(model.parameters()).grad[0, 0] = math.nan
    optimizer.step()
    assert float(optimizer.found_inf) == 1
    assert optimizer.last_step_skipped
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_our_scaler_reads_gradients_once_less(monkeypatch):
    """The stock scaler passes over all gradients before the step; ours leaves that to the step."""
    passes = []
    original = torch._amp_foreach_non_finite_check_and_unscale_

    def counting(grads, found_inf, inv_scale):
        passes.append(len(grads))
        return original(grads, found_inf, inv_scale)

    monkeypatch.setattr(torch, "_amp_foreach_non_finite_check_and_unscale_", counting)
    for max_norm in (None, 1.0):
        for scaler_class, expected in ((torch.amp.GradScaler, [4]), (gaudi3_rt.amp.GradScaler, [])):
            model = network()
            optimizer = FusedAdamW(model.parameters(), max_grad_norm=max_norm)
            scaler = scaler_class("cpu")
            scaled_backward(model, scaler, 0)
            passes.clear()
            scaler.step(optimizer)
            assert passes == expected


def test_our_scaler_drives_other_optimizers_as_torch_does():
    """An optimizer without fused scaling is unscaled and checked by the scaler, and skipped on overflow."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = gaudi3_rt.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    scaled_backward(model, scaler, 0, poison=True)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_autocast_training_learns():
    """The usual loop: autocast to float16, scale, step, update; the loss falls."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=1.0)
    scaler = gaudi3_rt.amp.GradScaler("cpu")
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = (model(x).float() - x[:, :2]).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
