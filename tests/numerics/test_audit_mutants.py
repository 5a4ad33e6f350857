"""Proof of the audit: every mutant is found by the check named for its defect, and what it was made from passes."""

import functools

import _mutants
import pytest
import torch

from gaudi3_rt.numerics import CHECKS, audit
from gaudi3_rt.optim import FusedAdamW

ADAMW, SGD, ADAM = "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Adam"
MUON = "torch.optim.Muon"
DIFFERS, FAILS = "differs", "fails"

MUTANTS = [
    # another formula or default
    ("LegacyEps", "defaults", DIFFERS),
    ("NoDecayByDefault", "defaults", DIFFERS),
    ("OwnKeywordsOnly", "keywords", DIFFERS),
    ("UnknownKeywordsTaken", "keywords", FAILS),
    ("NeedsDevice", "defaults", FAILS),
    ("NegativeDecayTaken", "invalid-options", DIFFERS),
    ("BetasSwapped", "formula", DIFFERS),
    ("RaisesForNarrow", "formula", FAILS),
    ("EpsBeforeCorrection", "eps-placement", DIFFERS),
    ("EpsUnderRoot", "eps-placement", DIFFERS),
    ("NoEps", "eps-placement", DIFFERS),
    ("EpsIgnored", "eps-placement", DIFFERS),
    ("StepOfGroup", "bias-correction", DIFFERS),
    ("NoBiasCorrection", "bias-correction", DIFFERS),
    ("CorrectionOffByOne", "bias-correction", DIFFERS),
    ("DecayFactorRounded", "decoupled-weight-decay", DIFFERS),
    ("DecayInGradient", "decoupled-weight-decay", DIFFERS),
    ("DecayWithoutLr", "decoupled-weight-decay", DIFFERS),
    ("DecayAfterUpdate", "decoupled-weight-decay", DIFFERS),
    ("DecayOnlyWithGradient", "decoupled-weight-decay", DIFFERS),
    ("BetasRounded", "beta-rounding", DIFFERS),
    ("NarrowArithmetic", "beta-rounding", DIFFERS),
    ("StepSizeRounded", "step-size-rounding", DIFFERS),
    ("NarrowMoments", "frozen-second-moment", DIFFERS),
    ("SecondMomentFrozen", "frozen-second-moment", DIFFERS),
    ("ParameterRounded", "tiny-updates", DIFFERS),
    # options and the step
    ("NoMaximize", "maximize", DIFFERS),
    ("MaximizeIgnored", "maximize", FAILS),
    ("NoAmsgrad", "amsgrad", DIFFERS),
    ("AmsgradIgnored", "amsgrad", FAILS),
    ("GroupsShareDecay", "param-groups", FAILS),
    ("LateGroupAsFirst", "param-groups", FAILS),
    ("LrOfConstructor", "scheduler", FAILS),
    ("ClosureWithoutGradients", "closure", FAILS),
    ("ClosureNotReturned", "closure", FAILS),
    ("ZeroGradWithoutArgument", "zero-grad", DIFFERS),
    ("MissingIsZero", "missing-gradient", FAILS),
    ("FrozenDecays", "missing-gradient", FAILS),
    ("GradientNegated", "gradient-untouched", FAILS),
    ("FoundInfIgnored", "found-inf", FAILS),
    ("GradScaleIgnored", "found-inf", FAILS),
    ("SkippedStepCounted", "found-inf", FAILS),
    # tensors
    ("MemoryOrder", "noncontiguous", FAILS),
    ("ContiguousCopy", "noncontiguous", FAILS),
    ("EmptyEndsGroup", "empty-tensor", FAILS),
    ("EmptyAloneEndsStep", "empty-tensor", FAILS),
    ("ZeroDimForgotten", "zero-dim", FAILS),
    ("TailForgotten", "uneven-shards", FAILS),
    # state
    ("StepLostOnLoad", "bias-correction-after-resume", FAILS),
    ("StepCastOnLoad", "bias-correction-after-resume", FAILS),
    ("StepCastOnLoad", "state-dict-round-trip", FAILS),
    ("OptionsNotLoaded", "state-dict-round-trip", FAILS),
    ("MomentsLoadedTurned", "state-dict-interchange", FAILS),
    ("MomentsNotSaved", "state-dict-round-trip", FAILS),
    ("StepOfGroup", "state-dict-interchange", FAILS),
    # runs
    ("Unseeded", "deterministic-runs", FAILS),
    ("ThreadsInResult", "deterministic-threads", FAILS),
    ("KeepsGradient", "memory", DIFFERS),
    ("LrAsNumber", "recompiles", DIFFERS),
]
OTHER_MUTANTS = [
    ("MomentumTrash", SGD, "formula", DIFFERS),
    ("NesterovIgnored", SGD, "nesterov", FAILS),
    ("DecoupledAdam", ADAM, "weight-decay", DIFFERS),
    ("ShapeIgnored", MUON, "adjust-lr", DIFFERS),
    ("WidthForHeight", MUON, "adjust-lr", DIFFERS),
    ("IterationFixed", MUON, "formula", DIFFERS),
    ("NesterovAlways", MUON, "nesterov", FAILS),
]
NARROW = {"MomentumTrash", "NarrowArithmetic", "RaisesForNarrow", "StepCastOnLoad"}
EVERY = [(name, ADAMW, check, status) for name, check, status in MUTANTS] + OTHER_MUTANTS


