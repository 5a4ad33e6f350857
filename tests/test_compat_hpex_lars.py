"""The vendor's LARS, alone and around another optimizer."""

import copy

import pytest
import torch
from _vendors import UNIT, distance, exact, parameters, set_grads, train

from gaudi3_rt.compat import hpex

# LARS


def lars(values, grads, momenta, mask, *, lr, decay, mu, eeta, eps):
    """The vendor's wrapper and its momentum in float64, in place."""
    for w, g, b, adapts in zip(values, grads, momenta, mask, strict=True):
        scaled = lr * g.double()
        if adapts:
            of_w, of_g = float(w.norm()), float(g.double().norm())
            r = eeta * of_w / (of_g + of_w * decay + eps) if of_w > 0 and of_g > 0 else 1.0
            scaled = lr * r * (g.double() + decay * w)
        b.mul_(mu).sub_(scaled)
        w.add_(b)


def test_lars_with_its_momentum_is_the_vendors_formula():
    """Adapted and not, with a parameter of zeros and a gradient of zeros, over 100 steps of a changing lr."""
    ours = [*parameters(), torch.nn.Parameter(torch.zeros(7)), torch.nn.Parameter(torch.ones(4))]
    mask = [1, 0, 1, 1, 1]
    numbers = {"eeta": 0.02, "eps": 1e-3}
    inner = hpex.FusedResourceApplyMomentum(ours, 0.5, momentum=0.9, weight_decay=0.1)
    optimizer = hpex.FusedLars(inner, mask, **numbers)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    values, momenta = exact(ours), [torch.zeros_like(p, dtype=torch.float64) for p in ours]
    for step in range(100):
        set_grads(step, ours)
        ours[4].grad.zero_()
        lr = 0.5 * 0.97**step
        lars(values, [p.grad for p in ours], momenta, mask, lr=lr, decay=0.1, mu=0.9, **numbers)
        optimizer.step()
        scheduler.step()
        assert inner.param_groups[0]["weight_decay"] == 0.1
    assert distance(ours, values) < 1e-5 * max(1.0, *(float(v.abs().max()) for v in values))
    assert distance([inner.state[p]["momentum_buffer"] for p in ours], momenta) < 1e-5
    assert distance(ours, [*parameters(), torch.zeros(7), torch.ones(4)]) > 0.1


def test_lars_wraps_any_optimizer():
    """Weight decay is in the gradient and not applied again; groups without the option get none; closures run."""
    params, reference = parameters(), exact(parameters())
    sgd = torch.optim.SGD(params, lr=0.5, weight_decay=0.2)
    optimizer = hpex.FusedLars(sgd, [1, 0, 1], eeta=0.1)

    def closure():
        set_grads(3, params)
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7
    set_grads(3, want := parameters())
    for w, p, adapts in zip(reference, want, [1, 0, 1], strict=True):
        g, r = p.grad.double(), 1.0
        if adapts:
            r = 0.1 * float(w.norm()) / (float(g.norm()) + 0.2 * float(w.norm()) + 1e-8)
            g = g + 0.2 * w
        w.sub_(0.5 * (0.5 * r * g))  # SGD multiplies by lr once more
    assert distance(params, reference) < 4 * UNIT
    without_decay = torch.optim.Rprop(params, lr=0.1)
    assert hpex.FusedLars(without_decay, [1, 1, 1]).step(closure) == 7


def test_lars_shares_groups_state_and_checkpoints_with_what_it_wraps():
    """A checkpoint of the wrapper is that of the wrapped optimizer; after loading both still share it."""
    params = parameters()
    optimizer = hpex.FusedLars(hpex.FusedResourceApplyMomentum(params, 0.1, momentum=0.9), [1, 1, 0])
    train(params, optimizer, 5)
    copied = copy.deepcopy(params)
    resumed = hpex.FusedLars(hpex.FusedResourceApplyMomentum(copied, 0.5), [1, 1, 0])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(params, optimizer, 5, first=5)
    train(copied, resumed, 5, first=5)
    assert all(torch.equal(p, q) for p, q in zip(params, copied, strict=True))
    optimizer.zero_grad()
    assert all((p.grad == 0).all() for p in params)
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in params)
    loss = optimizer.step((params[0] ** 2).sum)
    assert loss.requires_grad


def test_lars_gives_weight_decay_back_when_the_step_fails():
    """Also then; and a mask that is too short is refused at once."""
    params = parameters()
    inner = hpex.FusedResourceApplyMomentum(params, 0.1, momentum=0.9, weight_decay=0.3)
    optimizer = hpex.FusedLars(inner, [1, 1, 1])
    train(params, optimizer, 1)
    inner.state[params[0]]["momentum_buffer"] = torch.zeros(3)
    with pytest.raises(ValueError, match="momentum_buffer of parameter 0"):
        train(params, optimizer, 1)
    assert inner.param_groups[0]["weight_decay"] == 0.3
    with pytest.raises(ValueError, match="skip_mask has 2 entries; the longest group has 3 parameters"):
        hpex.FusedLars(inner, [1, 1])


def test_momentum_is_the_same_in_a_compiled_step():
    """The turned sign of the gradient reaches the graph."""
    lists = [parameters(), parameters()]
    optimizers = [hpex.FusedResourceApplyMomentum(ps, 0.1, momentum=0.5) for ps in lists]
    torch._dynamo.reset()
    compiled = torch.compile(optimizers[0].step, backend="eager", fullgraph=True)
    for step in range(3):
        set_grads(step, *lists, scale=0.1)
        compiled()
        optimizers[1].step()
    torch._dynamo.reset()
    assert all(torch.equal(p, q) for p, q in zip(*lists, strict=True))
    assert distance(lists[0], parameters()) > 0.1
