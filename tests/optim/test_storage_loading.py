"""Checkpoints of another storage are converted; what does not fit is refused, and nothing is changed."""

import copy
import math

import pytest
import torch
from _training import STORAGES, assert_same, everything, parameters, train

from gaudi3_rt.optim import FusedAdamW, FusedLAMB, FusedLARS
from gaudi3_rt.optim._storage import decode

SHAPES = [(20, 256), (9,)]


def moment(own, name):
    """A moment as float32, however it is stored."""
    if name in own:
        return own[name].float()
    return decode(own[f"{name}_codes"], own[f"{name}_scales"], positive=name == "exp_avg_sq")


def trained(cls=FusedAdamW, dtype=torch.float32, steps=3, **options):
    """An optimizer that has taken steps."""
    optimizer = cls(parameters(dtype, SHAPES), lr=1e-2, **options)
    train(optimizer, steps)
    return optimizer


# How far a moment may be from itself after one conversion: the distance of codes, relative to the largest of a block.
TARGETS = {
    "bfloat16": (torch.bfloat16, 2**-7),
    "int8": (torch.int8, 2**-3),
    "e4m3fn": (torch.float8_e4m3fn, 2**-2),
    "e5m2": (torch.float8_e5m2, 2**-2),
    "float32": (torch.float32, 0),
}


@pytest.mark.parametrize("source", ["torch", *TARGETS])
@pytest.mark.parametrize("target", TARGETS)
def test_moments_are_converted(source, target):
    """From torch's class and every storage to every storage: as near as codes are; exact where nothing changes."""
    first = trained(torch.optim.AdamW) if source == "torch" else trained(moments_dtype=TARGETS[source][0])
    second = FusedAdamW(parameters(shapes=SHAPES), lr=1e-2, moments_dtype=TARGETS[target][0])
    state_dict = copy.deepcopy(first.state_dict())
    untouched = copy.deepcopy(state_dict)
    second.load_state_dict(state_dict)
    for p, q in zip(first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True):
        own = second.state[q]
        assert ("exp_avg_codes" in own) == (target in {"int8", "e4m3fn", "e5m2"} and p.numel() >= 4096)
        for name in ("exp_avg", "exp_avg_sq"):
            before, after = moment(first.state[p], name), moment(own, name)
            assert torch.equal(before, after) or target not in {"float32", source}
            assert ((after - before).abs() <= TARGETS[target][1] * before.abs().max()).all()
            assert (after > 0).all() or name == "exp_avg"
    for index, entry in untouched["state"].items():
        assert all(torch.equal(value, state_dict["state"][index][key]) for key, value in entry.items())
    train(second, 2, first=3)
    assert float(second.state[second.param_groups[0]["params"][0]]["step"]) == 5


def test_without_moments_dtype_moments_stay_as_they_were_saved():
    """Plain ones keep their dtype; blocks become float32, which any optimizer can go on from."""
    halves, codes = trained(moments_dtype=torch.bfloat16), trained(moments_dtype=torch.int8)
    for source, dtype in ((halves, torch.bfloat16), (codes, torch.float32)):
        target = FusedAdamW(parameters(shapes=SHAPES))
        target.load_state_dict(source.state_dict())
        p, q = (o.param_groups[0]["params"][0] for o in (source, target))
        assert target.state[q]["exp_avg"].dtype is dtype
        assert torch.equal(moment(source.state[p], "exp_avg_sq"), target.state[q]["exp_avg_sq"].float())
    again = torch.optim.AdamW(parameters(shapes=SHAPES))
    again.load_state_dict(target.state_dict())
    train(again, 1)


