"""Each layout is recognised and read as its library means it, and written as it loads it."""

import copy

import pytest
import torch
from _convert_layouts import LAYOUTS, SHAPES, TORCH_GROUP, WRAPPED, assert_same, moments, saved_by, torch_state

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex
from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert import convert_state

OTHERS = tuple(layout for layout in LAYOUTS if layout not in {"torch", "gaudi3_rt"})


def parameters():
    """Equal ones at each call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 6), (7,), (), (0, 3))]


def train(optimizer, params, steps, first=0):
    """Updates with gradients that depend on the number of the step alone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = 1e-3 * torch.randn(param.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("names", [None, ("a", "b", "c", "d", "e")])
def test_a_layout_becomes_torchs(layout, names):
    """Recognised by what is in it; counts and moments are where torch.optim.AdamW looks for them."""
    pairs = moments()
    converted = convert_state(saved_by(layout, pairs, 12, names), target="torch", optimizer="AdamW", steps=1)
    assert converted.certificate.source == layout
    lr = float(torch.tensor(1e-3)) if layout == "torchao" else 1e-3
    assert_same(converted.state_dict, torch_state(pairs, [12] * len(pairs), names=names, lr=lr))
    assert converted.certificate.state_equal


@pytest.mark.parametrize("layout", OTHERS)
def test_torchs_becomes_a_layout(layout):
    """Key for key what the library saves."""
    pairs = moments()
    sd = torch_state(pairs, [12] * len(pairs))
    assert_same(convert_state(sd, target=layout, steps=1).state_dict, saved_by(layout, pairs, 12))


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


# Counts


def test_a_count_for_a_group_loses_those_of_parameters():
    """Bias correction of a late parameter would be wrong, so it takes consent."""
    pairs = moments()[:2]
    sd = torch_state(pairs, [10, 4])
    for target in ("hpex", "apex"):
        with pytest.raises(DataValidationError, match=r"the step count of parameter 1 \(4\).*one for a group, 10"):
            convert_state(sd, target=target)
    converted = convert_state(sd, target="apex", allow_lossy=True, steps=2)
    assert converted.state_dict["param_groups"][0]["step"] == 10
    assert not converted.certificate.reproduces
    assert converted.certificate.update_error[1] > 0.1


def test_the_only_count_of_deepspeeds_fused_adam_is_for_all():
    """It advances that of the last parameter of a group."""
    sd = saved_by("deepspeed", moments(), 0)
    del sd["param_groups"][0]["amsgrad"]
    sd["param_groups"][0]["step"] = 0
    sd["state"][4]["step"] = 12
    converted = convert_state(sd, steps=1)
    assert {float(own["step"]) for own in converted.state_dict["state"].values()} == {12.0}
    assert any("last parameter, 12" in note for note in converted.certificate.notes)
    sd["state"][0] = {key: value if key == "step" else value.bfloat16() for key, value in sd["state"][0].items()}
    with pytest.raises(DataValidationError, match="2 dtypes"):
        convert_state(sd)


def test_a_lost_count_can_be_given():
    """Without it there is an error that says so, not a start from 0."""
    sd = saved_by("apex", moments(), 12)
    del sd["param_groups"][0]["step"]
    with pytest.raises(DataValidationError, match="group 0 has no step count"):
        convert_state(sd)
    converted = convert_state(sd, step=12, target="deepspeed", steps=1)
    assert converted.state_dict["state"][0]["step"] == 12


def test_the_vendors_adagrad_counts_in_the_group():
    """In step_t, beside the rate that it really uses; parameters have no count."""
    sums = [{"sum": second} for _, second in moments()[:2]]
    group = {"lr": 0.01, "lr_decay": 0.1, "eps": 1e-10, "weight_decay": 0.0, "initial_accumulator_value": 0}
    counted = {"lr_t": torch.tensor([0.01]), "step_t": torch.tensor([12], dtype=torch.int32)}
    sd = {"state": dict(enumerate(sums)), "param_groups": [{**group, **counted, "params": [0, 1]}]}
    converted = convert_state(sd, steps=2)
    assert converted.certificate.source == "hpex"
    assert converted.certificate.reproduces
    assert [float(own["step"]) for own in converted.state_dict["state"].values()] == [12.0, 12.0]
    assert converted.state_dict["param_groups"][0]["lr"] == 0.01
    assert "lr_t" not in converted.state_dict["param_groups"][0]
    back = convert_state(converted.state_dict, target="hpex", steps=2).state_dict
    for key, value in counted.items():
        assert_same(back["param_groups"][0][key], value)
    assert_same(convert_state(back, steps=2).state_dict, converted.state_dict)
    sd["param_groups"][0]["lr"] = 0.5  # by a scheduler, which this class does not heed
    assert convert_state(sd, steps=2).state_dict["param_groups"][0]["lr"] == float(counted["lr_t"])
    converted.state_dict["state"][0]["step"] -= 1
    with pytest.raises(DataValidationError, match="the step count of parameter 0"):
        convert_state(converted.state_dict, target="hpex")


def test_a_state_of_torch_that_the_vendors_class_went_on_from():
    """It counts anew in the group, and leaves the counts of torch as they were."""
    sd = torch_state(moments(), [1000] * len(SHAPES))
    sd["param_groups"][0]["step"] = 50
    converted = convert_state(sd, steps=1)
    assert converted.certificate.source == "hpex"
    assert {float(own["step"]) for own in converted.state_dict["state"].values()} == {50.0}
    assert any("counts of up to 1000" in note for note in converted.certificate.notes)
    given = convert_state(sd, step=1050, steps=1)
    assert {float(own["step"]) for own in given.state_dict["state"].values()} == {1050.0}


def test_a_group_that_the_vendors_class_never_updated():
    """Frozen parameters: it has no count, and needs none."""
    sd = saved_by("hpex", moments(), 12)
    frozen = {key: value for key, value in sd["param_groups"][0].items() if key != "step"}
    sd["param_groups"].append({**frozen, "params": [5]})
    converted = convert_state(sd, steps=1)
    assert converted.certificate.source == "hpex"
    assert list(converted.state_dict["state"]) == [0, 1, 2, 3, 4]


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


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), "12", True, torch.ones(2)])
def test_no_count_is_guessed(value):
    """A count is a whole number."""
    sd = saved_by("torch", moments()[:1], 3)
    sd["state"][0]["step"] = value
    with pytest.raises(DataValidationError, match=r"step count of parameter 0.*whole number"):
        convert_state(sd)


