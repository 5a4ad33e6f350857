"""Tensors as they come: empty, 0-d, non-contiguous, sharing storage, without gradient, of mixed dtypes; or refused."""

import copy
import logging

import pytest
import torch

from gaudi3_rt.optim import FusedAdamW, _batch


def step_both(make, steps=5, **options):
    """Steps what ``make`` makes, parameters with gradients, with us and with torch, and compares."""
    ours, theirs = make(), make()
    a, b = FusedAdamW(ours, lr=1e-2, **options), torch.optim.AdamW(theirs, lr=1e-2, **options)
    for _ in range(steps):
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6)
        assert p.stride() == q.stride()


def with_grad(p, grad=None):
    """A parameter with the gradient 1, 2, 3, ... or the given one."""
    param = torch.nn.Parameter(p)
    param.grad = torch.arange(1.0, p.numel() + 1).reshape(p.shape).to(p.dtype) if grad is None else grad
    return param


SHAPES = {
    "0-d": lambda: [with_grad(torch.tensor(2.0))],
    "empty": lambda: [with_grad(torch.zeros(0))],
    "empty last": lambda: [with_grad(torch.ones(5)), with_grad(torch.zeros(3, 0, 2))],
    "empty first": lambda: [with_grad(torch.zeros(0, 4)), with_grad(torch.ones(5)), with_grad(torch.tensor(1.0))],
    "channels last": lambda: [with_grad(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))],
    "transposed": lambda: [with_grad(torch.ones(7, 5).t())],
    "transposed gradient": lambda: [with_grad(torch.ones(7, 5), torch.rand(5, 7).fill_(0.5).t())],
    "expanded gradient": lambda: [with_grad(torch.ones(7, 5), torch.tensor(0.25).expand(7, 5))],
    "every second element": lambda: [with_grad(torch.ones(40)[::2])],
    "block of a matrix": lambda: [with_grad(torch.ones(8, 8)[2:6, 1:5])],
    "views of one buffer": lambda: [with_grad(v) for v in torch.ones(100).split([30, 1, 69])],
    "columns of one buffer": lambda: [with_grad(v) for v in torch.ones(6, 6).split([2, 4], dim=1)],
    "offset into a buffer": lambda: [with_grad(torch.ones(100)[3:20])],
}


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_any_layout_is_stepped_as_in_torch(make, amsgrad):
    """Right, in place, and with the strides that the tensor had."""
    step_both(make, amsgrad=amsgrad)


def test_memory_around_a_view_is_not_touched():
    """A parameter that is part of a buffer leaves the rest of the buffer alone."""
    for take in (lambda b: b[3:20], lambda b: b[::2], lambda b: b.view(10, 10)[2:5, 3:7]):
        buffer = torch.full((100,), 7.0)
        inside = torch.zeros(100, dtype=torch.bool)
        take(inside)[...] = True
        FusedAdamW([with_grad(take(buffer))], lr=1.0).step()
        assert (buffer[~inside] == 7).all()
        assert (buffer[inside] != 7).all()


def test_parameters_without_gradient_are_left_alone():
    """No update, no state, no new version; they may get a gradient later."""
    params = [with_grad(torch.ones(3)), torch.nn.Parameter(torch.ones(4)), with_grad(torch.ones(5))]
    optimizer = FusedAdamW(params)
    version = params[1]._version
    optimizer.step()
    assert params[1] not in optimizer.state
    assert params[1]._version == version
    assert torch.equal(params[1], torch.ones(4))
    params[1].grad = torch.ones(4)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [2, 1, 2]


@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_another_dtype(param_dtype, grad_dtype):
    """The gradient is read in its own dtype, as float: the same as converting it first, without the copy."""
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    p, q = (torch.nn.Parameter(torch.ones(1000, dtype=param_dtype)) for _ in range(2))
    p.grad_dtype = None
    p.grad = values.to(grad_dtype)
    q.grad_dtype = None
    q.grad = values.to(grad_dtype).float()
    for param in (p, q):
        optimizer = FusedAdamW([param], lr=1e-2)
        optimizer.step()
        optimizer.step()
    assert torch.equal(p, q)


def test_gradients_with_torchs_negation_bit():
    """Complex arithmetic leaves gradients whose memory holds the negatives of their values; the sign must be right."""

    def make():
        params = [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in ((), (), (1,), (1,), (3,), (3,))]
        for real, imag in zip(params[::2], params[1::2], strict=True):
            (torch.complex(real, imag).conj() * (1 + 2j)).real.sum().backward()
        return params

    assert [p.grad.is_neg() for p in make()] == [False, True, False, True, False, False]
    step_both(make)