@pytest.fixture(scope="module")
def statuses():
    """What the named check says of each mutant, with parameters of one dtype in which the defect shows."""
    found = {}
    for name, like, check, _ in EVERY:
        dtype = torch.bfloat16 if name in NARROW else torch.float32
        passport = audit(getattr(_mutants, name), like, dtypes=[dtype], checks=[check])
        found[name, check] = {one.status for one in passport.checks}, passport.ok
    return found


@pytest.mark.parametrize(
    ("name", "check", "status"), [(x[0], *x[2:]) for x in EVERY], ids=[f"{x[0]}-{x[2]}" for x in EVERY]
)
def test_a_mutant_is_found_by_the_check_named_for_it(name, check, status, statuses):
    """With the status that says whether it is another formula or a fault."""
    assert status in statuses[name, check][0]
    assert not statuses[name, check][1]


def test_mutation_score(statuses):
    """All mutants are found, and every mutant that there is is in the table."""
    assert sum(not ok for _, ok in statuses.values()) == len(statuses)
    assert set(_mutants.MUTANTS) == {name for name, *_ in EVERY}


def test_every_check_has_a_mutant():
    """No check of the battery is one that cannot fail."""
    assert {check for _, _, check, _ in EVERY} == set(CHECKS)


@pytest.mark.parametrize(("plain", "like"), [("PlainAdamW", ADAMW), ("PlainSGD", SGD), ("PlainMuon", MUON)])
def test_what_the_mutants_change_from_passes(plain, like):
    """So that a finding is the mutation's and not the implementation's."""
    passport = audit(getattr(_mutants, plain), like)
    assert [(one.name, one.dtype, one.consequence) for one in passport.checks if not one.ok] == []


def test_defects_of_narrow_storage_are_those_of_torch():
    """What bfloat16 itself loses is told, and is no finding."""
    (check,) = audit(_mutants.PlainAdamW, dtypes=[torch.bfloat16], checks=["tiny-updates"]).checks
    assert check.status == "pass"
    assert "0 % as far" in check.consequence


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("BetasRounded", "beta-rounding"),
        ("NarrowArithmetic", "beta-rounding"),
        ("StepSizeRounded", "step-size-rounding"),
    ],
)
def test_numbers_rounded_to_the_dtype_of_narrow_parameters(name, check):
    """Are told from what storage in it costs, though that is as coarse."""
    (found,) = audit(getattr(_mutants, name), dtypes=[torch.bfloat16], checks=[check]).checks
    assert found.status == DIFFERS
    assert "rounded" in found.consequence


def test_a_decay_factor_rounded_to_the_dtype_of_narrow_parameters():
    """Is no finding, since torch's foreach does that on a CPU; but it is told."""
    for make, told in ((_mutants.DecayFactorRounded, True), (_mutants.PlainAdamW, False)):
        (found,) = audit(make, dtypes=[torch.bfloat16], checks=["decoupled-weight-decay"]).checks
        assert found.status == "pass"
        assert ("is rounded to bfloat16 first" in found.consequence) == told


def test_a_second_moment_that_narrow_storage_freezes():
    """Is told, and is no finding: nearest bfloat16 is what torch stores. Stochastic rounding does better."""
    for options, told in (({}, True), ({"rounding": "stochastic", "seed": 1}, False)):
        make = functools.partial(FusedAdamW, **options)
        (found,) = audit(make, dtypes=[torch.bfloat16], checks=["frozen-second-moment"]).checks
        assert found.status == "pass"
        assert ("so does torch.optim.AdamW" in found.consequence) == told
        assert ("falls again" in found.consequence) != told


def test_float64_parameters_are_promised_float64_arithmetic():
    """Float32 inside is found."""
    (found,) = audit(_mutants.PlainAdamW, dtypes=[torch.float64], checks=["formula"]).checks
    assert found.status == DIFFERS


@pytest.mark.parametrize("name", ["BetasSwapped", "CorrectionOffByOne"])
def test_another_formula_is_not_called_another_fault(name):
    """Nothing fails of what does not depend on the formula: layouts, groups, schedulers, scalers, checkpoints."""
    passport = audit(getattr(_mutants, name), dtypes=[torch.float32])
    assert {one.name for one in passport.checks if one.status == FAILS} == set()
    assert {"formula", "bias-correction"} <= {one.name for one in passport.checks if one.status == DIFFERS}
