"""The record of an audit, what reproduces its figures, and what an audit leaves behind."""

import contextlib
import functools
import io
import json
import math

import _mutants
import pytest
import torch

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex
from gaudi3_rt.numerics import CHECKS, Check, Figure, Passport, Reference, audit

QUICK = ["defaults", "bias-correction", "closure"]


def test_a_passport_comes_back_from_its_dictionary():
    """Also through JSON, with figures that JSON has no numbers for."""
    check = Check(
        name="formula",
        status="fails",
        consequence="It is not a number.",
        dtype="bfloat16",
        figure=Figure(value=math.inf, unit="relative update error", bound=0.1),
        reproduce="print(1)",
        curve=((1, 0.5), (10, math.inf)),
    )
    passport = Passport(
        subject="a.B",
        like="torch.optim.AdamW",
        device="cpu",
        dtypes=("bfloat16",),
        versions={"torch": "2"},
        seconds=1.5,
        checks=(check,),
    )
    assert Passport.from_dict(json.loads(passport.to_json())) == passport
    assert passport.curves == {"bfloat16": ((1, 0.5), (10, math.inf))}


def test_order_and_dtypes_of_checks():
    """As in the battery; once for what does not depend on a dtype."""
    passport = audit(optim.FusedAdamW, checks=QUICK)
    assert [(one.name, one.dtype) for one in passport.checks] == [
        ("defaults", ""),
        ("bias-correction", "float32"),
        ("bias-correction", "bfloat16"),
        ("closure", ""),
    ]
    assert passport.subject == "gaudi3_rt.optim.FusedAdamW"
    assert passport.versions.keys() == {"python", "torch", "gaudi3_rt"}


def test_what_a_partial_binds_is_no_other_default():
    """It was given."""
    (check,) = audit(functools.partial(torch.optim.AdamW, weight_decay=0.5), checks=["defaults"]).checks
    assert check.status == "pass"
    (check,) = audit(functools.partial(_mutants.LegacyEps, weight_decay=0.5), checks=["defaults"]).checks
    assert check.status == "differs"
    assert "eps=1e-06" in check.consequence
    assert "weight_decay" not in check.consequence


def test_an_optimizer_that_raises_is_a_finding():
    """The battery goes on."""

    def broken(params, **options):
        del params, options
        msg = "no such device"
        raise OSError(msg)

    passport = audit(broken, checks=QUICK)
    assert len(passport.checks) == 4
    assert all("OSError: no such device" in one.consequence for one in passport.checks)
    assert not passport.ok


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"like": "torch.optim.Adamw"}, "must be one of"),
        ({"checks": ["eps"]}, "there are no such checks"),
        ({"dtypes": [torch.int8]}, "floating-point"),
        ({"dtypes": []}, "one or more"),
    ],
)
def test_wrong_arguments(arguments, said):
    """Are refused before anything runs."""
    with pytest.raises(ValueError, match=said):
        audit(torch.optim.AdamW, **arguments)


def printed(code):
    """The number that a program prints last; on one thread, since its tensors are small."""
    out = io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(out):
            exec(code, {})  # noqa: S102 (what users are told to paste)
    finally:
        torch.set_num_threads(threads)
    return float(out.getvalue().split()[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (hpex.FusedAdamW, "eps-placement"),
        (hpex.FusedAdamW, "bias-correction"),
        (_mutants.BetasRounded, "beta-rounding"),
        (_mutants.StepSizeRounded, "step-size-rounding"),
        (_mutants.DecayFactorRounded, "decoupled-weight-decay"),
        (_mutants.SecondMomentFrozen, "frozen-second-moment"),
        (functools.partial(_mutants.ParameterRounded, maximize=False), "tiny-updates"),
    ],
)
def test_what_reproduces_a_figure_prints_it(factory, name, dtype):
    """The program is complete, and its number is the one of the check."""
    (check,) = audit(factory, dtypes=[dtype], checks=[name]).checks
    assert abs(printed(check.reproduce)) == pytest.approx(check.figure.value, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("factory", "like"), [(_mutants.BetasSwapped, "torch.optim.AdamW"), (functools.partial(optim.FusedLion), "lion")]
)
def test_what_reproduces_the_formula(factory, like):
    """Against torch in float64, or against the reference where torch has no such class."""
    (check,) = audit(factory, like, dtypes=[torch.float32], checks=["formula"]).checks
    assert printed(check.reproduce) == pytest.approx(check.figure.value, rel=0.01)


