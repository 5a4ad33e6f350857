"""The vendor's AdamW: its formula, state and checkpoints."""

import copy
import math
import pickle

import pytest
import torch
from _vendors import UNIT, distance, exact, parameters, set_grads, train

from gaudi3_rt.compat import hpex

# AdamW


class VendorsAdamW:
    """The vendor's formula in float64, one parameter list, one count."""

    def __init__(self, values, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True):
        self.values, self.lr, self.betas, self.eps = values, lr, betas, eps
        self.decay, self.corrects, self.t = weight_decay, bias_correction, 0
        self.moments = [[torch.zeros_like(v) for v in values] for _ in range(2)]

    def step(self, grads):
        """One step; a gradient that is None leaves its parameter alone."""
        self.t += 1
        beta1, beta2 = self.betas
        alpha = self.lr * (math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if self.corrects else 1)
        for w, g, m, v in zip(self.values, grads, *self.moments, strict=True):
            if g is None:
                continue
            m.mul_(beta1).add_((1 - beta1) * g.double())
            v.mul_(beta2).add_((1 - beta2) * g.double() ** 2)
            w.mul_(1 - self.lr * self.decay)
            w.sub_(alpha * m / (v.sqrt() + self.eps))


ADAMW = {
    "defaults": (1.0, {}),
    "defaults, gradients near eps": (1e-5, {}),
    "decay": (1.0, {"weight_decay": 0.1}),
    "no correction": (1.0, {"bias_correction": False, "weight_decay": 0.1}),
    "no correction, gradients near eps": (1e-5, {"bias_correction": False}),
    "large eps": (1.0, {"eps": 1e-1}),
    "betas": (1e-5, {"betas": (0.5, 0.95)}),
    "betas of zero": (1.0, {"betas": (0.0, 0.0), "eps": 1e-3}),
    "no learning": (1.0, {"lr": 0.0, "weight_decay": 0.1}),
}  # scale of the gradients, options


@pytest.mark.parametrize(("scale", "options"), ADAMW.values(), ids=ADAMW)
def test_adamw_is_the_vendors_formula_over_hundreds_of_steps(scale, options):
    """Parameters stay within the rounding of 400 steps of the formula in float64.

    One rounding a step, of a parameter that moves by less than 0.5: their sum grows with the root of their number.
    """
    options = {"lr": 3e-3, **options}
    ours = parameters()
    start, reference = exact(ours), VendorsAdamW(exact(ours), **options)
    optimizer = hpex.FusedAdamW(ours, **options)
    for step in range(400):
        set_grads(step, ours, scale=scale)
        optimizer.step()
        reference.step([p.grad for p in ours])
        if step == 200:
            optimizer.param_groups[0]["lr"] = reference.lr = options["lr"] / 3
    largest = max(float(v.abs().max()) for v in start) + 0.5
    rounding = 3 * 400**0.5 * UNIT * largest
    assert distance(ours, reference.values) < rounding
    assert optimizer.param_groups[0]["step"] == 400
    if options["lr"]:
        assert distance(ours, start) > 100 * rounding
    else:
        assert distance(ours, start) == 0


def test_adamw_differs_from_torch_as_its_docstring_says():
    """With gradients near eps, ten steps are a tenth of torch's; with eps scaled step by step they would be equal."""
    ours, theirs = parameters(), parameters()
    start = exact(ours)
    a, b = hpex.FusedAdamW(ours), torch.optim.AdamW(theirs, eps=1e-6, weight_decay=0.0)
    equal = parameters()
    c = torch.optim.AdamW(equal, eps=1e-6, weight_decay=0.0)
    for step in range(10):
        set_grads(step, ours, theirs, equal, scale=1e-6)
        a.step()
        b.step()
        c.param_groups[0]["eps"] = 1e-6 / math.sqrt(1 - 0.999 ** (step + 1))
        c.step()
    assert distance(ours, start) < 0.2 * distance(theirs, start)
    assert distance(ours, equal) < 40 * UNIT


def test_adamw_counts_steps_by_group():
    """A late parameter has the bias correction of its group's count; a group without gradients does not count."""
    ours = parameters()
    optimizer = hpex.FusedAdamW([{"params": ours[:2]}, {"params": ours[2:]}], lr=1e-2)
    reference = VendorsAdamW(exact(ours[:2]), lr=1e-2)
    for step in range(30):
        set_grads(step, ours)
        if step < 20:
            ours[1].grad = None
        ours[2].grad = None
        optimizer.step()
        reference.step([p.grad for p in ours[:2]])
    assert distance(ours[:2], reference.values) < 100 * UNIT
    assert [group.get("step") for group in optimizer.param_groups] == [30, None]