def test_conversion_draws_by_seed_step_and_parameter():
    """The same checkpoint gives the same codes at each loading; another seed, step or parameter gives others."""

    def codes(number, **options):
        params = [torch.nn.Parameter(torch.zeros(20, 256)) for _ in range(2)]
        target = FusedAdamW(params, moments_dtype=torch.int8, **options)
        target.load_state_dict(state_dict)
        return target.state[params[number]]["exp_avg_codes"]

    moments = {"exp_avg": torch.randn(20, 256), "exp_avg_sq": torch.ones(20, 256)}
    state_dict = FusedAdamW([torch.nn.Parameter(torch.zeros(20, 256)) for _ in range(2)]).state_dict()
    state_dict["state"] = {i: {"step": torch.tensor(3.0), **moments} for i in range(2)}
    want = codes(0)
    assert torch.equal(codes(0), want)
    assert not torch.equal(codes(0, seed=1), want)
    assert not torch.equal(codes(1), want)
    state_dict["state"][0]["step"] = torch.tensor(4.0)
    assert not torch.equal(codes(0), want)


@pytest.mark.parametrize("master", [None, "split", "float32"])
@pytest.mark.parametrize("saved", [None, "split", "float32"])
def test_masters_come_and_go(saved, master):
    """What the options do not keep is dropped; what they keep and the checkpoint lacks is made from the parameter."""
    key = {None: None, "split": "param_low", "float32": "param_master"}
    source = trained(dtype=torch.bfloat16, master=saved, ema_decay=0.9 if saved else None)
    params = [torch.nn.Parameter(p.detach().clone()) for p in source.param_groups[0]["params"]]
    target = FusedAdamW(params, lr=1e-2, master=master, ema_decay=None if saved else 0.9)
    target.load_state_dict(source.state_dict())
    kept = {key[saved]} & {key[master]} - {None}
    assert all(set(target.state[p]) == {"step", "exp_avg", "exp_avg_sq", *kept} for p in params)
    start = params[0].detach().float().clone()
    train(target, 1, first=3)
    expected = {"step", "exp_avg", "exp_avg_sq", key[master], None if saved else "ema"} - {None}
    assert all(set(target.state[p]) == expected for p in params)
    if master == "float32" and saved != "float32":
        assert (target.state[params[0]]["param_master"] - start).abs().max() < 0.02
    if not saved:
        assert (target.state[params[0]]["ema"] - start).abs().max() < 0.02


def test_torchs_class_fails_loudly_on_codes():
    """It needs the moments under their own names, and says so at its first step."""
    other = torch.optim.AdamW(parameters(shapes=SHAPES))
    other.load_state_dict(trained(moments_dtype=torch.int8).state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        train(other, 1)


def test_another_layout_of_memory_is_refused():
    """Codes follow the memory of their parameter, so they cannot serve one that is laid out otherwise."""
    source = FusedAdamW(parameters(shapes=[(64, 80)]), moments_dtype=torch.int8)
    train(source, 1)
    p = torch.nn.Parameter(torch.zeros(80, 64).t())
    target = FusedAdamW([p], moments_dtype=torch.int8)
    target.load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match=r"exp_avg_codes has strides \(80, 1\), the parameter's memory has \(1, 64\)"):
        train(target, 1)
    assert not p.any()


# Bad input: options