# What is refused


def test_an_unknown_layout_says_what_was_seen():
    """And which ones are known."""
    params = parameters()
    for theirs in (torch.optim.NAdam(params), torch.optim.RAdam(params), optim.FusedLAMB(params)):
        train(theirs, params, 1)
        with pytest.raises(DataValidationError) as caught:
            convert_state(theirs.state_dict())
        assert "betas" in caught.value.message
        assert "exp_avg_sq" in caught.value.message
        assert "torchao" in " ".join(caught.value.suggestions)


def test_an_ambiguous_layout_names_its_candidates():
    """Before the first update three libraries have the same groups."""
    sd = saved_by("apex", moments(), 0)
    sd["state"] = {}
    with pytest.raises(DataValidationError, match="hpex or apex or deepspeed"):
        convert_state(sd)
    assert convert_state(sd, source="hpex").state_dict["state"] == {}
    one = {"state": {0: {"step": 1, WRAPPED: {"state1": torch.ones(3)}}}}
    one["param_groups"] = [{"lr": 1.0, "betas": (0.9, 0.0), "eps": 0.0, "weight_decay": 0.0, "params": [0]}]
    with pytest.raises(DataValidationError, match="SGD or Lion or Adagrad"):
        convert_state(one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sd: sd.pop("state"), "needed are state and param_groups"),
        (lambda sd: sd.update(param_groups=[]), "param_groups must be a list"),
        (lambda sd: sd["state"].update({0: 3}), "a dict of dicts"),
        (lambda sd: sd["state"][0].pop("exp_avg"), "parameter 0 has no exp_avg"),
        (lambda sd: sd["state"][0].update(exp_avg=torch.ones(3, dtype=torch.int64)), "exp_avg of parameter 0 is of"),
        (lambda sd: sd["state"][0].update(exp_avg=[1.0]), "a list; needed is a floating-point tensor"),
        (lambda sd: sd["state"][0].update(exp_avg=torch.ones(5)), "shapes .*must be equal"),
        (lambda sd: sd["state"][0].update(exp_avg=torch.full((4, 6), torch.nan)), "parameter 0 are not finite"),
        (lambda sd: sd["state"].update({9: {"step": 1}}), "the state of 9, which is in no group"),
        (lambda sd: sd["param_groups"][0].pop("lr"), r"no \['lr'\]"),
        (lambda sd: sd["param_groups"][0].update(amsgrad=True), "parameter 0 has no max_exp_avg_sq"),
        (lambda sd: sd["param_groups"][0].update(lr="1e-3"), "lr is '1e-3'; needed are finite numbers"),
        (lambda sd: sd["param_groups"][0].update(lr=float("nan")), "lr is nan"),
        (lambda sd: sd["param_groups"][0].update(betas=(0.9, 1.0)), r"betas is \(0.9, 1.0\)"),
        (lambda sd: sd["param_groups"][0].update(betas=(0.9,)), r"betas is \(0.9,\)"),
        (lambda sd: sd["param_groups"][0].update(param_names=["a"]), "has 5 params, and param_names"),
        (lambda sd: sd["param_groups"][0].update(params=[[0], 1]), "numbers or names, each once"),
        (lambda sd: sd["param_groups"].append({**sd["param_groups"][0], "params": [0]}), "each once in all groups"),
        (
            lambda sd: sd["state"][0].update(exp_avg=sd["state"][0]["exp_avg"].to_sparse()),
            "a tensor of torch.sparse_coo",
        ),
        (lambda sd: sd["state"][0].update(exp_avg=sd["state"][0]["exp_avg"].to("meta")), "torch.strided on meta"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    """One sentence with what was seen."""
    sd = saved_by("torch", moments(), 3)
    change(sd)
    with pytest.raises((DataValidationError, ParameterValidationError), match=message):
        convert_state(sd, source="torch")


@pytest.mark.parametrize(
    "options",
    [
        *({"target": "jax"}, {"source": "x"}, {"match": "x"}, {"optimizer": "LAMB"}, {"steps": 0}, {"shards": 0}),
        *({"step": True}, {"sharding": "x"}, {"moments_dtype": torch.int64}, {"moments_dtype": "x"}),
    ],
)
def test_arguments_are_checked(options):
    """Each says what is allowed."""
    with pytest.raises(ParameterValidationError, match="must be"):
        convert_state(saved_by("torch", moments(), 3), **options)


def test_what_is_no_state_at_all():
    """And not a list of them either."""
    for thing in (None, 3, "adam.pt", [None]):
        with pytest.raises(DataValidationError, match="no state_dict of an optimizer: seen are"):
            convert_state(thing)


def test_a_library_without_the_algorithm_is_refused():
    """With what it has."""
    params = parameters()
    lion = optim.FusedLion(params)
    train(lion, params, 1)
    with pytest.raises(ParameterValidationError, match="no Lion; it has AdamW, SGD, Adagrad"):
        convert_state(lion.state_dict(), target="torch")


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
    converted = convert_state(sd, target="hpex", steps=3)
    assert_same(sd, before)
    assert sd["param_groups"][0].keys() == {*TORCH_GROUP, "params"}
    assert converted.state_dict["state"][0]["exp_avg"] is sd["state"][0]["exp_avg"]