def test_every_figure_can_be_reproduced():
    """By lines of its own, or by the check alone."""
    passport = audit(
        _mutants.GradScaleIgnored, dtypes=[torch.float32], checks=["found-inf", "uneven-shards", "defaults"]
    )
    assert all("import" in one.reproduce for one in passport.checks)
    found_inf = passport.checks[-1]
    assert found_inf.name == "found-inf"
    assert printed(found_inf.reproduce) == pytest.approx(found_inf.figure.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (_mutants.StepLostOnLoad, "bias-correction-after-resume"),
        (_mutants.StepCastOnLoad, "bias-correction-after-resume"),
        (_mutants.MomentsLoadedTurned, "state-dict-interchange"),
        (_mutants.StepOfGroup, "state-dict-interchange"),
        (_mutants.PlainAdamW, "state-dict-interchange"),
        (_mutants.LegacyEps, "defaults"),
    ],
)
def test_what_reproduces_a_checkpoint_or_a_default(factory, name, dtype):
    """The program has the steps and the numbers of the check, and prints its figure last."""
    (check,) = audit(factory, dtypes=[dtype], checks=[name]).checks
    assert printed(check.reproduce) == pytest.approx(check.figure.value, rel=1e-6, abs=1e-12)


def test_what_reproduces_an_error():
    """A check in which the optimizer raises has no figure; the program prints what was raised."""
    (check,) = audit(_mutants.RaisesForNarrow, dtypes=[torch.bfloat16], checks=["formula"]).checks
    assert check.figure is None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(check.reproduce, {})  # noqa: S102 (what users are told to paste)
    assert out.getvalue().strip() == check.consequence


@pytest.mark.parametrize(
    ("like", "options"),
    [
        ("torch.optim.AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
        ("torch.optim.Adam", {"weight_decay": 0.1}),
        ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("torch.optim.SGD", {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
        ("torch.optim.Adagrad", {"lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
    ],
)
def test_the_oracle_is_what_torch_computes_in_float64(like, options):
    """Two independent statements of one formula."""
    start = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    param = torch.nn.Parameter(start.clone())
    theirs = getattr(torch.optim, like.rpartition(".")[2])([param], lr=0.01, **options)
    oracle = Reference([start], like, lr=0.01, **options)
    for t in range(30):
        param.grad = torch.sin(torch.arange(50, dtype=torch.float64) * (t + 1))
        theirs.step()
        oracle.step([param.grad])
    torch.testing.assert_close(oracle.params[0], param.detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}])
@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_the_oracle_of_muon(shape, options):
    """Torch iterates in bfloat16, so that it is near to the oracle, and no nearer."""
    random = torch.Generator().manual_seed(1)
    start = torch.randn(shape, dtype=torch.float64, generator=random)
    param = torch.nn.Parameter(start.clone())
    theirs = torch.optim.Muon([param], lr=0.01, **options)
    oracle = Reference([start], "torch.optim.Muon", lr=0.01, **options)
    for _ in range(10):
        param.grad = torch.randn(shape, dtype=torch.float64, generator=random)
        theirs.step()
        oracle.step([param.grad])
    way = (oracle.params[0] - start).norm()
    assert (oracle.params[0] - param.detach()).norm() < 0.02 * way


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(dtype):
    """Float16, in which small squares are zero, and float64."""
    slow = {"recompiles", "frozen-second-moment"}
    # From float16 state of torch's own, whose second moments are zero, nobody can go on.
    checks = set(CHECKS) - slow - ({"state-dict-interchange"} if dtype is torch.float16 else set())
    passport = audit(
        _mutants.PlainAdamW if dtype is torch.float16 else torch.optim.AdamW, dtypes=[dtype], checks=checks
    )
    assert [(one.name, one.consequence) for one in passport.checks if not one.ok] == []


def test_names_of_checks_are_stable():
    """They are in scripts of users: none may be renamed by the way."""
    assert set(CHECKS) >= {"eps-placement", "bias-correction", "bias-correction-after-resume", "state-dict-interchange"}
    assert all(name == name.lower() and " " not in name for name in CHECKS)
    assert len(set(CHECKS)) == len(CHECKS)
