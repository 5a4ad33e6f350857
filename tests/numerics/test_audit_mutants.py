"""Proof of the audit: every mutant is found by the check named for its defect, and what it was made from passes."""

import _mutants
import pytest
import torch

from gaudi3_rt.numerics import CHECKS, audit

ADAMW, SGD, ADAM = "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Adam"
DIFFERS, FAILS = "differs", "fails"

MUTANTS = [
    # another formula or default
    ("LegacyEps", "defaults", DIFFERS),
    ("NoDecayByDefault", "defaults", DIFFERS),
    ("OwnKeywordsOnly", "keywords", DIFFERS),
    ("NegativeDecayTaken", "invalid-options", DIFFERS),
    ("BetasSwapped", "formula", DIFFERS),
    ("RaisesForNarrow", "formula", FAILS),
    ("EpsBeforeCorrection", "eps-placement", DIFFERS),
    ("EpsUnderRoot", "eps-placement", DIFFERS),
    ("NoEps", "eps-placement", DIFFERS),
    ("StepOfGroup", "bias-correction", DIFFERS),
    ("NoBiasCorrection", "bias-correction", DIFFERS),
    ("CorrectionOffByOne", "bias-correction", DIFFERS),
    ("DecayFactorRounded", "decoupled-weight-decay", DIFFERS),
    ("DecayInGradient", "decoupled-weight-decay", DIFFERS),
    ("DecayWithoutLr", "decoupled-weight-decay", DIFFERS),
    ("DecayOnlyWithGradient", "decoupled-weight-decay", DIFFERS),
    ("BetasRounded", "beta-rounding", DIFFERS),
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
    ("GradientNegated", "gradient-untouched", FAILS),
    ("FoundInfIgnored", "found-inf", FAILS),
    ("GradScaleIgnored", "found-inf", FAILS),
    ("SkippedStepCounted", "found-inf", FAILS),
    # tensors
    ("MemoryOrder", "noncontiguous", FAILS),
    ("ContiguousCopy", "noncontiguous", FAILS),
    ("EmptyEndsGroup", "empty-tensor", FAILS),
    ("ZeroDimForgotten", "zero-dim", FAILS),
    ("TailForgotten", "uneven-shards", FAILS),
    # state
    ("StepLostOnLoad", "bias-correction-after-resume", FAILS),
    ("StepCastOnLoad", "bias-correction-after-resume", FAILS),
    ("StepCastOnLoad", "state-dict-round-trip", FAILS),
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
]
EVERY = [(name, ADAMW, check, status) for name, check, status in MUTANTS] + OTHER_MUTANTS


@pytest.fixture(scope="module")
def statuses():
    """What the named check says of each mutant: the worst over dtypes."""
    found = {}
    for name, like, check, _ in EVERY:
        passport = audit(getattr(_mutants, name), like, checks=[check])
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
    """All mutants are found, and every mutant of the file is in the table."""
    assert sum(not ok for _, ok in statuses.values()) == len(statuses)
    plain = {"PlainAdamW", "PlainSGD"}
    mutants = {n for n, cls in vars(_mutants).items() if isinstance(cls, type) and cls.__module__ == "_mutants"}
    assert mutants - plain == {name for name, *_ in EVERY}


def test_every_check_has_a_mutant():
    """No check of the battery is one that cannot fail."""
    assert {check for _, _, check, _ in EVERY} == set(CHECKS)


@pytest.mark.parametrize(("plain", "like"), [("PlainAdamW", ADAMW), ("PlainSGD", SGD)])
def test_what_the_mutants_change_from_passes(plain, like):
    """So that a finding is the mutation's and not the implementation's."""
    passport = audit(getattr(_mutants, plain), like)
    assert [(one.name, one.dtype, one.consequence) for one in passport.checks if not one.ok] == []


def test_defects_of_narrow_storage_are_those_of_torch():
    """What bfloat16 itself loses is told, and is no finding."""
    (check,) = audit(_mutants.PlainAdamW, dtypes=[torch.bfloat16], checks=["tiny-updates"]).checks
    assert check.status == "pass"
    assert "0 % as far" in check.consequence