BAD_OPTIONS = {
    "rounding": ({"rounding": "up"}, ValueError, "rounding='up': must be 'nearest' or 'stochastic'"),
    "master": ({"master": "float64"}, ValueError, "master='float64': must be None, 'float32' or 'split'"),
    "both": (
        {"master": "split", "rounding": "stochastic"},
        ValueError,
        "master='split' keeps the exact parameter, so rounding='stochastic' has no use; choose one",
    ),
    "seed": ({"seed": -1}, ValueError, r"seed=-1: must be an integer in \[0, 2\*\*64\)"),
    "large seed": ({"seed": 2**64}, ValueError, "seed=18446744073709551616: must be an integer"),
    "float seed": ({"seed": 1.0}, ValueError, r"seed=1\.0: must be an integer"),
    "boolean seed": ({"seed": True}, ValueError, "seed=True: must be an integer"),
    "dtype": (
        {"moments_dtype": torch.float64},
        ValueError,
        r"moments_dtype=torch\.float64: must be None, one of \(torch\.float32, .*torch\.int8.*\), or a pair of them",
    ),
    "string": ({"moments_dtype": "int8"}, ValueError, "moments_dtype='int8': must be None, one of"),
    "list": ({"moments_dtype": [torch.int8]}, ValueError, r"moments_dtype=\[torch\.int8\]: must be None, one of"),
    "one of a pair": ({"moments_dtype": (torch.int8,)}, ValueError, r"moments_dtype=\(torch\.int8,\): must be None"),
    "three": ({"moments_dtype": (torch.int8,) * 3}, ValueError, "or a pair of them"),
    "empty": ({"moments_dtype": ()}, ValueError, "or a pair of them"),
    "none in a pair": ({"moments_dtype": (None, torch.int8)}, ValueError, "or a pair of them"),
    "ema": ({"ema_decay": 1.5}, ValueError, r"ema_decay=1\.5: must be in \[0, 1\], or None for no average"),
    "nan": ({"ema_decay": math.nan}, ValueError, "ema_decay=nan: must be"),
    "norm": ({"norm": "later", "max_grad_norm": 1.0}, ValueError, "norm='later': must be 'step' or 'overlapped'"),
    "no norm": (
        {"norm": "overlapped"},
        ValueError,
        "norm='overlapped' says when the norm for max_grad_norm is taken; give max_grad_norm as well",
    ),
    "unknown": ({"storage": "int8"}, TypeError, "unexpected keyword argument 'storage'"),
}


@pytest.mark.parametrize("cls", [FusedAdamW, FusedLAMB, FusedLARS])
@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused(cls, options, error, message):
    """What was given, and what is allowed."""
    more = {"max_grad_norm": None} if cls is FusedLAMB and "max_grad_norm" not in options else {}
    with pytest.raises(error, match=message):
        cls([torch.nn.Parameter(torch.ones(1))], **options, **more)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("options", [{"rounding": "stochastic"}, {"master": "split"}, {"master": "float32"}], ids=str)
def test_parameters_that_cannot_be_stored_so_are_refused(dtype, options):
    """In the constructor and in a group that is added; float32 parameters need neither and are let through."""
    ((name, value),) = options.items()
    message = f"parameter 0 of group 1 is {dtype}; {name}='{value}' is for bfloat16 parameters"
    groups = [{"params": parameters(shapes=[(2,)])}, {"params": parameters(dtype, [(3,)])}]
    with pytest.raises(TypeError, match=message):
        FusedAdamW(groups, **options)
    optimizer = FusedAdamW(parameters(shapes=[(2,)]), **options)
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": parameters(dtype, [(3,)])})
    assert len(optimizer.param_groups) == 1
    train(optimizer, 1)


def test_no_kernel_no_codes():
    """Without a kernel, moments in blocks and stochastic rounding are refused instead of being left out."""
    for options in ({"moments_dtype": torch.int8}, {"moments_dtype": torch.bfloat16}):
        optimizer = FusedAdamW(parameters(torch.float64, [(64, 64)]), **options)
        before = optimizer.param_groups[0]["params"][0].detach().clone()
        with pytest.raises(TypeError, match=r"parameter 0 of group 0 is torch\.float64 on device 'cpu', which has no"):
            train(optimizer, 1)
        assert torch.equal(optimizer.param_groups[0]["params"][0], before)
        assert not optimizer.state


# Bad input: state

