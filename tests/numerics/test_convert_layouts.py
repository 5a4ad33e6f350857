"""Each layout is recognised and read as its library means it, and written as it loads it."""

import copy

import pytest
import torch
from _convert_layouts import (
    LAYOUTS,
    SHAPES,
    TORCH_GROUP,
    WRAPPED,
    assert_same,
    moments,
    parameters,
    saved_by,
    torch_state,
    train,
)

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex
from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import convert_state

OTHERS = tuple(layout for layout in LAYOUTS if layout not in {"torch", "gaudi3_rt"})


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("names", [None, ("a", "b", "c", "d", "e")])
def test_a_layout_becomes_torchs(layout, names):
    """Recognised by what is in it; counts and moments are where torch.optim.AdamW looks for them."""
    pairs = moments()
    converted = convert_state(saved_by(layout, pairs, 12, names), optimizer="AdamW", allow_lossy=True, steps=1)
    assert converted.certificate.source == layout
    lr = float(torch.tensor(1e-3)) if layout == "torchao" else 1e-3
    assert_same(converted.state_dict, torch_state(pairs, [12] * len(pairs), names=names, lr=lr))
    assert converted.certificate.state_equal


@pytest.mark.parametrize("layout", OTHERS)
def test_torchs_becomes_a_layout(layout):
    """Key for key what the library saves."""
    pairs = moments()
    sd = torch_state(pairs, [12] * len(pairs))
    converted = convert_state(sd, target=layout, allow_lossy=True, steps=1)
    assert not converted.certificate.lost
    assert_same(converted.state_dict, saved_by(layout, pairs, 12))


def test_a_state_of_the_vendors_class_goes_on_in_torch():
    """The report of users: a resume that restarts bias correction at 1 and makes updates a third of what they were."""
    params = parameters()
    trained = hpex.FusedAdamW(params, eps=1e-12, weight_decay=0.01)
    train(trained, params, 9)
    copies = [torch.nn.Parameter(param.detach().clone()) for param in params]
    resumed = torch.optim.AdamW(copies)
    named = [(f"p{i}", param) for i, param in enumerate(params)]
    resumed.load_state_dict(convert_state(copy.deepcopy(trained.state_dict()), params=named).state_dict)
    train(trained, params, 3, first=9)
    train(resumed, copies, 3, first=9)
    assert resumed.state[copies[0]]["step"] == 12
    assert resumed.param_groups[0]["eps"] == 1e-12
    for mine, theirs in zip(copies, params, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)  # an update is 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [("SGD", {"momentum": 0.9, "nesterov": True}), ("Adagrad", {"lr_decay": 0.1}), ("Adam", {"weight_decay": 0.1})],
)
@pytest.mark.parametrize("target", ["torch", "gaudi3_rt", "hpex"])
def test_other_algorithms(name, options, target):
    """SGD, Adagrad and Adam go to wherever they exist."""
    params = parameters()
    theirs = getattr(torch.optim, name)(params, lr=1e-2, **options)
    train(theirs, params, 3)
    if (name, target) == ("Adam", "hpex"):
        with pytest.raises(DataValidationError, match="decoupled decay only"):
            convert_state(theirs.state_dict(), target=target)
        lossy = convert_state(theirs.state_dict(), target=target, allow_lossy=True, steps=2).certificate
        assert not lossy.reproduces
        return
    converted = convert_state(theirs.state_dict(), target=target, steps=2)
    assert converted.certificate.reproduces
    assert_same(converted.state_dict["state"], theirs.state_dict()["state"])


@pytest.mark.parametrize("target", ["deepspeed", "bitsandbytes"])
@pytest.mark.parametrize("name", ["Lion", "Adagrad"])
def test_lion_and_adagrad_there_and_back(target, name):
    """Their one moment is state1, or is called exp_avg_sq."""
    params = parameters()
    ours = getattr(optim, f"Fused{name}")(params)
    train(ours, params, 3)
    there = convert_state(ours.state_dict(), target=target, optimizer=name, steps=2)
    assert there.certificate.reproduces
    back = convert_state(there.state_dict, target="gaudi3_rt", optimizer=name, steps=2)
    assert_same(back.state_dict["state"], ours.state_dict()["state"])


def test_blocks_of_ours_become_plain():
    """Codes are decoded; what is beside the moments is lost, and only with consent."""
    param = torch.nn.Parameter(torch.randn(64, 128).bfloat16())
    ours = optim.FusedAdamW([param], moments_dtype=torch.int8, master="split")
    param.grad = torch.randn_like(param)
    ours.step()
    with pytest.raises(DataValidationError, match="param_low of parameter 0"):
        convert_state(ours.state_dict())
    converted = convert_state(ours.state_dict(), allow_lossy=True, steps=1)
    assert converted.certificate.lost == ("param_low of parameter 0",)
    plain = optim.FusedAdamW([param])
    plain.load_state_dict(ours.state_dict())
    assert_same(converted.state_dict["state"], plain.state_dict()["state"])


