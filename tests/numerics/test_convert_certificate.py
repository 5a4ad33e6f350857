"""What a certificate says is measured: wrong counts, moments, formulas and options show in it."""

import functools
import json
import re

import pytest
import torch
from _convert_layouts import LAYOUTS, moments, saved_by, torch_state

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import _apex, _sample, _torch, convert_state
from gaudi3_rt.numerics.convert._records import Written
from gaudi3_rt.numerics.convert._values import Values

MATRIX = ((30, 40), (17,))

converted = functools.partial(convert_state, allow_lossy=True)
"""What is wrong is to be seen, and not refused."""


def changed(monkeypatch, change):
    """Sabotages what is written for torch."""
    write = _torch.write

    def wrong(state, request):
        written = write(state, request)
        change(written.state_dict)
        return Written(written.state_dict, written.lost, written.notes)

    monkeypatch.setattr(_torch, "write", wrong)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", ["torch", "gaudi3_rt", "apex", "deepspeed", "bitsandbytes"])
def test_the_same_formula_goes_on_the_same(source, target):
    """Between all libraries but the vendor's, updates are equal but for rounding."""
    sd = saved_by(source, moments(MATRIX), 500)
    found = converted(sd, source=source, target=target, optimizer="AdamW", steps=4).certificate
    assert found.state_equal
    assert found.reproduces == (source != "hpex")
    assert set(found.ulp) == {"parameter", "exp_avg", "exp_avg_sq"}
    assert found.ulp["exp_avg"] < 16  # 4 updates of two roundings on each side
    assert bool(found.differs) == (source in {"hpex", "torchao"})
    assert found.parameters == (2, 2)
    assert found.elements == (1217, 1217)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda sd: [own.update(step=torch.tensor(0.0)) for own in sd["state"].values()], 0.3),
        (lambda sd: [own.update(step=own["step"] + 1) for own in sd["state"].values()], 1e-3),
        (lambda sd: sd["state"][0].update(exp_avg=sd["state"][0]["exp_avg_sq"]), 0.1),
        (lambda sd: sd["state"][1].update(exp_avg=Values.of(torch.zeros(17))), 0.1),
        (lambda sd: sd["param_groups"][0].update(eps=1e-6), 1e-4),
        (lambda sd: sd["param_groups"][0].update(betas=(0.9, 0.99)), 1e-3),
        (lambda sd: sd["param_groups"][0].update(lr=1.01e-3), 5e-3),
        (lambda sd: sd["param_groups"][0].update(weight_decay=0.0), 3e-5),
        (lambda sd: sd["param_groups"][0].update(maximize=True), 0.1),
    ],
)
def test_a_wrong_conversion_shows(monkeypatch, change, least):
    """The source is asked in its own terms, so what is read or written wrongly is not on both sides."""
    changed(monkeypatch, change)
    found = converted(saved_by("apex", moments(MATRIX), 10), optimizer="AdamW").certificate
    assert not found.reproduces
    assert max(found.update_error.values()) > least
    assert found.ulp["parameter"] > 16


def with_lr(lr):
    """A state of apex."""
    sd = saved_by("apex", moments(MATRIX), 10)
    sd["param_groups"][0]["lr"] = lr
    return sd


@pytest.mark.parametrize("lr", [0.0, 1e-5])
def test_a_small_learning_rate_hides_nothing(monkeypatch, lr):
    """At the start and the end of a schedule, an update shows neither decay nor moments that are wrong."""
    right = converted(with_lr(lr), optimizer="AdamW", steps=2).certificate
    assert right.reproduces
    assert right.ulp["parameter"] > 0
    with monkeypatch.context() as patch:
        changed(patch, lambda sd: sd["param_groups"][0].update(weight_decay=0.0))
        found = converted(with_lr(lr), optimizer="AdamW", steps=2).certificate
        assert found.changed == ("weight_decay of group 0 was 0.01 and is 0.0",)
        assert not found.reproduces
        assert "weight_decay of group 0" in str(found)
    changed(monkeypatch, lambda sd: sd["state"][0].update(exp_avg=sd["state"][0]["exp_avg_sq"]))
    assert max(converted(with_lr(lr), optimizer="AdamW").certificate.update_error.values()) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_of_moments_hides_nothing(monkeypatch, dtype):
    """Half of an update is no rounding, though that of a bfloat16 parameter may be."""
    pairs = [(8 * first, 4096 * second) for first, second in moments(MATRIX, dtype)]
    right = converted(saved_by("apex", pairs, 10), optimizer="AdamW", steps=2).certificate
    assert right.reproduces
    assert right.state_equal
    changed(monkeypatch, lambda sd: [own.update(step=own["step"] + 1) for own in sd["state"].values()])
    found = converted(saved_by("apex", pairs, 10), optimizer="AdamW", steps=2).certificate
    assert not found.reproduces
    assert found.update_error[1] > 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda sd: sd["state"][0].update(step=sd["state"][0]["step"] + 1), "count of 'a' was 1000000 and is 1000001"),
        (
            lambda sd: (
                [own.update(max_exp_avg_sq=None) for own in sd["state"].values()]
                and sd["param_groups"][0].update(amsgrad=False)
            ),
            "amsgrad of group 0 was True and is False; 'a' had .*'max_exp_avg_sq'.* and has",
        ),
        (lambda sd: sd["state"].update({0: sd["state"][1], 1: sd["state"][0]}), "count of 'a' was 1000000 and is 7"),
        (lambda sd: sd["param_groups"][0].update(param_names=["b", "a"]), "the state of 'a' is that of 'b'"),
    ],
)
def test_what_updates_do_not_show_is_read_back(monkeypatch, change, says):
    """Corrections of a million updates are 1, and names move nothing."""
    sd = torch_state(moments(((6, 5), (6, 5))), [10**6, 7], names=["a", "b"], amsgrad=True)
    for own in sd["state"].values():
        own["max_exp_avg_sq"] = own["exp_avg_sq"].clone()
    assert not converted(sd, target="torch", steps=1).certificate.changed
    changed(monkeypatch, change)
    found = converted(sd, target="torch", steps=1).certificate
    assert re.search(says, "; ".join(found.changed))
    assert not found.reproduces


