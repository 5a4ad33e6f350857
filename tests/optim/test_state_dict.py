"""State interchanges with torch.optim.AdamW, whatever way it travels."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from _optimizers import EVERY_KERNEL, every_class, every_kernel, parameters, train
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW, FusedSGD


def through_torch_save(state_dict, **options):
    """A round trip through a file."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True, **options)


TRIPS = {
    "directly": copy.deepcopy,
    "torch.save": through_torch_save,
    "map_location": lambda sd: through_torch_save(sd, map_location="cpu"),
    "pickle": lambda sd: pickle.loads(pickle.dumps(sd)),  # noqa: S301 (our own bytes)
}


@every_kernel
@pytest.mark.parametrize("trip", TRIPS.values(), ids=TRIPS)
@pytest.mark.parametrize(("source", "target"), [("ours", "torch"), ("torch", "ours"), ("ours", "ours")])
def test_training_goes_on_after_loading_into_either_class(case, source, target, trip):
    """30 steps, a round trip, 30 more: as if nothing had happened in between."""
    classes = {"ours": case.bare, "torch": case.theirs}
    params = parameters()
    optimizer = classes[source](params, **{**case.options, "lr": 1e-2})
    train(params, optimizer, 30)
    copied = copy.deepcopy(params)
    resumed = classes[target](copied, lr=0.5)
    resumed.load_state_dict(trip(optimizer.state_dict()))
    train(params, optimizer, 30, first=30)
    train(copied, resumed, 30, first=30)
    for p, q in zip(params, copied, strict=True):
        if source == target:
            assert torch.equal(p, q)
        if case.ours is not FusedSGD:  # its state_dict has no counters
            assert float(resumed.state[q]["step"]) == 60
    case.assert_close(params, copied, 1e-5)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_schema_is_that_of_torch(case, dtype):
    """Same keys in the same order, same types, dtypes, shapes and devices, in the groups and in the state."""
    described = []
    for make in (case.make, case.reference):
        params = parameters(dtype)
        optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": 1e-2}])
        at_first = [(i, list(entry)) for i, entry in optimizer.state_dict()["state"].items()]
        train(params, optimizer, 2)
        state_dict = optimizer.state_dict()
        state = {
            index: [(key, value.dtype, value.shape, value.device, value.stride()) for key, value in entry.items()]
            for index, entry in state_dict["state"].items()
        }
        groups = [[(key, type(value), value) for key, value in group.items()] for group in state_dict["param_groups"]]
        described.append((at_first, list(state_dict), state, groups))
    assert described[0] == described[1]


def test_state_keeps_its_dtype():
    """float32 moments of bfloat16 parameters, and the reverse, are still that after loading and after steps."""
    params = parameters(torch.bfloat16)
    optimizer = FusedAdamW(params)
    train(params, optimizer, 3)
    state_dict = optimizer.state_dict()
    for entry in state_dict["state"].values():
        entry["exp_avg"] = entry["exp_avg"].float()
        entry["exp_avg_sq"] = entry["exp_avg_sq"].to(torch.float16)
    fresh = parameters(torch.bfloat16)
    resumed = FusedAdamW(fresh)
    resumed.load_state_dict(state_dict)
    train(fresh, resumed, 1)
    for p in fresh:
        state = resumed.state[p]
        dtypes = [state[key].dtype for key in ("step", "exp_avg", "exp_avg_sq")]
        assert dtypes == [torch.float32, torch.float32, torch.float16]


@every_kernel
def test_deepcopy_and_pickle_of_the_optimizer_go_on_alike(case):
    """A copy has its own state and the same options, also those that torch does not know."""
    params = parameters()
    optimizer = case.make(params, lr=1e-2, max_grad_norm=0.5)
    train(params, optimizer, 5)
    # The parameters travel inside, so that the copies belong to copied parameters.
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):  # noqa: S301 (our own bytes)
        assert copied.max_grad_norm == 0.5
        saved, of_copy = (
            {index: list(entry) for index, entry in one.state_dict()["state"].items()} for one in (optimizer, copied)
        )
        assert saved == of_copy
        theirs = [p for group in copied.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in params]
        train(theirs, copied, 5, first=5)
        assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        own = copy.deepcopy(optimizer)
        own_params = [p for group in own.param_groups for p in group["params"]]
        train(own_params, own, 5, first=5)
        assert all(torch.equal(p, q) for p, q in zip(theirs, own_params, strict=True))
        assert [float(copied.state[p]["step"]) for p in theirs] == [10, 10, 10]
        assert float(copied.last_grad_norm) > 0


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process is what is tested
@every_class
def test_distributed_checkpoint(case, tmp_path):
    """torch.distributed.checkpoint saves from one class and loads into the other."""
    torch.manual_seed(0)
    models = [torch.nn.Linear(5, 3) for _ in range(2)]
    saved, loaded = case.make(models[0].parameters(), lr=1e-2), case.reference(models[1].parameters())
    for (source, optimizer), (target, other) in (
        ((models[0], saved), (models[1], loaded)),
        ((models[1], loaded), (models[0], saved)),
    ):
        train(list(source.parameters()), optimizer, 7)
        path = tmp_path / type(optimizer).__name__
        dcp.save(get_optimizer_state_dict(source, optimizer), checkpoint_id=path, no_dist=True)
        incoming = get_optimizer_state_dict(target, other)
        dcp.load(incoming, checkpoint_id=path, no_dist=True)
        set_optimizer_state_dict(target, other, incoming)
        for p, q in zip(source.parameters(), target.parameters(), strict=True):
            shared = optimizer.state[p].keys() & other.state[q].keys()
            assert shared >= set(_core.describe_kernel(saved._kernel(saved.param_groups[0]))["state"])
            for key in shared:
                assert torch.equal(optimizer.state[p][key], other.state[q][key]), key


