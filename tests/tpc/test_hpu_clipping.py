"""``max_grad_norm`` and AMP in a step on an "hpu" device: norm, coefficient and factor stay there."""

import math

import pytest
import torch
from _hpu import Waits, assert_close, parameters

import gaudi3_rt.amp
from gaudi3_rt.optim import FusedAdagrad, FusedAdamW, FusedLAMB, FusedLARS, FusedLion, FusedMuon, FusedSGD

pytestmark = pytest.mark.usefixtures("calls")

# The norm is within 13 roundings, a factor made of it within 18; a step is at most proportional to that.
NORM_BOUND = 13 * 2.0**-24
STEP_BOUND = 18 * 2.0**-24
CASES = {
    "adamw": (FusedAdamW, {"eps": 1.0}),
    "sgd": (FusedSGD, {"momentum": 0.9, "maximize": True}),
    "lion": (FusedLion, {}),
    "adagrad": (FusedAdagrad, {"eps": 1.0}),
    "lamb": (FusedLAMB, {"eps": 1.0}),
    "lars": (FusedLARS, {"momentum": 0.9}),
}


def pair(optimizer_type, *, dtype=torch.float32, **options):
    """The same optimizer on the device and on the CPU, with their parameters."""
    both = [parameters(device, dtype=dtype) for device in ("hpu", "cpu")]
    return both, [optimizer_type(params, lr=0.1, **options) for params in both]


def names(calls):
    """The kernels that ran."""
    return [name for name, _ in calls]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_norm", [0.05, 1e9])
def test_clipping(name, max_norm, calls):
    """One norm for all tensors, by operators, and nothing is waited for; the CPU's norm and step."""
    optimizer_type, options = CASES[name]
    (there, here), optimizers = pair(optimizer_type, max_grad_norm=max_norm, **options)
    before = [p.detach().clone() for p in here]
    with Waits() as waits:
        optimizers[0].step()
    assert waits.count == 0
    optimizers[1].step()
    norm = optimizers[0].last_grad_norm
    assert (norm.shape, norm.dtype) == ((), torch.float32)
    assert_close(norm, optimizers[1].last_grad_norm, rtol=NORM_BOUND, atol=0)
    ran = names(calls)
    assert ran.count("sum_squares_f32") == len(there)
    assert ran.count("clip_coefficient_f32") == 1
    assert ran.index("clip_coefficient_f32") == len(ran) - ran[::-1].index("clip_coefficient_f32") - 1
    for p, q, old in zip(there, here, before, strict=True):
        moved = float((q.detach() - old).abs().max())
        assert_close(p, q, rtol=2.0**-23, atol=STEP_BOUND * moved)
        assert moved > 0


def test_muon_has_the_norm_of_the_operators(calls):
    """What steps by torch's operations gets the same factor, and the device is not waited for either."""
    shapes = [(4, 6), (6, 5)]
    both = [parameters(device, shapes) for device in ("hpu", "cpu")]
    optimizers = [FusedMuon(params, lr=0.1, max_grad_norm=0.05) for params in both]
    with Waits() as waits:
        optimizers[0].step()
    assert waits.count == 0
    optimizers[1].step()
    assert_close(optimizers[0].last_grad_norm, optimizers[1].last_grad_norm, rtol=NORM_BOUND, atol=0)
    assert "clip_coefficient_f32" in names(calls)
    for p, q in zip(*both, strict=True):
        assert_close(p, q, rtol=1e-2, atol=1e-3)  # its products are of bfloat16


@pytest.mark.parametrize("scale", [3.0, 65536.0])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_unscaling(scale, max_norm):
    """The scale is read on the device; of the host's waits only that for found_inf is left, and that for the norm."""
    (there, here), optimizers = pair(FusedSGD, max_grad_norm=max_norm)
    for p in (*there, *here):
        p.grad.mul_(scale)
    for optimizer, device in zip(optimizers, ("hpu", "cpu"), strict=True):
        optimizer.grad_scale = torch.tensor(scale).to(device)
        optimizer.found_inf = torch.tensor(0.0).to(device)
    with Waits() as waits:
        optimizers[0].step()
    assert waits.count == (1 if max_norm is None else 2)
    optimizers[1].step()
    if max_norm is not None:
        assert_close(optimizers[0].last_grad_norm, optimizers[1].last_grad_norm, rtol=NORM_BOUND + 2.0**-23, atol=0)
    for p, q in zip(there, here, strict=True):
        assert_close(p, q, rtol=2.0**-23, atol=STEP_BOUND * 0.3)


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_our_scaler_waits_once_a_step(max_norm, calls):
    """A step that finds an infinity changes nothing and the scale falls; the next one is taken."""
    (there, here), optimizers = pair(FusedSGD, max_grad_norm=max_norm)
    scalers = [gaudi3_rt.amp.GradScaler(device, init_scale=1024.0) for device in ("hpu", "cpu")]
    kept = [p.detach().cpu().clone() for p in there]
    waits = []
    for special in (math.inf, None):
        for params, optimizer, scaler in zip((there, here), optimizers, scalers, strict=True):
            scaler.scale(torch.ones(()).to(params[0].device))  # makes the scale on its device
            for p in params:
                p.grad = torch.ones_like(p) * 1024
            if special is not None:
                params[1].grad[600] = special
            with Waits() as counted:
                scaler.step(optimizer)
            waits.append(counted.count)
            scaler.update()
        assert optimizers[0].last_step_skipped is optimizers[1].last_step_skipped is (special is not None)
        assert scalers[0].get_scale() == scalers[1].get_scale() == 512.0
        if special is not None:
            for p, before in zip(there, kept, strict=True):
                assert torch.equal(p.detach().cpu(), before)
            assert not any(name.startswith("sgd") for name in names(calls))
    assert waits == [1, 0, 1, 0]
    for p, q in zip(there, here, strict=True):
        assert_close(p, q, rtol=2.0**-23, atol=STEP_BOUND)


def test_bfloat16_gradients_have_one_norm_with_the_others(calls):
    """A kernel for each dtype, one coefficient for both."""
    norms = []
    for device in ("hpu", "cpu"):
        params = parameters(device)
        low = parameters(device, dtype=torch.bfloat16)
        optimizer = FusedSGD([*params, *low], lr=0.1, max_grad_norm=0.05)
        optimizer.step()
        norms.append(optimizer.last_grad_norm)
    assert_close(*norms, rtol=NORM_BOUND, atol=0)
    ran = names(calls)
    assert ran.count("sum_squares_f32") == ran.count("sum_squares_bf16") == len(params)
    assert ran.count("clip_coefficient_f32") == 1


def test_parameters_on_two_devices(calls):
    """One norm also where some are on the CPU: the host then reads what the operators have found."""
    there, here = parameters("hpu"), parameters("cpu")
    mixed = [there[0], *here[1:]]
    optimizer = FusedSGD(mixed, lr=0.1, max_grad_norm=0.05)
    optimizer.step()
    reference = parameters("cpu")
    alone = FusedSGD(reference, lr=0.1, max_grad_norm=0.05)
    alone.step()
    torch.testing.assert_close(optimizer.last_grad_norm, alone.last_grad_norm, rtol=NORM_BOUND, atol=0)
    assert "sum_squares_f32" in names(calls)
    for p, q in zip(mixed, reference, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2.0**-23, atol=STEP_BOUND)