@pytest.mark.parametrize("lost", [False, True])
def test_what_does_not_reproduce_takes_consent(lost):
    """No state that goes on otherwise is returned to those who do not ask; the certificate comes with the error."""
    sd = saved_by("hpex", moments(MATRIX), 10)
    options = {"moments_dtype": torch.bfloat16} if lost else {}
    with pytest.raises(
        DataValidationError, match=r"torch would not go on as hpex does: updates are apart by"
    ) as caught:
        convert_state(sd, **options)
    expected = converted(sd, **options).certificate
    assert not expected.reproduces
    assert caught.value.context["certificate"] == expected
    assert ("loses this: exp_avg of parameter 0" in caught.value.message) == lost
    assert "relative error" in caught.value.describe()
    assert "allow_lossy=True" in caught.value.suggestions[0]
    sd["param_groups"][0]["eps"] = 1e-12
    assert convert_state(sd).certificate.reproduces


def test_moments_without_a_count_are_refused():
    """A library that counts for a group leaves 0 with each parameter."""
    with pytest.raises(DataValidationError, match="parameter 0 has moments that are not 0 and a count of 0"):
        converted(saved_by("torch", moments(MATRIX), 0))


def test_a_count_that_is_read_wrongly_shows(monkeypatch):
    """The model of the source takes the count from where its library keeps it."""
    read = _apex.read

    def wrong(state_dict, request):
        groups = [{**group, "step": 1} for group in state_dict["param_groups"]]
        return read({**state_dict, "param_groups": groups}, request)

    monkeypatch.setattr(_apex, "read", wrong)
    found = converted(saved_by("apex", moments(MATRIX), 10), optimizer="AdamW").certificate
    assert not found.reproduces


def test_the_vendors_eps_is_measured():
    """It matters by how far the roots of the user's own second moments are from it."""
    near = saved_by("hpex", moments(MATRIX), 10)
    near["param_groups"][0]["eps"] = 1e-6
    far = saved_by("hpex", [(first, 1e6 * second) for first, second in moments(MATRIX)], 10)
    errors = [converted(sd).certificate.update_error[1] for sd in (near, far)]
    assert errors[0] > 1e-2
    assert errors[1] < 1e-5


def test_a_large_state_is_sampled(monkeypatch):
    """Each parameter with its first elements; the certificate says so."""
    monkeypatch.setattr(_sample, "SAMPLE", 3 * 2**11)
    pairs = moments(((60, 500), (30_000,), (3,)))
    found = converted(torch_state(pairs, [5, 5, 5]), target="deepspeed", steps=2).certificate
    assert found.parameters == (3, 3)
    assert found.elements == (60_003, 2 * 2**11 + 3)
    assert "the first elements of 3 of 3" in str(found)
    assert found.reproduces
    coded = converted(
        torch_state(pairs, [5] * 3), target="bitsandbytes", moments_dtype=torch.uint8, steps=2
    ).certificate
    assert 1e-3 < coded.update_error[1] < 0.1


def test_nothing_to_compare():
    """Before the first update."""
    found = converted(torch_state([], [], [0])).certificate
    assert found.reproduces
    assert "nothing to compare" in str(found)


def test_the_record_is_json_and_text():
    """With what was recognised, what ran, and the verdict."""
    found = converted(saved_by("apex", moments(MATRIX), 10)).certificate
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["reproduces"] is True
    assert fields["source"] == "apex"
    text = str(found)
    assert f"torch.optim.AdamW {torch.__version__}" in text
    assert "a model of apex.optimizers.FusedAdam" in text
    assert "no parameter has a count" in text
    assert "apex does not save whether its weight decay is decoupled" in text


def test_the_process_is_left_alone():
    """Random numbers of the user go on as if nothing had been measured."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    converted(saved_by("torch", moments(MATRIX), 10), target="hpex")
    assert torch.equal(torch.rand(2), expected)