def test_a_backward_through_an_old_value_is_an_error():
    """The kernels write behind autograd's back, but autograd is told: no silently wrong gradient."""
    p = with_grad(torch.ones(3))
    result = (p * p).sum()
    FusedAdamW([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_the_step_sees_tensors_that_were_swapped():
    """New memory under a parameter, its gradient or its state is found: no address is remembered."""
    p = with_grad(torch.ones(50))
    optimizer = FusedAdamW([p], lr=0.1)
    optimizer.step()
    reference = copy.deepcopy(optimizer)
    q = reference.param_groups[0]["params"][0]
    q.grad = p.grad.clone()
    old = p.data
    p.data = p.data.clone()
    p.grad = p.grad.clone()
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].clone()
    optimizer.state[p]["exp_avg_sq"].data = optimizer.state[p]["exp_avg_sq"].clone()
    before = old.clone()
    optimizer.step()
    reference.step()
    assert torch.equal(p, q)
    assert torch.equal(old, before)


def test_float64_goes_through_torch_operations_and_says_so_once(caplog):
    """float64 parameters are stepped in float64; one log line for all of them, with the reason."""
    _batch._announced.clear()
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for _ in range(2):
            step_both(lambda: [with_grad(torch.ones(5, dtype=torch.float64)), with_grad(torch.ones(5))])
    (record,) = caplog.records
    assert "no kernel for torch.float64 tensors on device 'cpu'" in record.message


def test_another_device_goes_through_torch_operations():
    """A device without kernels: the composite is used (here on meta tensors, which compute shapes only)."""
    p = torch.nn.Parameter(torch.ones(5, device="meta"))
    p.grad = torch.ones(5, device="meta")
    optimizer = FusedAdamW([p])
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].device.type == "meta"
    assert float(optimizer.state[p]["step"]) == 1


def sparse():
    """An embedding with a sparse gradient."""
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    return embedding.weight


def overlapping():
    """Two parameters over the same memory."""
    buffer = torch.ones(10)
    return [with_grad(buffer[:6]), with_grad(buffer[5:])]


BAD = {
    "sparse gradient": (lambda: [sparse()], TypeError, r"gradient has layout torch\.sparse_coo; only dense"),
    "complex": (
        lambda: [with_grad(torch.ones(3, dtype=torch.complex64))],
        TypeError,
        r"dtype torch\.complex64; allowed are real floating-point",
    ),
    "expanded parameter": (
        lambda: [with_grad(torch.ones(1).expand(4))],
        ValueError,
        "expanded view whose elements share memory",
    ),
    "overlapping parameters": (
        overlapping,
        ValueError,
        "parameter 1 of group 0 and parameter 2 of group 0 .*overlap in memory",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_stepped_is_refused_and_nothing_changes(make, error, message):
    """One sentence names the parameter and the reason; no other parameter was stepped and no state was made."""
    good = with_grad(torch.ones(3))
    optimizer = FusedAdamW([good, *make()])
    with pytest.raises(error, match=message):
        optimizer.step()
    assert torch.equal(good, torch.ones(3))
    assert not optimizer.state


def test_state_of_the_wrong_shape_is_refused():
    """A state that was tampered with never leads to a write outside of it."""
    p = with_grad(torch.ones(10))
    optimizer = FusedAdamW([p])
    optimizer.step()
    before = p.detach().clone()
    optimizer.state[p]["exp_avg"] = torch.zeros(3)
    message = r"exp_avg of parameter 0 of group 0 has shape \(3,\).*parameter has shape \(10,\)"
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(p, before)


def test_differentiable_is_refused():
    """In the constructor and in a group that is added."""
    with pytest.raises(ValueError, match="differentiable=True: FusedAdamW writes memory that autograd does not see"):
        FusedAdamW([torch.nn.Parameter(torch.ones(1))], differentiable=True)
    optimizer = FusedAdamW([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="differentiable=True"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "differentiable": True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"eps": -1.0},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"weight_decay": -0.5},
        {"momentum": 0.9},
    ],
)
def test_bad_options_are_refused_as_in_torch(options):
    """The same error from the same check."""
    errors = []
    for cls in (FusedAdamW, torch.optim.AdamW):
        with pytest.raises((ValueError, TypeError)) as caught:
            cls([torch.nn.Parameter(torch.ones(1))], **options)
        errors.append((caught.type, str(caught.value).replace("FusedAdamW", "AdamW")))
    assert errors[0] == errors[1]


def test_memory_that_is_not_there_is_not_touched():
    """A parameter whose storage was freed, as between the steps of some sharded models, is refused."""
    p = with_grad(torch.ones(10))
    optimizer = FusedAdamW([p])
    optimizer.step()
    p.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="parameter 0 of group 0: either a tensor's memory is not allocated"):
        optimizer.step()


def test_state_made_before_a_later_group_is_refused_is_taken_back():
    """A new parameter in the first group keeps no state when an old one in the second has state that does not fit."""
    new, old = torch.nn.Parameter(torch.ones(3)), with_grad(torch.ones(10))
    optimizer = FusedAdamW([{"params": [new]}, {"params": [old]}])
    optimizer.step()
    new.grad = torch.ones(3)
    optimizer.state[old]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match="exp_avg of parameter 0 of group 1"):
        optimizer.step()
    assert list(optimizer.state) == [old]
    assert float(optimizer.state[old]["step"]) == 1
