"""The functional forms take torch's arguments and give torch's results."""

import copy
import inspect

import pytest
import torch
from _optimizers import EVERY_KERNEL, Lion
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from gaudi3_rt.optim import functional

THEIRS = {"adamw": adamw, "adam": adam, "sgd": sgd, "adagrad": adagrad}
MOMENTS = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "maximize": False}
DESCENT = {"lr": 1e-2, "momentum": 0.9, "dampening": 0.3, "nesterov": False, "weight_decay": 0.1, "maximize": True}
FALLING = {"lr": 1e-2, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-8, "maximize": False}
CALLS = [  # function, number of lists of states, has counters, options
    ("adamw", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": False}),
    ("adamw", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": True}),
    ("adam", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": False}),
    ("adam", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": True, "maximize": True}),
    ("adam", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": False, "decoupled_weight_decay": True}),
    ("adam", 3, True, {**MOMENTS, "eps": 1e-8, "amsgrad": True, "decoupled_weight_decay": True}),
    ("sgd", 1, False, DESCENT),
    ("sgd", 1, False, {**DESCENT, "nesterov": True, "lr": torch.tensor(1e-2)}),
    ("sgd", 1, False, {**DESCENT, "momentum": 0.0}),
    ("adagrad", 1, True, FALLING),
]
SHAPES = [(4, 6), (7,), ()]


def lists(n_states, has_counters):
    """Parameters, gradients, states and, if the function takes them, counters."""
    generator = torch.Generator().manual_seed(0)
    made = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(2)]
    made += [[torch.rand(shape, generator=generator) for shape in SHAPES] for _ in range(n_states)]
    return [*made, [torch.tensor(float(t)) for t in range(3)]] if has_counters else made


@pytest.mark.parametrize("name", THEIRS)
def test_signature_is_that_of_torch(name):
    """The same names, kinds and defaults in the same order."""

    def described(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert described(getattr(functional, name)) == described(THEIRS[name])


@pytest.mark.parametrize(("name", "n_states", "has_counters", "options"), CALLS)
def test_result_is_that_of_torch(name, n_states, has_counters, options):
    """Parameters, states and counters after three calls; buffers that are None are made as torch makes them."""
    ours, theirs = lists(n_states, has_counters), lists(n_states, has_counters)
    for made in (ours, theirs):
        if name == "sgd":
            made[2][1] = None
    start = copy.deepcopy(ours)
    for _ in range(3):
        getattr(functional, name)(*ours, **options)
        THEIRS[name](*theirs, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert all((p - q).abs().max() > 1e-3 for p, q in zip(ours[0], start[0], strict=True))


def test_lion_is_the_definition():
    """Like a few steps of the definition in torch operations."""
    options = {k: v for k, v in MOMENTS.items() if k not in {"beta1", "beta2"}}
    params, grads, exp_avgs, steps = lists(1, has_counters=True)
    theirs = [torch.nn.Parameter(p.clone()) for p in params]
    optimizer = Lion(theirs, betas=(0.9, 0.99), **options)
    for p, grad, exp_avg, step in zip(theirs, grads, exp_avgs, steps, strict=True):
        p.grad = grad
        optimizer.state[p] = {"step": step.clone(), "exp_avg": exp_avg.clone()}
    for _ in range(3):
        functional.lion(params, grads, exp_avgs, steps, **MOMENTS)
        optimizer.step()
    EVERY_KERNEL["Lion, weight decay"].assert_close(params, theirs, 1e-6)
    assert [float(t) for t in steps] == [3, 4, 5]
    for p, exp_avg in zip(theirs, exp_avgs, strict=True):
        torch.testing.assert_close(exp_avg, optimizer.state[p]["exp_avg"])


def call(name, made, **options):
    """Calls one of ours, and returns its lists."""
    getattr(functional, name)(*made, **options)
    return made


@pytest.mark.parametrize(("name", "n_states", "has_counters", "options"), CALLS)
def test_options_that_choose_an_implementation_change_nothing(name, n_states, has_counters, options):
    """Same bits with them as without; AMP's scale divides gradients, and found_inf skips the call."""
    plain = call(name, lists(n_states, has_counters), **options)
    scaled = lists(n_states, has_counters)
    scaled[1] = [grad * 8 for grad in scaled[1]]
    amp = {"foreach": False, "fused": True, "grad_scale": torch.tensor(8.0), "found_inf": torch.tensor(0.0)}
    scaled = call(name, scaled, **options, **amp)
    torch.testing.assert_close([scaled[0], *scaled[2:]], [plain[0], *plain[2:]], rtol=0, atol=0)
    skipped = lists(n_states, has_counters)
    if name == "sgd":
        skipped[2][0] = None
    before = copy.deepcopy(skipped)
    skipped = call(name, skipped, **options, found_inf=torch.tensor(1.0))
    torch.testing.assert_close(skipped, before, rtol=0, atol=0)


def test_parameters_that_require_gradients():
    """They are written without no_grad around the call, and autograd is told."""
    made = lists(1, has_counters=True)
    made[0] = [torch.nn.Parameter(p) for p in made[0]]
    result = (made[0][0] * made[0][0]).sum()
    functional.adagrad(*made, **FALLING)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


BAD = {
    "a counter that is a number": (lambda made: made[3].__setitem__(1, 2.0), TypeError, r"found 2\.0 where lists must"),
    "fewer states": (lambda made: made[2].pop(), ValueError, "the list of sum has 2 tensors, the list of steps 3"),
    "wrong shape": (lambda made: made[2].__setitem__(1, torch.ones(2)), ValueError, r"sum of parameter 1 .* \(2,\)"),
    "complex": (lambda made: made[1].__setitem__(1, torch.ones(7) * 1j), TypeError, r"has dtype torch\.complex64"),
    "shared memory": (lambda made: made[0].__setitem__(1, made[2][1]), ValueError, "overlap in memory"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_and_nothing_changes(change, error, message):
    """One sentence, and no tensor is written."""
    made = lists(1, has_counters=True)
    change(made)
    before = copy.deepcopy(made)
    with pytest.raises(error, match=message):
        functional.adagrad(*made, **FALLING)
    torch.testing.assert_close(made, before, rtol=0, atol=0)


def test_refused_sgd_leaves_its_buffers_absent():
    """None is only replaced by a step that is taken."""
    made = lists(1, has_counters=False)
    made[2] = [None, None, None]
    made[1][2] = torch.ones(5)
    with pytest.raises(ValueError, match="grad of parameter 2"):
        functional.sgd(*made, **DESCENT)
    assert made[2] == [None, None, None]


@pytest.mark.parametrize("name", ["adamw", "adam", "adagrad"])
def test_differentiable_is_refused(name):
    """As by the classes."""
    ((_, n_states, has_counters, options), *_) = (row for row in CALLS if row[0] == name)
    with pytest.raises(ValueError, match=f"differentiable=True: {name} writes memory that autograd does not see"):
        call(name, lists(n_states, has_counters), **options, differentiable=True)
