"""``max_grad_norm``: clip_grad_norm_ inside the step."""

import copy
import math

import pytest
import torch
from _optimizers import EVERY_KERNEL

from gaudi3_rt.optim import FusedAdamW


def model(dtype=torch.float32):
    """A small network with equal weights at each call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5)).to(dtype)


def backward(network, seed, scale=1.0):
    """Gradients of a random batch; returns nothing."""
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed)).to(network[0].weight.dtype)
    network.zero_grad()
    (network(x).square().sum() * scale).backward()


LIMITS = [
    pytest.param(case, limit, id=f"{name}, {limit}")
    for name, case in EVERY_KERNEL.items()
    for limit in ([0.0, 0.1, 1.0, 1e9, math.inf] if case.ours is FusedAdamW else [0.1])
]


@pytest.mark.parametrize(("case", "max_norm"), LIMITS)
def test_is_clip_grad_norm_followed_by_a_step(case, max_norm):
    """Parameters and norm agree with torch's two calls for 100 steps, clipped or not."""
    ours, theirs = model(), model()
    a = case.make(ours.parameters(), lr=1e-2, max_grad_norm=max_norm)
    b = case.reference(theirs.parameters(), lr=1e-2)
    for step in range(100):
        backward(ours, step)
        backward(theirs, step)
        a.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        b.step()
        torch.testing.assert_close(a.last_grad_norm, norm, rtol=2e-5, atol=0)
    case.assert_close(ours.parameters(), theirs.parameters(), 5e-5)


def test_norm_is_over_all_groups_and_all_kernels():
    """One norm for all groups, also where one group uses amsgrad and another does not."""
    ours = model()
    params = list(ours.parameters())
    groups = [{"params": params[:1]}, {"params": params[1:3], "amsgrad": True}, {"params": params[3:], "lr": 0.0}]
    optimizer = FusedAdamW(groups, max_grad_norm=0.5)
    backward(ours, 0)
    exact = math.sqrt(sum(float(p.grad.double().square().sum()) for p in params))
    optimizer.step()
    assert optimizer.last_grad_norm.dtype == torch.float32
    assert optimizer.last_grad_norm.shape == ()
    assert float(optimizer.last_grad_norm) == pytest.approx(exact, rel=1e-7)


def test_gradients_stay_as_they_are():
    """Clipping happens as gradients are read; the tensors keep every byte."""
    ours = model()
    backward(ours, 0)
    before = [p.grad.clone() for p in ours.parameters()]
    FusedAdamW(ours.parameters(), max_grad_norm=1e-3).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(ours.parameters(), before, strict=True))


def test_each_norm_is_a_tensor_of_its_own():
    """A norm that was kept for a plot is not overwritten by the next step."""
    ours = model()
    optimizer = FusedAdamW(ours.parameters(), max_grad_norm=1.0)
    assert optimizer.last_grad_norm is None
    norms = []
    for step in range(3):
        backward(ours, step)
        optimizer.step()
        norms.append(optimizer.last_grad_norm)
    assert len({float(norm) for norm in norms}) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_what_it_does_in_torch(bad):
    """NaN poisons everything; infinity gives the coefficient 0 and so NaN in its own element only."""
    ours, theirs = model(), model()
    a = FusedAdamW(ours.parameters(), max_grad_norm=1.0)
    b = torch.optim.AdamW(theirs.parameters())
    for network in (ours, theirs):
        backward(network, 0)
        network[0].weight.grad[3, 4] = bad
    a.step()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    b.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, equal_nan=True)
    assert not math.isfinite(float(a.last_grad_norm))


def test_huge_gradients_have_a_finite_norm():
    """Squares are summed in double: no overflow where float32 would give infinity and stop the training."""
    p = torch.nn.Parameter(torch.zeros(1000))
    p.grad = torch.full((1000,), 1e30)
    optimizer = FusedAdamW([p], max_grad_norm=1.0)
    optimizer.step()
    assert float(optimizer.last_grad_norm) == pytest.approx(1e30 * math.sqrt(1000), rel=1e-6)
    assert torch.isfinite(p).all()


def test_low_precision_gradients_are_summed_exactly():
    """bfloat16 gradients: the norm has the precision of float32, not of the gradients."""
    p = torch.nn.Parameter(torch.zeros(100_000, dtype=torch.bfloat16))
    p.grad = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = float(p.grad.double().norm())
    optimizer = FusedAdamW([p], max_grad_norm=1.0)
    optimizer.step()
    assert float(optimizer.last_grad_norm) == pytest.approx(exact, rel=1e-7)


def test_no_gradients_at_all():
    """Nothing to do: the norm of nothing is 0."""
    ours = model()
    optimizer = FusedAdamW(ours.parameters(), max_grad_norm=1.0)
    before = copy.deepcopy(ours.state_dict())
    optimizer.step()
    assert float(optimizer.last_grad_norm) == 0
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in before.items())
    assert not optimizer.state


@pytest.mark.parametrize("bad", [-1.0, math.nan, -math.inf])
def test_bad_limits_are_refused(bad):
    """The message says what was given and what is allowed."""
    with pytest.raises(ValueError, match=r"max_grad_norm=.*must be a number >= 0"):
        FusedAdamW([torch.nn.Parameter(torch.zeros(1))], max_grad_norm=bad)


def test_float64_parameters_take_part():
    """Parameters that torch operations step count in the norm and are clipped by it."""
    a = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    b = torch.nn.Parameter(torch.zeros(4))
    a.grad, b.grad = torch.full((3,), 2.0, dtype=torch.float64), torch.full((4,), 3.0)
    optimizer = FusedAdamW([a, b], max_grad_norm=1.0, betas=(0.0, 0.0), eps=1.0, lr=1.0, weight_decay=0.0)
    optimizer.step()
    norm = math.sqrt(3 * 4 + 4 * 9)
    assert float(optimizer.last_grad_norm) == pytest.approx(norm, rel=1e-6)
    for p, g in ((a, 2.0), (b, 3.0)):  # p = -g / (|g| + 1) for the clipped g
        clipped = g / (norm + 1e-6)
        torch.testing.assert_close(p.double(), torch.full_like(p, -clipped / (clipped + 1), dtype=torch.float64))
