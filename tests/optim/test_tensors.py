"""Tensors as they come: empty, 0-d, non-contiguous, sharing storage, without gradient, of mixed dtypes; or refused."""

import copy
import logging

import pytest
import torch
from _optimizers import EVERY_KERNEL, every_class, every_kernel

from gaudi3_rt.optim import FusedAdagrad, FusedAdamW, _elsewhere


def step_both(make, case=EVERY_KERNEL["AdamW, defaults"]):
    """Takes five steps of what ``make`` makes, parameters with gradients, with us and with torch, and compares."""
    ours, theirs = make(), make()
    a, b = case.make(ours, lr=1e-2), case.reference(theirs, lr=1e-2)
    for _ in range(5):
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


@every_kernel
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_any_layout_is_stepped_as_in_torch(case, make):
    """Right, in place, and with the strides that the tensor had."""
    step_both(make, case)


def test_memory_around_a_view_is_not_touched():
    """A parameter that is part of a buffer leaves the rest of the buffer alone."""
    for take in (lambda b: b[3:20], lambda b: b[::2], lambda b: b.view(10, 10)[2:5, 3:7]):
        buffer = torch.full((100,), 7.0)
        inside = torch.zeros(100, dtype=torch.bool)
        take(inside)[...] = True
        FusedAdamW([with_grad(take(buffer))], lr=1.0).step()
        assert (buffer[~inside] == 7).all()
        assert (buffer[inside] != 7).all()


@every_kernel
def test_parameters_without_gradient_are_left_alone(case):
    """No update, no state, no new version; they may get a gradient later."""
    params = [with_grad(torch.ones(3)), torch.nn.Parameter(torch.ones(4)), with_grad(torch.ones(5))]
    optimizer = case.make(params)
    version = params[1]._version
    optimizer.step()
    assert params[1] not in optimizer.state or case.ours is FusedAdagrad  # its constructor makes state
    assert params[1]._version == version
    assert torch.equal(params[1], torch.ones(4))
    params[1].grad = torch.ones(4)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [2, 1, 2]


@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_class
def test_gradients_of_another_dtype(case, param_dtype, grad_dtype):
    """The gradient is read in its own dtype, as float: the same as converting it first, without the copy."""
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    p, q = (torch.nn.Parameter(torch.ones(1000, dtype=param_dtype)) for _ in range(2))
    p.grad_dtype = None
    p.grad = values.to(grad_dtype)
    q.grad_dtype = None
    q.grad = values.to(grad_dtype).float()
    for param in (p, q):
        optimizer = case.make([param], lr=1e-2)
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


def test_a_list_of_tensors_of_every_kind():
    """The operator takes lists in which some are dense, some are views and some are float64: each gets its own step."""
    make = [
        lambda: torch.ones(5),
        lambda: torch.ones(10)[::2],
        lambda: torch.full((3,), 2.0, dtype=torch.float64),
        lambda: torch.ones(8)[1::3],
    ]
    params, alone = [m() for m in make], [m() for m in make]
    grads = [torch.arange(1.0, p.numel() + 1).to(p.dtype) * (i + 1) for i, p in enumerate(params)]
    hyper = torch.tensor([1e-2, 0.9, 0.999, 0.5, 0.1, 1.0], dtype=torch.float64)

    def take(params, grads):
        states = [torch.zeros_like(p) for _ in range(2) for p in params]
        steps = [torch.zeros(()) for _ in params]
        torch.ops.gaudi3_rt.step_("adamw", "exp_avg exp_avg_sq", params, grads, states, steps, hyper)

    take(params, grads)
    for p, g in zip(alone, grads, strict=True):
        take([p], [g])
    assert all(torch.equal(p, q) for p, q in zip(params, alone, strict=True))
    assert not any(torch.equal(p, m()) for p, m in zip(params, make, strict=True))


@every_kernel
def test_float64_goes_through_torch_operations_and_says_so_once(case, caplog):
    """float64 parameters are stepped in float64; one log line for all of them, with the reason."""
    _elsewhere._announced.clear()
    doubles = [torch.ones(5, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for _ in range(2):
            step_both(lambda: [with_grad(x.clone()) for x in (*doubles, torch.ones(5))], case)
    (record,) = caplog.records
    assert "no kernel for torch.float64 tensors on device 'cpu'" in record.message


@every_kernel
def test_another_device_goes_through_torch_operations(case):
    """A device without kernels: the composite is used (here on meta tensors, which compute shapes only)."""
    p = torch.nn.Parameter(torch.ones(5, device="meta"))
    p.grad = torch.ones(5, device="meta")
    optimizer = case.make([p])
    optimizer.step()
    states = {key: state.device.type for key, state in optimizer.state[p].items()}
    assert states.pop("step") == "cpu"
    assert set(states.values()) <= {"meta"}
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


@every_kernel
@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_stepped_is_refused_and_nothing_changes(case, make, error, message):
    """One sentence names the parameter and the reason; no other parameter was stepped and no state was made."""
    good = with_grad(torch.ones(3))
    optimizer = case.make([good, *make()])
    at_first = copy.deepcopy(list(optimizer.state.values()))
    with pytest.raises(error, match=message):
        optimizer.step()
    assert torch.equal(good, torch.ones(3))
    after = list(optimizer.state.values())
    assert (
        len(after)
        == len(at_first)
        == (0 if case.ours is not FusedAdagrad else len(optimizer.param_groups[0]["params"]))
    )
    for state, before in zip(after, at_first, strict=True):
        assert all(torch.equal(state[key], before[key]) for key in state.keys() | before.keys())


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


@every_class
def test_differentiable_is_refused(case):
    """In the constructor and in a group that is added."""
    name = case.ours.__name__
    if case.theirs.__module__.startswith("torch."):  # the others have no such argument
        with pytest.raises(ValueError, match=f"differentiable=True: {name} writes memory that autograd does not see"):
            case.make([torch.nn.Parameter(torch.ones(1))], differentiable=True)
    optimizer = case.make([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="differentiable=True"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "differentiable": True})
    assert len(optimizer.param_groups) == 1


BAD_OPTIONS = {
    "AdamW, defaults": (
        {"lr": -1.0},
        {"eps": -1.0},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"weight_decay": -0.5},
        {"momentum": 0.9},
    ),
    "Adam, weight decay": ({"lr": -1.0}, {"betas": (1.0, 0.9)}, {"momentum": 0.9}),
    "SGD, weight decay": ({"lr": -1.0}, {"momentum": -0.1}, {"nesterov": True}, {"betas": (0.9, 0.9)}),
    "Adagrad, lr_decay": ({"lr": -1.0}, {"lr_decay": -1.0}, {"initial_accumulator_value": -1.0}, {"momentum": 0.9}),
}


@pytest.mark.parametrize(("name", "options"), [(name, bad) for name, all_bad in BAD_OPTIONS.items() for bad in all_bad])
def test_bad_options_are_refused_as_in_torch(name, options):
    """The same error from the same check."""
    case = EVERY_KERNEL[name]
    errors = []
    for make in (case.make, case.reference):
        with pytest.raises((ValueError, TypeError)) as caught:
            make([torch.nn.Parameter(torch.ones(1))], **options)
        errors.append((caught.type, str(caught.value).replace("Fused", "")))
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
