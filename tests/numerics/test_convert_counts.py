"""Counts of updates are where each library looks for them, and none is guessed."""

import pytest
import torch
from _convert_layouts import SHAPES, assert_same, moments, saved_by, torch_state

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import convert_state


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
    sd["param_groups"][0].update(step=50, eps=1e-12)
    converted = convert_state(sd, steps=1)
    assert converted.certificate.source == "hpex"
    assert {float(own["step"]) for own in converted.state_dict["state"].values()} == {50.0}
    assert any("counts of up to 1000" in note for note in converted.certificate.notes)
    given = convert_state(sd, step=1050, steps=1)
    assert {float(own["step"]) for own in given.state_dict["state"].values()} == {1050.0}


def test_a_group_that_the_vendors_class_never_updated():
    """Frozen parameters: it has no count, and needs none."""
    sd = saved_by("hpex", moments(), 12)
    sd["param_groups"][0]["eps"] = 1e-12
    frozen = {key: value for key, value in sd["param_groups"][0].items() if key != "step"}
    sd["param_groups"].append({**frozen, "params": [5]})
    converted = convert_state(sd, steps=1)
    assert converted.certificate.source == "hpex"
    assert list(converted.state_dict["state"]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), "12", True, torch.ones(2)])
def test_no_count_is_guessed(value):
    """A count is a whole number."""
    sd = saved_by("torch", moments()[:1], 3)
    sd["state"][0]["step"] = value
    with pytest.raises(DataValidationError, match=r"step count of parameter 0.*whole number"):
        convert_state(sd)
