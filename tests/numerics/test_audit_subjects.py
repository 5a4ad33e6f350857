"""The audit of optimizers that are what they claim to be: torch's in all its implementations, and ours."""

import functools

import pytest
import torch

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex
from gaudi3_rt.numerics import audit

ADAMW = "torch.optim.AdamW"
BOTH = [torch.float32, torch.bfloat16]
SUBJECTS = {
    "torch foreach": (functools.partial(torch.optim.AdamW, foreach=True), ADAMW),
    "torch for-loop": (functools.partial(torch.optim.AdamW, foreach=False), ADAMW),
    "torch fused": (functools.partial(torch.optim.AdamW, fused=True), ADAMW),
    "FusedAdamW": (optim.FusedAdamW, ADAMW),
    "FusedAdamW, split master": (functools.partial(optim.FusedAdamW, master="split"), ADAMW),
    "FusedAdamW, stochastic": (functools.partial(optim.FusedAdamW, rounding="stochastic", seed=1), ADAMW),
    "FusedAdam": (optim.FusedAdam, "torch.optim.Adam"),
    "FusedSGD": (optim.FusedSGD, "torch.optim.SGD"),
    "FusedAdagrad": (optim.FusedAdagrad, "torch.optim.Adagrad"),
    "FusedMuon": (optim.FusedMuon, "torch.optim.Muon"),
    "FusedLion": (optim.FusedLion, "lion"),
    "FusedLAMB": (optim.FusedLAMB, "lamb"),
    "FusedLARS": (optim.FusedLARS, "lars"),
}


def findings(passport):
    """What is not as specified."""
    return {(one.name, one.dtype): one.consequence for one in passport.checks if not one.ok}


@pytest.mark.parametrize(("factory", "like"), SUBJECTS.values(), ids=SUBJECTS)
def test_what_is_right_passes(factory, like):
    """No check differs or fails, in float32 or bfloat16."""
    # How narrow parameters are stored is nothing to float32 ones.
    dtypes = [torch.bfloat16] if getattr(factory, "keywords", {}).keys() & {"master", "rounding"} else BOTH
    assert findings(audit(factory, like, dtypes=dtypes)) == {}


def test_legacy_adamw_differs():
    """In what its documentation says, and in nothing else."""
    passport = audit(hpex.FusedAdamW)
    assert not passport.ok
    found = findings(passport)
    assert {name for name, _ in found} == {
        "defaults",
        "keywords",
        "invalid-options",
        "eps-placement",
        "formula",
        "bias-correction",
        "maximize",
        "amsgrad",
        "state-dict-interchange",
    }
    assert {one.status for one in passport.checks if not one.ok} == {"differs"}
    assert "amsgrad, maximize, foreach, capturable, differentiable, fused" in found["keywords", ""]
    assert "eps=1e-06 (documented: 1e-08), weight_decay=0.0 (documented: 0.01)" in found["defaults", ""]
    assert "before its bias correction" in found["eps-placement", "float32"]
    assert "counted for a group" in found["bias-correction", "float32"]