INT8 = {"moments_dtype": torch.int8}
SPLIT = {"master": "split"}
BAD_STATES = {
    "scales of other blocks": (INT8, {"exp_avg_scales": torch.ones(20, 2, 2)}, "exp_avg_scales"),
    "scales of another format": (INT8, {"exp_avg_sq_scales": torch.ones(20, 1, 1)}, "exp_avg_sq_scales"),
    "scales in float64": (INT8, {"exp_avg_scales": torch.ones(20, 1, 2).double()}, "exp_avg_scales"),
    "codes of another shape": (INT8, {"exp_avg_codes": torch.zeros(256, 20).to(torch.int8)}, "exp_avg"),
    "codes of another dtype": (INT8, {"exp_avg_codes": torch.zeros(20, 256).to(torch.int16)}, "exp_avg_codes"),
    "codes with the sign of the other": (INT8, {"exp_avg_sq_codes": torch.zeros(20, 256).to(torch.int8)}, "exp_avg_sq"),
    "lower halves of another shape": (SPLIT, {"param_low": torch.zeros(20, 255).to(torch.int16)}, "param_low"),
    "lower halves in bfloat16": (SPLIT, {"param_low": torch.zeros(20, 256).bfloat16()}, "param_low"),
    "copy in integers": (
        {"master": "float32"}, {"param_master": torch.zeros(20, 256).to(torch.int32)}, "param_master"
    ),
    "average of another shape": ({"ema_decay": 0.5}, {"ema": torch.zeros(20)}, "ema"),
}  # fmt: skip


@pytest.mark.parametrize("how", ["loaded", "by hand"])
@pytest.mark.parametrize(("options", "change", "named"), BAD_STATES.values(), ids=BAD_STATES)
def test_state_that_does_not_fit_is_refused(options, change, named, how):
    """On loading or, at the latest, in the step; the message names it, and nothing is changed."""
    optimizer = trained(dtype=torch.bfloat16 if "master" in options else torch.float32, **options)
    (p, q) = optimizer.param_groups[0]["params"]
    if how == "by hand":
        optimizer.state[p].update(change)
        before = everything(optimizer)
        with pytest.raises((ValueError, TypeError), match=f"{named}.* of parameter 0|parameter 0 .*{named}"):
            train(optimizer, 1)
        assert_same(everything(optimizer), before)
        return
    state_dict = copy.deepcopy(optimizer.state_dict())
    state_dict["state"][0].update(change)
    before = everything(optimizer)

    def load_and_step():
        optimizer.load_state_dict(state_dict)
        train(optimizer, 1)

    with pytest.raises((ValueError, TypeError), match=f"{named}.* of parameter 0|parameter 0 .*{named}"):
        load_and_step()
    after = everything(optimizer)
    assert (after[0, "param"] == before[0, "param"]).all()
    assert (after[1, "param"] == before[1, "param"]).all()
    assert float(optimizer.state[q]["step"]) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("storage", ["bfloat16", "int8", "split", "master"])
def test_states_that_are_not_finite_are_refused(storage, bad):
    """A checkpoint that would poison the training is not loaded: every floating-point tensor is looked at."""
    dtype, options = STORAGES[storage]
    optimizer = trained(dtype=dtype, **{**options, "ema_decay": 0.9})
    before = everything(optimizer)
    keys = [k for k, v in optimizer.state_dict()["state"][0].items() if v.is_floating_point() and k != "step"]
    assert len(keys) >= 3
    for key in keys:
        state_dict = copy.deepcopy(optimizer.state_dict())
        state_dict["state"][0][key].view(-1)[5] = bad
        with pytest.raises(ValueError, match=f"the saved {key} of parameter 0 has elements that are not finite; load"):
            optimizer.load_state_dict(state_dict)
        assert_same(everything(optimizer), before)


def test_checkpoints_of_other_classes_are_refused():
    """Other names of state, or groups without an option of this class (moments of LAMB do serve AdamW)."""
    refused = {FusedAdamW: [FusedLARS], FusedLAMB: [FusedAdamW, FusedLARS], FusedLARS: [FusedAdamW, FusedLAMB]}
    for cls, others in refused.items():
        optimizer = trained(cls, moments_dtype=torch.int8)
        before = everything(optimizer)
        for other in others:
            with pytest.raises(ValueError, match="was it saved by another class of optimizer"):
                optimizer.load_state_dict(trained(other, moments_dtype=torch.int8).state_dict())
        assert_same(everything(optimizer), before)
