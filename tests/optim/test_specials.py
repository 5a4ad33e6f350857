"""What is special about one optimizer: SGD's first step, Lion's sign, Adagrad's early state."""

import copy

import pytest
import torch
from _optimizers import parameters, train

from gaudi3_rt.optim import FusedAdagrad, FusedLion, FusedSGD


@pytest.mark.parametrize("missing", ["None", "no key", "no entry"])
def test_sgd_without_a_saved_buffer_starts_anew(missing):
    """As in torch: the next step has momentum for the first time and is not dampened; later ones are."""
    params, theirs = parameters(), parameters()
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    for some, optimizer in ((params, FusedSGD(params, **options)), (theirs, torch.optim.SGD(theirs, **options))):
        train(some, optimizer, 2)
        state_dict = copy.deepcopy(optimizer.state_dict())
        if missing == "None":
            state_dict["state"][0]["momentum_buffer"] = None
        elif missing == "no key":
            del state_dict["state"][0]["momentum_buffer"]
        else:
            del state_dict["state"][0]
        optimizer.load_state_dict(state_dict)
        train(some, optimizer, 3, first=2)
    for p, q in zip(params, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_sgd_momentum_that_is_switched_on_starts_anew():
    """Steps without momentum do not count: the first with it is not dampened. Switched off, the buffer waits."""
    params, theirs = parameters(), parameters()
    for some, optimizer in (
        (params, FusedSGD(params, lr=0.1, dampening=0.5)),
        (theirs, torch.optim.SGD(theirs, lr=0.1, dampening=0.5)),
    ):
        for first, momentum in ((0, 0.0), (5, 0.9), (10, 0.0), (15, 0.8)):
            optimizer.param_groups[0]["momentum"] = momentum
            train(some, optimizer, 5, first=first)
    for p, q in zip(params, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_sgd_hooks_see_the_schema_of_torch():
    """The counter is left out before a user's own hook sees the state, and stays in the optimizer."""
    params = parameters()
    optimizer = FusedSGD(params, lr=0.1, momentum=0.9)
    train(params, optimizer, 2)
    seen = []
    optimizer.register_state_dict_post_hook(lambda _, sd: seen.append([list(own) for own in sd["state"].values()]))
    optimizer.state_dict()
    assert seen == [[["momentum_buffer"]] * 3]
    assert [float(optimizer.state[p]["step"]) for p in params] == [2, 2, 2]


def test_lion_state_without_counters_loads():
    """Other implementations do not count steps, and the update does not depend on them."""
    params = parameters()
    optimizer = FusedLion(params)
    train(params, optimizer, 3)
    state_dict = copy.deepcopy(optimizer.state_dict())
    for entry in state_dict["state"].values():
        del entry["step"]
    copied = copy.deepcopy(params)
    resumed = FusedLion(copied)
    resumed.load_state_dict(state_dict)
    for some, one in ((params, optimizer), (copied, resumed)):
        train(some, one, 3, first=3)
    assert all(torch.equal(p, q) for p, q in zip(params, copied, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, r"lr=-1\.0: must be a number >= 0"),
        ({"lr": float("nan")}, "lr=nan: must be a number >= 0"),
        ({"lr": torch.ones(2)}, "lr has 2 elements: must be a number, or a tensor of one element"),
        ({"betas": (1.0, 0.9)}, r"betas=\(1\.0, 0\.9\): both must be >= 0 and < 1"),
        ({"betas": (0.9, -0.1)}, r"betas=\(0\.9, -0\.1\): both must be >= 0 and < 1"),
        ({"weight_decay": -0.5}, r"weight_decay=-0\.5: must be a number >= 0"),
    ],
)
def test_bad_options_of_lion_are_refused(options, message):
    """What was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        FusedLion([torch.nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lion_has_a_sign_for_everything(dtype):
    """Zero, tiny, infinite and NaN gradients, by the kernel and by torch operations."""
    p = torch.nn.Parameter(torch.ones(6, dtype=dtype))
    p.grad = torch.tensor([0.0, -0.0, 1e-37, -1e-37, torch.inf, torch.nan], dtype=dtype)
    FusedLion([p], lr=0.25).step()
    torch.testing.assert_close(p, torch.tensor([1, 1, 0.75, 1.25, 0.75, torch.nan], dtype=dtype), equal_nan=True)


def test_adagrad_makes_state_for_parameters_that_come_later():
    """Filled like that of the constructor, as in torch."""
    params, theirs = parameters(), parameters()
    for some, cls in ((params, FusedAdagrad), (theirs, torch.optim.Adagrad)):
        optimizer = cls(some[:1], initial_accumulator_value=0.5)
        optimizer.add_param_group({"params": some[1:], "initial_accumulator_value": 0.1})
        train(some, optimizer, 2)
    for p, q in zip(params, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)