def test_groups_of_older_releases():
    """Before torch 1.12, and of the vendor's SGD, which has the same ones."""
    for name, options in (("SGD", {"momentum": 0.9}), ("Adagrad", {}), ("AdamW", {})):
        params = parameters()
        theirs = getattr(torch.optim, name)(params, lr=1e-2, **options)
        train(theirs, params, 2)
        sd = copy.deepcopy(theirs.state_dict())
        for key in ("maximize", "foreach", "differentiable", "fused", "capturable", "decoupled_weight_decay"):
            sd["param_groups"][0].pop(key, None)
        converted = convert_state(sd, steps=2, optimizer=name)
        assert converted.certificate.source == "torch"
        assert_same(converted.state_dict["state"], theirs.state_dict()["state"])


# Options and dtypes


def test_options_that_the_target_lacks_are_losses():
    """They change every update that follows."""
    pairs = moments()[:2]
    for option, value in (("maximize", True), ("amsgrad", True)):
        sd = torch_state(pairs, [3, 3], **{option: value})
        if option == "amsgrad":
            for own in sd["state"].values():
                own["max_exp_avg_sq"] = own["exp_avg_sq"].clone()
        with pytest.raises(DataValidationError, match=option):
            convert_state(sd, target="deepspeed")
        assert convert_state(sd, target="gaudi3_rt", steps=2).certificate.reproduces
    never_corrected = saved_by("apex", pairs, 3)
    never_corrected["param_groups"][0]["bias_correction"] = False
    with pytest.raises(DataValidationError, match="bias_correction=False"):
        convert_state(never_corrected)
    assert convert_state(never_corrected, target="deepspeed", steps=2).certificate.reproduces


def test_what_schedulers_put_into_groups_stays():
    """A scheduler that is resumed needs its initial_lr."""
    sd = torch_state(moments(), [3] * len(SHAPES), initial_lr=0.5)
    assert convert_state(sd, target="apex", steps=1).state_dict["param_groups"][0]["initial_lr"] == 0.5


def test_dtypes_by_policy():
    """Fewer bits are a loss, more are none."""
    sd = saved_by("torch", moments(dtype=torch.bfloat16), 5)
    wide = convert_state(sd, moments_dtype=torch.float32, steps=1)
    assert wide.state_dict["state"][0]["exp_avg"].dtype is torch.float32
    assert wide.state_dict["state"][0]["step"].dtype is torch.float32
    with pytest.raises(
        DataValidationError, match="exp_avg of parameter 0 and 4 more is rounded from float32 to float16"
    ):
        convert_state(wide.state_dict, moments_dtype=torch.float16)
    half = convert_state(wide.state_dict, moments_dtype=torch.bfloat16, allow_lossy=True, steps=1)
    assert_same(half.state_dict, sd)


def test_codes_of_bitsandbytes():
    """Moments of 4096 elements and more, within the distance of two codes; smaller ones stay."""
    pairs = moments()
    sd = torch_state(pairs, [5] * len(pairs))
    with pytest.raises(DataValidationError, match="codes of 8 bits"):
        convert_state(sd, target="bitsandbytes", moments_dtype=torch.uint8)
    coded = convert_state(sd, target="bitsandbytes", moments_dtype=torch.uint8, allow_lossy=True, steps=2)
    own = coded.state_dict["state"][4][WRAPPED]
    assert own["state1"].dtype is own["state2"].dtype is torch.uint8
    assert own["absmax1"].shape == (22,)
    assert not coded.certificate.state_equal
    assert coded.state_dict["state"][0][WRAPPED]["state1"].dtype is torch.float32
    back = convert_state(coded.state_dict, steps=1).state_dict["state"][4]
    blocks = torch.nn.functional.pad(pairs[4][0].flatten(), (0, 32)).view(-1, 256)
    apart = torch.nn.functional.pad((back["exp_avg"] - pairs[4][0]).flatten(), (0, 32)).view(-1, 256).abs().amax(1)
    assert (apart <= blocks.abs().amax(1) * 0.9 / 64 / 2 * (1 + 1e-5)).all()  # 64 codes between 0.1 and 1
    assert float(apart.max()) > 1e-6


def test_the_given_state_is_not_changed():
    """Nor are tensors copied that need no conversion."""
    sd = torch_state(moments(), [5] * len(SHAPES))
    before = torch_state(moments(), [5] * len(SHAPES))
    converted = convert_state(sd, target="deepspeed", steps=3)
    assert_same(sd, before)
    assert sd["param_groups"][0].keys() == {*TORCH_GROUP, "params"}
    assert converted.state_dict["state"][0]["exp_avg"] is sd["state"][0]["exp_avg"]