def test_adamw_state_has_the_vendors_schema_and_goes_on_after_loading():
    """The state's count stays 0, the group's goes on; old checkpoints say correct_bias; torch's are refused."""
    params = parameters()
    optimizer = hpex.FusedAdamW(params, lr=1e-2, weight_decay=0.1)
    train(params, optimizer, 10)
    saved = copy.deepcopy(optimizer.state_dict())
    assert list(saved["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert [entry["step"] for entry in saved["state"].values()] == [0, 0, 0]
    assert saved["param_groups"][0]["step"] == 10
    saved["param_groups"][0]["correct_bias"] = saved["param_groups"][0].pop("bias_correction")
    kept = copy.deepcopy(saved)
    copied = copy.deepcopy(params)
    resumed = hpex.FusedAdamW(copied, bias_correction=False)
    resumed.load_state_dict(saved)
    assert saved["param_groups"] == kept["param_groups"]
    pickled = pickle.loads(pickle.dumps(optimizer))  # noqa: S301 (our own bytes)
    train(params, optimizer, 10, first=10)
    for other in (resumed, pickled):
        own = other.param_groups[0]["params"]
        train(own, other, 10, first=10)
        assert all(torch.equal(p, q) for p, q in zip(params, own, strict=True))
    with pytest.raises(ValueError, match=r"no \['bias_correction'\]; was it saved by another class"):
        resumed.load_state_dict(torch.optim.AdamW(parameters()).state_dict())


def test_adamw_counts_no_step_that_was_skipped_or_refused():
    """Under AMP, and where a gradient does not fit: neither count nor parameter moves."""
    params = parameters()
    optimizer = hpex.FusedAdamW(params, lr=1e-2)
    train(params, optimizer, 2)
    before = exact(params)
    optimizer.found_inf = torch.tensor(1.0)
    train(params, optimizer, 1)
    del optimizer.found_inf
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(2)
    with pytest.raises(ValueError, match="exp_avg of parameter 1 of group 0 has shape"):
        train(params, optimizer, 1)
    assert distance(params, before) == 0
    assert optimizer.param_groups[0]["step"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_moments_have_the_dtypes_asked_for(dtype):
    """One for both, one each, or the parameter's; also in a copy that has made no state yet."""
    for asked, want in (
        (None, (dtype, dtype)),
        (torch.float16, (torch.float16, torch.float16)),
        ((torch.bfloat16, torch.float32), (torch.bfloat16, torch.float32)),
    ):
        made = hpex.FusedAdamW(parameters(dtype=dtype), moments_dtype=asked)
        for optimizer in (made, copy.deepcopy(made)):
            params = optimizer.param_groups[0]["params"]
            train(params, optimizer, 2)
            for p in params:
                assert (optimizer.state[p]["exp_avg"].dtype, optimizer.state[p]["exp_avg_sq"].dtype) == want


def test_adamw_of_bfloat16_keeps_what_the_vendors_arithmetic_loses():
    """A spike in the second moment decays with float32 moments, as in the formula; in bfloat16 0.999 would be 1."""
    (p,) = params = parameters(dtype=torch.bfloat16, shapes=[(64,)])
    optimizer = hpex.FusedAdamW(params, moments_dtype=torch.float32)
    reference = VendorsAdamW(exact(params))
    for step in range(500):
        set_grads(step, params, scale=10.0 if step < 20 else 0.01)
        optimizer.step()
        reference.step([p.grad])
    moment = optimizer.state[p]["exp_avg_sq"]
    torch.testing.assert_close(moment.double(), reference.moments[1][0], rtol=1e-4, atol=0)


def test_adamw_in_a_compiled_function_and_under_a_scheduler():
    """The step runs outside of the graph, and counts there; a scheduler does not take it for forgotten."""

    def run(compiler):
        params = parameters()
        optimizer = hpex.FusedAdamW(params, lr=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        @compiler
        def finish():
            for p in params:
                p.grad.mul_(0.5)
            optimizer.step()

        for step in range(5):
            set_grads(step, params)
            finish()
            scheduler.step()
        assert optimizer.param_groups[0]["step"] == 5
        return params

    torch._dynamo.reset()
    compiled = run(lambda f: torch.compile(f, backend="eager"))
    torch._dynamo.reset()
    assert all(torch.equal(p, q) for p, q in zip(compiled, run(lambda f: f), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0: must be >= 0"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\): both must be in \[0, 1\)"),
        ({"eps": -1e-8}, "eps=-1e-08: must be >= 0"),
        ({"moments_dtype": torch.int8}, r"moments_dtype=torch.int8: must be one of .*bfloat16"),
        ({"moments_dtype": (torch.float32,)}, "a pair of them, or None"),
    ],
)
def test_adamw_refuses_arguments_out_of_range(options, message):
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        hpex.FusedAdamW(parameters(), **options)
