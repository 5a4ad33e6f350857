"""Which tensors Muon steps and how, and which it refuses."""

import gc

import pytest
import torch
from _muon import parameters, set_grads, train

from gaudi3_rt.optim import FusedMuon

pytestmark = pytest.mark.usefixtures("one_thread")


# Tensors


LAYOUTS = {
    "transposed": lambda: torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).t(),
    "block of a matrix": lambda: torch.randn(9, 9, generator=torch.Generator().manual_seed(0))[2:6, 1:8],
    "every second column": lambda: torch.randn(6, 8, generator=torch.Generator().manual_seed(0))[:, ::2],
    "no rows": lambda: torch.zeros(0, 4),
    "no columns": lambda: torch.zeros(4, 0),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_is_stepped_in_place(make):
    """The numbers of a contiguous parameter, with the strides that the tensor had, whatever those of the gradient."""
    p, q = torch.nn.Parameter(make()), torch.nn.Parameter(make().contiguous())
    for step in range(3):
        grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        p.grad, q.grad = grad.t().contiguous().t(), grad
        strides = p.stride()
        optimizers = [FusedMuon([x], lr=0.02, max_grad_norm=1.0) for x in (p, q)]
        for optimizer in optimizers:
            optimizer.step()
        assert p.stride() == strides
        assert torch.equal(p, q)
    assert p.numel() == 0 or not torch.equal(p, make())


def test_parameters_without_gradient_are_left_alone():
    """No update and no state; errors still number the others by their place in the group."""
    params = parameters()
    optimizer = FusedMuon(params)
    set_grads(0, params)
    params[0].grad = params[2].grad = None
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [True, False, True, False, False]
    assert set(optimizer.state) == {params[1], params[3], params[4]}
    optimizer.state[params[3]]["momentum_buffer"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"momentum_buffer of parameter 3 of group 0 has shape \(2, 2\)"):
        optimizer.step()


def test_a_step_keeps_nothing():
    """The updates, as large as all parameters, are gone after it; also after one that is refused."""

    def count():
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())  # isinstance would wake lazy modules

    params = parameters()
    optimizer = FusedMuon(params)
    train(params, optimizer, 1)
    before = count()
    train(params, optimizer, 3)
    assert count() == before
    optimizer.add_param_group({"params": shared()})
    for p in optimizer.param_groups[1]["params"]:
        p.grad = torch.ones_like(p)
    before = count()
    with pytest.raises(ValueError, match="overlap in memory"):
        optimizer.step()
    assert count() == before


def test_a_backward_through_an_old_value_is_an_error():
    """The kernels write behind autograd's back, but autograd is told."""
    p = torch.nn.Parameter(torch.ones(3, 3))
    result = (p * p).sum()
    p.grad = torch.ones(3, 3)
    FusedMuon([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_shapes_and_arguments_that_torch_refuses_are_refused():
    """1-D parameters and numbers out of range, with torch's type of error."""
    vector, matrix = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, 3))
    for cls in (torch.optim.Muon, FusedMuon):
        with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
            cls([matrix, vector])
        for bad, message in (
            ({"lr": -1.0}, "Learning rate should be >= 0"),
            ({"momentum": -0.1}, "momentum should be >= 0"),
            ({"weight_decay": -1.0}, "weight decay should be >= 0"),
            ({"adjust_lr_fn": "other"}, "other is not supported"),
        ):
            with pytest.raises(ValueError, match=message):
                cls([matrix], **bad)
    with pytest.raises(ValueError, match="max_grad_norm=-1: must be a number >= 0"):
        FusedMuon([matrix], max_grad_norm=-1)


def shared():
    """Two parameters over the same memory."""
    buffer = torch.ones(4, 3)
    return [torch.nn.Parameter(buffer[:3]), torch.nn.Parameter(buffer[1:])]


BAD = {
    "vector": ({}, lambda: [torch.nn.Parameter(torch.ones(4))], ValueError, r"supports 2D .* parameter 0 .* \(4,\)"),
    "complex": ({}, lambda: [torch.nn.Parameter(torch.ones(2, 2) * 1j)], TypeError, "dtype torch.complex64"),
    "overlapping": ({}, shared, ValueError, "parameter 0 of group 1 and parameter 1 of group 1 .* overlap in memory"),
    "expanded": ({}, lambda: [torch.nn.Parameter(torch.ones(1, 1).expand(3, 3))], ValueError, "share memory"),
    "iterations": ({"ns_steps": 100}, list, ValueError, "ns_steps=100: must be from 0 to 99"),
    "coefficients": ({"ns_coefficients": (1.0, 2.0)}, list, ValueError, r"\(1.0, 2.0\): must be three numbers"),
    "adjustment": ({"adjust_lr_fn": "other"}, list, ValueError, "adjust_lr_fn='other': must be one of"),
}


@pytest.mark.parametrize(("options", "make", "error", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("warm", [False, True])
def test_what_cannot_be_stepped_is_refused_and_nothing_changes(options, make, error, message, warm):
    """A bad second group: the first, which could be stepped, keeps parameters and momentum, or gets none."""
    good = parameters()
    optimizer = FusedMuon(good)
    if warm:
        train(good, optimizer, 1)
    set_grads(1, good)
    bad = make()
    for p in bad:
        p.grad = torch.ones_like(p)
    optimizer.add_param_group({"params": bad, **options})
    before = [t.detach().clone() for t in (*good, *[s["momentum_buffer"] for s in optimizer.state.values()])]
    with pytest.raises(error, match=message):
        optimizer.step()
    after = [*good, *[s["momentum_buffer"] for s in optimizer.state.values()]]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
