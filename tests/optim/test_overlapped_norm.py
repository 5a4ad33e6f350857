"""``norm="overlapped"``: the norm taken by hooks during backward is that of the step, whatever happens in between."""

import copy
import math

import pytest
import torch

import gaudi3_rt
from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW, FusedLAMB

SCALERS = {"torch": torch.amp.GradScaler, "ours": gaudi3_rt.amp.GradScaler}


def network():
    """A small network with equal weights at each call; its last bias takes no part."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 300), torch.nn.Tanh(), torch.nn.Linear(300, 5))


def backward(model, seed, scale=None):
    """Adds the gradients of a random batch."""
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed))
    loss = model(x).square().mean()
    (loss if scale is None else scale(loss)).backward()


@pytest.fixture
def passes(monkeypatch):
    """How many gradients were read for their norm, hooks included."""
    counted = []
    reduce = _core.reduce

    def counting(isa, tensor_type, reduction, tensors, *rest):
        counted.extend(tensors)
        return reduce(isa, tensor_type, reduction, tensors, *rest)

    monkeypatch.setattr(_core, "reduce", counting)
    return counted


def between(name, model):
    """What may happen to gradients between backward and step."""
    first, *_ = params = list(model.parameters())
    if name == "replaced":
        first.grad = first.grad * 3
    elif name == "scaled":
        first.grad.mul_(3)
    elif name == "data replaced":
        first.grad.data = first.grad.data * 3
    elif name == "made again":  # mostly where the old one was
        tripled = (first.grad * 3).tolist()
        first.grad = None
        first.grad = torch.tensor(tripled)
    elif name == "removed":
        params[1].grad = None
    elif name == "added to":
        backward(model, 1000)
    elif name == "clipped":
        torch.nn.utils.clip_grad_norm_(params, 0.01)
    elif name == "swapped":
        params[1].grad, params[2].grad = params[1].grad.clone(), params[2].grad.neg()
    elif name == "zeroed":
        model.zero_grad(set_to_none=False)


EVENTS = ["nothing", "replaced", "made again", "scaled", "data replaced", "removed", "added to", "clipped", "swapped"]
EVENTS += ["zeroed"]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("n_backward", [1, 2])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("cls", [FusedAdamW, FusedLAMB])
def test_is_the_norm_of_the_step(cls, event, n_backward, set_to_none):
    """Same norm and same bits of parameters, with gradients kept, removed, accumulated, and changed by hand."""
    models = [network(), network()]
    optimizers = [
        cls(model.parameters(), lr=1e-2, max_grad_norm=0.05, norm=norm)
        for model, norm in zip(models, ("step", "overlapped"), strict=True)
    ]
    for step in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=set_to_none)
            for micro in range(n_backward):
                backward(model, 10 * step + micro)
            between(event, model)
            optimizer.step()
        assert optimizers[0].last_grad_norm == optimizers[1].last_grad_norm
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_nothing_is_read_again(passes):
    """One read of each gradient in each backward, and none in the step; what was changed is read once more."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), max_grad_norm=1.0, norm="overlapped")
    backward(model, 0)
    assert len(passes) == 4
    optimizer.step()
    assert len(passes) == 4
    backward(model, 1)  # accumulates
    assert len(passes) == 8
    model[0].weight.grad.mul_(2)
    optimizer.step()
    assert [x is model[0].weight.grad for x in passes[8:]] == [True]
    model[2].weight.grad = torch.ones_like(model[2].weight)
    optimizer.step()
    assert len(passes) == 10


def test_without_overlap_no_hook_reads(passes):
    """By default, the norm is taken inside the step."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), max_grad_norm=1.0)
    backward(model, 0)
    optimizer.step()
    assert not passes


@pytest.mark.parametrize("scaler_class", SCALERS.values(), ids=SCALERS)
@pytest.mark.parametrize("unscale", [False, True])
def test_mixed_precision(scaler_class, unscale):
    """Under both scalers, with overflows in between: skipped steps, norms and parameters are the same."""
    models = [network(), network()]
    optimizers = [
        FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.05, norm=norm)
        for model, norm in zip(models, ("step", "overlapped"), strict=True)
    ]
    scalers = [scaler_class("cpu", init_scale=1024.0, growth_interval=4) for _ in models]
    for step in range(12):
        for model, optimizer, scaler in zip(models, optimizers, scalers, strict=True):
            optimizer.zero_grad()
            backward(model, step, scaler.scale)
            if step % 5 == 3:
                model[0].bias.grad[7] = math.inf
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert optimizers[0].last_step_skipped == optimizers[1].last_step_skipped == (step % 5 == 3)
        assert optimizers[0].last_grad_norm == optimizers[1].last_grad_norm
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_groups_that_are_added_and_parameters_without_gradient(passes):
    """New parameters get hooks too; those without gradient count nothing."""
    model, late = network(), torch.nn.Linear(5, 5)
    optimizer = FusedAdamW(model.parameters(), max_grad_norm=0.05, norm="overlapped")
    optimizer.add_param_group({"params": late.parameters()})
    model[0].bias.requires_grad_(requires_grad=False)
    late(model(torch.ones(3, 20))).square().sum().backward()
    assert len(passes) == 5
    grads = [p.grad for p in (*model.parameters(), *late.parameters()) if p.grad is not None]
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads))
    optimizer.step()
    assert len(passes) == 5
    assert float(optimizer.last_grad_norm) == pytest.approx(norm, rel=1e-7)
    model.zero_grad()
    late.zero_grad()
    backward(model, 0)
    optimizer.step()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))
    assert float(optimizer.last_grad_norm) == pytest.approx(norm, rel=1e-7)


def test_copies_have_hooks_of_their_own(passes):
    """A deep copy watches its own parameters; an optimizer that is gone watches none."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), max_grad_norm=0.05, norm="overlapped")
    both = copy.deepcopy({"model": model, "optimizer": optimizer})
    copied, model_copy = both["optimizer"], both["model"]
    backward(model_copy, 0)
    assert len(passes) == 4
    assert {id(x) for x in passes} == {id(p.grad) for p in model_copy.parameters()}
    copied.step()
    assert len(passes) == 4
    backward(model, 0)
    optimizer.step()
    assert optimizer.last_grad_norm == copied.last_grad_norm
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), model_copy.parameters(), strict=True))
    del optimizer, copied, both
    passes.clear()
    backward(model, 1)
    assert not passes


def test_what_hooks_cannot_read():
    """float64 gradients and strided ones: the norm is taken in the step, and is right."""
    p, q = torch.nn.Parameter(torch.ones(4, dtype=torch.float64)), torch.nn.Parameter(torch.ones(3, 2))
    optimizer = FusedAdamW([p, q], max_grad_norm=0.5, norm="overlapped")
    ((p * 3).sum() + (q * 2).sum()).backward()
    q.grad = torch.full((3, 4), 2.0)[:, ::2]
    optimizer.step()
    assert float(optimizer.last_grad_norm) == pytest.approx(math.sqrt(4 * 9 + 6 * 4), rel=1e-7)
