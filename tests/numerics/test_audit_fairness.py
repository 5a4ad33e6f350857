"""The audit says what an optimizer does, and puts nothing else down to it: what published ones do otherwise."""

import _mutants
import pytest
import torch

from gaudi3_rt.numerics import CHECKS, audit
from gaudi3_rt.optim import FusedLAMB

FLOAT32 = [torch.float32]
QUICK = [name for name in CHECKS if name != "recompiles"]


def findings(passport):
    """What is not as specified."""
    return {one.name: (one.status, one.consequence) for one in passport.checks if not one.ok}


class SpoilsGradients(_mutants.PlainAdamW):
    """Leaves numbers in the gradients of which any use shows."""

    def step(self, closure=None):
        """Steps, then spoils."""
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.fill_(float("nan"))
        return loss


def test_gradients_that_a_step_changes_are_found_once():
    """Neither the oracle nor later steps see what the step has made of them."""
    found = findings(audit(SpoilsGradients, dtypes=FLOAT32, checks=QUICK))
    assert found.keys() == {"gradient-untouched"}


def unclipped(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
    """LAMB as published, without the clipping of apex."""
    return FusedLAMB(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, max_grad_norm=None)


def plain_adagrad(params, lr=1e-2, weight_decay=0, eps=1e-10, *, maximize=False):
    """Adagrad as published."""
    return torch.optim.Adagrad(params, lr=lr, weight_decay=weight_decay, eps=eps, maximize=maximize)


@pytest.mark.parametrize(
    ("factory", "like", "said"),
    [
        (unclipped, "lamb", "It refuses max_grad_norm=2.0; the other checks are made without."),
        (plain_adagrad, "torch.optim.Adagrad", "lr_decay, initial_accumulator_value"),
    ],
)
def test_a_term_that_is_refused_is_told_once(factory, like, said):
    """By the check of keywords; the others compare with the formula that has no such term."""
    found = findings(audit(factory, like, dtypes=FLOAT32, checks=QUICK))
    assert {name: status for name, (status, _) in found.items()} == {"keywords": "differs"}
    assert said in found["keywords"][1]


class NeedsBetas(_mutants.PlainAdamW):
    """Has no default of its betas."""

    def __init__(self, params, *, betas, **options):
        super().__init__(params, betas=betas, **options)


def test_keywords_of_a_class_that_needs_more_than_lr():
    """Are tried with what it needs."""
    assert findings(audit(NeedsBetas, checks=["keywords", "invalid-options"])) == {}


class EarlyEpsAmsgradIgnored(_mutants.EpsBeforeCorrection):
    """Has another formula, and an option without effect."""

    def __init__(self, params, *, amsgrad=False, **options):
        del amsgrad
        super().__init__(params, **options)


def test_an_ignored_option_is_found_whatever_the_formula_is():
    """By what it changes of the optimizer's own results; in bfloat16 too, whose rounding is larger."""
    found = audit(EarlyEpsAmsgradIgnored, checks=["amsgrad"]).checks
    found += audit(_mutants.NesterovIgnored, "torch.optim.SGD", checks=["nesterov"]).checks
    assert [one.status for one in found] == 4 * ["fails"]
    heeded = audit(_mutants.EpsBeforeCorrection, dtypes=FLOAT32, checks=["amsgrad"]).checks
    assert all("ignored" not in one.consequence for one in heeded)


class CompilesItself(_mutants.PlainAdamW):
    """Runs what torch.compile makes, as a whole."""

    def step_group(self, group):
        """Compiles, and runs that."""
        compiled = torch.compile(_moved, backend="eager", fullgraph=True)
        for p in group["params"]:
            p.copy_(compiled(p.detach(), p.grad))


def _moved(p, grad):
    return p - 1e-3 * grad


@torch.compile(backend="eager", fullgraph=True)
def _compiled_already(p, grad):
    return p - 2e-3 * grad


class RunsCompiled(CompilesItself):
    """The same, compiled when it was defined."""

    def step_group(self, group):
        """Runs what is compiled."""
        for p in group["params"]:
            p.copy_(_compiled_already(p.detach(), p.grad))


@pytest.mark.parametrize(("factory", "told"), [(CompilesItself, True), (RunsCompiled, False)])
def test_measuring_the_memory_of_a_step_leaves_what_is_compiled_alone(factory, told):
    """Operations of a compiled step cannot be watched; it runs afterwards as before."""
    torch._dynamo.reset()
    (check,) = audit(factory, dtypes=FLOAT32, checks=["memory"]).checks
    assert check.status == "pass"
    assert ("not measured, because it compiles itself" in check.consequence) == told
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = factory([p])
    p.grad = torch.ones(5)
    optimizer.step()
    assert p[0] < 1
    torch._dynamo.reset()


class Held(torch.Tensor):
    """A tensor that can be saved and loaded, and not be copied otherwise, as those of quantized state."""

    def __deepcopy__(self, memo):
        """Refuses."""
        raise NotImplementedError

    def dequantize(self):
        """The numbers."""
        return self.as_subclass(torch.Tensor)


class HoldsState(_mutants.PlainAdamW):
    """Keeps its moments in such tensors."""

    def start(self, p, own):
        """Moments in the class above."""
        super().start(p, own)
        for name in ("exp_avg", "exp_avg_sq"):
            own[name] = own[name].as_subclass(Held)


def test_state_that_has_no_copy_goes_through_a_file():
    """As a checkpoint does; for other formulas as well, which are compared with themselves."""

    class Swapped(HoldsState):
        def betas(self, group):
            return super().betas(group)[::-1]

    states = ["bias-correction-after-resume", "state-dict-round-trip", "param-groups", "scheduler"]
    with torch.serialization.safe_globals([Held]):
        assert findings(audit(HoldsState, dtypes=FLOAT32, checks=[*states, "state-dict-interchange"])) == {}
        assert findings(audit(Swapped, dtypes=FLOAT32, checks=states)) == {}


def test_a_default_in_float32_is_no_other():
    """A learning rate that is a tensor has the digits of its dtype."""

    class TensorLr(_mutants.PlainAdamW):
        def __init__(self, params, lr=1e-3, **options):
            super().__init__(params, lr=torch.as_tensor(lr, dtype=torch.float32), **options)

    assert findings(audit(TensorLr, checks=["defaults"])) == {}


class RunningPowers(_mutants.PlainAdamW):
    """Multiplies powers of the betas from step to step, and takes them anew after a resume."""

    def power(self, beta, t):
        """The product so far, times beta."""
        kept = self.__dict__.setdefault("powers", {})
        now, before = (beta, int(t)), (beta, int(t) - 1)
        if now not in kept:
            kept[now] = kept[before] * torch.tensor(beta) if before in kept else torch.tensor(beta) ** int(t)
        return kept[now]

    def size(self, lr, t, beta1):
        """With the product."""
        return lr / (1 - self.power(beta1, t))

    def denominator(self, v, t, beta2, eps):
        """With the product."""
        return (v / (1 - self.power(beta2, t))).sqrt() + eps


def test_a_resume_that_rounds_otherwise_differs():
    """And does not fail: nothing is lost."""
    (check,) = audit(RunningPowers, dtypes=FLOAT32, checks=["bias-correction-after-resume"]).checks
    assert check.status == "differs"
    assert 0 < check.figure.value < 1e-6


def test_a_step_that_cannot_be_compiled_differs():
    """It is no fault of the step."""

    class NotTraced(_mutants.PlainAdamW):
        def step(self, closure=None):
            if torch.compiler.is_compiling():
                torch._dynamo.graph_break()
                msg = "not here"
                raise RuntimeError(msg)
            return super().step(closure)

    (check,) = audit(NotTraced, checks=["recompiles"]).checks
    assert check.status == "differs"
    assert "does not compile its step" in check.consequence
