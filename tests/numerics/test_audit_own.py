"""The audit of optimizers that people write themselves: what it says of them is true, and names the cause."""

import functools
import io
from contextlib import redirect_stdout

import _mutants
import numpy as np
import pytest
import torch

from gaudi3_rt.numerics import CHECKS, audit
from gaudi3_rt.optim import FusedAdamW

FLOAT32 = [torch.float32]
QUICK = [name for name in CHECKS if name != "recompiles"]


def findings(passport):
    """What is not as specified."""
    return {one.name: (one.status, one.consequence) for one in passport.checks if not one.ok}


class AsksForClosure(_mutants.PlainAdamW):
    """As those that evaluate the loss again."""

    def step(self, closure=None):
        """Raises without one."""
        if closure is None:
            msg = "step requires a closure"
            raise RuntimeError(msg)
        return super().step(closure)


class NamesClosure(_mutants.PlainAdamW):
    """The same, by its signature."""

    def step(self, closure):
        """Has no default."""
        return super().step(closure)


@pytest.mark.parametrize(
    ("factory", "said"),
    [(AsksForClosure, "RuntimeError: step requires a closure."), (NamesClosure, "required positional argument")],
)
def test_a_step_that_needs_a_closure_is_given_one(factory, said):
    """Once it is told; what the checks measure is the formula."""
    found = findings(audit(factory, dtypes=FLOAT32))
    assert {name: status for name, (status, _) in found.items()} == {"closure": "differs"}
    assert said in found["closure"][1]


def test_a_closure_that_is_asked_for_is_told_by_that_check_alone():
    """Also where no other check has met it."""
    (check,) = audit(AsksForClosure, checks=["closure"]).checks
    assert check.status == "differs"


class AsksAndEarlyEps(AsksForClosure, _mutants.EpsBeforeCorrection):
    """Has another formula besides."""


@pytest.mark.parametrize("name", ["eps-placement", "bias-correction-after-resume"])
def test_what_reproduces_a_figure_gives_a_closure_as_well(name):
    """Where the step needs one."""
    (check,) = audit(AsksAndEarlyEps, dtypes=FLOAT32, checks=[name]).checks
    out = io.StringIO()
    with redirect_stdout(out):
        exec(check.reproduce, {})  # noqa: S102 (what users are told to paste)
    assert abs(float(out.getvalue())) == pytest.approx(check.figure.value, rel=1e-3, abs=1e-12)


class Velocity(torch.optim.Optimizer):
    """Gradient descent without dampening, with the rate inside of the momentum."""

    def __init__(self, params, lr=1e-3, momentum=0, weight_decay=0, *, nesterov=False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure=None):
        """Takes one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    by = group["lr"] * (p.grad + group["weight_decay"] * p)
                    v = self.state[p].setdefault("velocity", torch.zeros_like(p))
                    v.mul_(group["momentum"]).sub_(by)
                    p.add_(group["momentum"] * v - by if group["nesterov"] else v)
        return loss


def test_gradient_descent_without_dampening():
    """Is measured without; with a constant rate the formula is the same, and a checkpoint is not."""
    found = findings(audit(Velocity, "torch.optim.SGD", dtypes=FLOAT32, checks=QUICK))
    assert {name: status for name, (status, _) in found.items() if name != "invalid-options"} == {
        "keywords": "differs",
        "maximize": "differs",
        "state-dict-interchange": "fails",
    }


def undecayed(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    """Adam without weight decay."""
    return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps)


def test_adam_without_weight_decay():
    """Is measured without, and lacks that."""
    found = findings(audit(undecayed, "torch.optim.Adam", dtypes=FLOAT32, checks=QUICK))
    assert found.keys() == {"keywords", "weight-decay", "maximize", "amsgrad"}
    assert "no option 'weight_decay'" in found["weight-decay"][1]


def test_a_default_that_is_no_number():
    """Is another default, and no error."""
    (check,) = audit(torch.optim.Adafactor, checks=["defaults"]).checks
    assert check.status == "differs"
    assert "eps=(None, 0.001) (documented: 1e-08)" in check.consequence


def test_a_default_of_which_a_part_is_no_number():
    """The same."""

    class NoMomentum(_mutants.PlainAdamW):
        def __init__(self, params, betas=(None, 0.999), **options):
            super().__init__(params, betas=(0.9, 0.999), **options)
            self.param_groups[0]["betas"] = betas

    (check,) = audit(NoMomentum, checks=["defaults"]).checks
    assert check.status == "differs"
    assert "betas=(None, 0.999) (documented: (0.9, 0.999))" in check.consequence


def test_keywords_of_a_class_that_takes_no_lr_by_default():
    """Are tried without it: those that it has are not said to be refused."""

    class OwnRate(_mutants.PlainAdamW):
        def __init__(self, params, lr=None, eps=1e-8, weight_decay=1e-2, *, own_rate=True):
            if lr is not None and own_rate:
                msg = "lr needs own_rate=False"
                raise ValueError(msg)
            super().__init__(params, 1e-3, eps=eps, weight_decay=weight_decay)

    (check,) = audit(OwnRate, checks=["keywords"]).checks
    assert "defaults: lr, betas, amsgrad, maximize," in check.consequence


class OwnNames(_mutants.PlainAdamW):
    """Its first moment has another name."""

    def start(self, p, own):
        """Two names for one tensor."""
        super().start(p, own)
        own["m"] = own["exp_avg"]

    def first(self, own, beta1, g):
        """By the other name."""
        return super().first({"exp_avg": own["m"]}, beta1, g)


def test_a_checkpoint_that_is_taken_and_cannot_be_used():
    """Is not refused: the next step raises."""
    (check,) = audit(OwnNames, dtypes=FLOAT32, checks=["state-dict-interchange"]).checks
    assert (check.status, check.consequence) == (
        "differs",
        "This optimizer takes a checkpoint of torch.optim.AdamW, and raises in the next step: KeyError: 'm'.",
    )


def test_a_step_that_raises_without_a_checkpoint_too():
    """Says nothing of checkpoints."""

    class Raises(_mutants.PlainAdamW):
        def step_all(self):
            msg = "initial_lr"
            raise KeyError(msg)

    (check,) = audit(Raises, dtypes=FLOAT32, checks=["state-dict-interchange"]).checks
    assert (check.status, check.consequence) == ("fails", "It raises KeyError: 'initial_lr'.")


def test_storage_that_loses_less_than_rounding_to_nearest():
    """Is not said to lose the same."""
    stochastic = functools.partial(FusedAdamW, rounding="stochastic", seed=2)
    told = audit(stochastic, dtypes=[torch.bfloat16], checks=["tiny-updates"]).checks
    told += audit(FusedAdamW, dtypes=[torch.bfloat16], checks=["tiny-updates"]).checks
    assert ["so does" in one.consequence for one in told] == [False, True]
    assert "rounds to nearest, moves them 0 %." in told[0].consequence


def test_a_figure_within_its_bound_is_no_finding():
    """Too much movement after a spike is compared with what storage allows in that direction."""
    (check,) = audit(torch.optim.NAdam, dtypes=[torch.bfloat16], checks=["frozen-second-moment"]).checks
    assert check.status == "differs"
    assert check.figure.value > check.figure.bound


class Beside(_mutants.PlainAdamW):
    """Keeps its moments in a dictionary of its own."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.moments = {}

    def update(self, p, group):
        """Brings them, and takes them away."""
        self.state[p].update(self.moments.get(p, {}))
        super().update(p, group)
        self.moments[p] = {name: self.state[p].pop(name) for name in ("exp_avg", "exp_avg_sq")}


