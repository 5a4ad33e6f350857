"""What is not known, ambiguous or does not fit together is refused, with what was seen."""

import pytest
import torch
from _convert_layouts import WRAPPED, moments, parameters, saved_by, train

from gaudi3_rt import optim
from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert import convert_state


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