def test_loading_changes_hyper_parameters_but_not_max_grad_norm():
    """Groups come from the checkpoint, as in torch; clipping is not part of it."""
    params = parameters()
    optimizer = FusedAdamW(params, lr=1e-2, max_grad_norm=2.0)
    optimizer.load_state_dict(torch.optim.AdamW(parameters(), lr=0.25, betas=(0.5, 0.6)).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert optimizer.max_grad_norm == 2.0


def broken(change):
    """A valid state_dict with one thing wrong."""
    params = parameters()
    optimizer = FusedAdamW(params)
    train(params, optimizer, 2)
    state_dict = copy.deepcopy(optimizer.state_dict())
    change(state_dict)
    return state_dict


def sgd():
    """The state of another class."""
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    train(params, optimizer, 1)
    return optimizer.state_dict()


BAD = {
    "another class": (sgd, "saved by another class"),
    "fewer parameters": (
        lambda: FusedAdamW(parameters()[:2]).state_dict(),
        r"\[2\] parameters, this optimizer's have \[3\]",
    ),
    "wrong shape": (
        lambda: broken(lambda sd: sd["state"][0].update(exp_avg=torch.zeros(3))),
        r"exp_avg of parameter 0 has shape \(3,\), the parameter has \(4, 6\)",
    ),
    "missing moment": (
        lambda: broken(lambda sd: sd["state"][1].pop("exp_avg_sq")),
        r"parameter 1 has the keys \['exp_avg', 'step'\]",
    ),
    "amsgrad without its state": (
        lambda: broken(lambda sd: sd["param_groups"][0].update(amsgrad=True)),
        "max_exp_avg_sq",
    ),
    "differentiable": (
        lambda: broken(lambda sd: sd["param_groups"][0].update(differentiable=True)),
        "differentiable=True",
    ),
}


def without_options(state_dict, *names):
    """Groups as they were saved before torch had these options."""
    for group in state_dict["param_groups"]:
        for name in names:
            del group[name]
    return state_dict


OLD = {
    "AdamW, defaults": ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"),
    "SGD, dampening": ("nesterov", "maximize", "foreach", "differentiable", "fused"),
    "Lion, weight decay": ("maximize",),
    "Adagrad, lr_decay": ("maximize", "foreach", "differentiable", "fused"),
}


@pytest.mark.parametrize(("name", "options"), OLD.items())
def test_checkpoints_that_are_older_than_some_options_load(name, options):
    """They get the values that torch gives them, and training goes on."""
    case = EVERY_KERNEL[name]
    params = parameters()
    optimizer = case.make(params)
    train(params, optimizer, 3)
    copied = copy.deepcopy(params)
    resumed = case.make(copied)
    resumed.load_state_dict(without_options(copy.deepcopy(optimizer.state_dict()), *options))
    for some, one in ((params, optimizer), (copied, resumed)):
        train(some, one, 3, first=3)
    assert all(torch.equal(p, q) for p, q in zip(params, copied, strict=True))


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(make, message):
    """One sentence says what is wrong; the optimizer goes on as before."""
    params = parameters()
    optimizer = FusedAdamW(params, lr=0.125)
    train(params, optimizer, 3)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(make())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in entry.items())


def test_users_own_load_hooks_see_and_change_what_is_loaded():
    """A pre-hook that rewrites the checkpoint is honoured, and what it returns is what is checked."""
    params = parameters()
    optimizer = FusedAdamW(params)

    def double(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        for entry in state_dict["state"].values():
            entry["exp_avg"] *= 2
        return state_dict

    optimizer.register_load_state_dict_pre_hook(double)
    source = parameters()
    other = FusedAdamW(source)
    train(source, other, 1)
    optimizer.load_state_dict(other.state_dict())
    for p, q in zip(params, source, strict=True):
        assert torch.equal(optimizer.state[p]["exp_avg"], 2 * other.state[q]["exp_avg"])