class Inside(torch.optim.Optimizer):
    """Another optimizer does the work."""

    def __init__(self, params, **options):
        self.base = torch.optim.AdamW(params, **options)
        super().__init__(self.base.param_groups, self.base.defaults)

    def step(self, closure=None):
        """Its step."""
        return self.base.step(closure)


class OnHost(torch.optim.Optimizer):
    """Its moments are arrays of numpy."""

    def __init__(self, params, lr=1e-3, **options):
        super().__init__(params, {"lr": lr, **options})

    def step(self):
        """Makes them."""
        for p in self.param_groups[0]["params"]:
            self.state[p] = {name: np.zeros(p.shape, np.float32) for name in ("m", "v")}


class OwnMaster(torch.optim.AdamW):
    """Its groups have copies of the parameters."""

    def __init__(self, params, **options):
        self.model = list(params)
        super().__init__([p.detach().float().clone().requires_grad_() for p in self.model], **options)

    def step(self):
        """Of the copies."""
        with torch.no_grad():
            for p, own in zip(self.model, self.param_groups[0]["params"], strict=True):
                own.grad = p.grad.float()
                super().step()
                own.grad = None
                p.copy_(own)


@pytest.mark.parametrize(("factory", "size"), [(Beside, 8), (Inside, 8), (OnHost, 8), (OwnMaster, 12)])
def test_memory_of_state_that_is_elsewhere(factory, size):
    """Is counted."""
    (check,) = audit(factory, dtypes=FLOAT32, checks=["memory"]).checks
    assert check.figure.value == pytest.approx(size, abs=0.01)


def by_dimensions(params, weight_decay=1e-2, **options):
    """Groups of its own, as training scripts make them: no decay of vectors."""
    given = [group["params"] if isinstance(group, dict) else [group] for group in params]
    members = [p for group in given for p in group]
    groups = [
        {"params": [p for p in members if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in members if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **options)


def test_a_factory_that_makes_groups_of_its_own():
    """Is told so, and which parameters do not decay."""
    found = findings(
        audit(by_dimensions, dtypes=FLOAT32, checks=["decoupled-weight-decay", "param-groups", "scheduler"])
    )
    assert found.keys() == {"decoupled-weight-decay", "param-groups"}
    assert "nothing to parameters of one dimension" in found["decoupled-weight-decay"][1]
    assert "groups of its own" in found["param-groups"][1]


def test_a_factory_that_heeds_no_option():
    """Is another formula; what a scheduler and groups change is heeded."""

    def fixed(params, **options):
        del options
        return torch.optim.AdamW(params, lr=3e-4)

    found = findings(audit(fixed, dtypes=FLOAT32, checks=["formula", "param-groups", "scheduler"]))
    assert found.keys() == {"formula"}


def test_a_step_that_cannot_use_a_tensor_as_lr():
    """Is no matter of compilation, and no error of a step with a number."""

    class Numbers(_mutants.PlainAdamW):
        def lr(self, group):
            if isinstance(group["lr"], torch.Tensor):
                msg = "must be a number"
                raise TypeError(msg)
            return group["lr"]

    (check,) = audit(Numbers, checks=["recompiles"]).checks
    assert check.status == "differs"
    assert check.consequence == "It takes a tensor as lr, and its step raises TypeError: must be a number."
