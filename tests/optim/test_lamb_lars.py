"""LAMB and LARS against their formulas in float64, with all options, guards, clipping and bad arguments."""

import copy
import math

import pytest
import torch

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedLAMB, FusedLARS

SHAPES = [(40, 50), (300,), (3,), ()]


def lamb(state, p, g, *, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01,
         adam_w_mode=True, grad_averaging=True, use_nvlamb=False):  # fmt: skip
    """One step of apex's FusedLAMB for one parameter, in float64; returns the new parameter."""
    beta1, beta2 = betas
    t = state["t"] = state.get("t", 0) + 1
    c1, c2 = (1 - beta1**t, 1 - beta2**t) if bias_correction else (1.0, 1.0)
    if not adam_w_mode:
        g = g + weight_decay * p
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1 if grad_averaging else 1) * g
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g * g
    update = (state["m"] / c1) / ((state["v"] / c2).sqrt() + eps)
    if adam_w_mode:
        update = update + weight_decay * p
    ratio = 1.0
    if (use_nvlamb or weight_decay != 0) and p.norm() != 0 and update.norm() != 0:
        ratio = p.norm() / update.norm()
    return p - lr * ratio * update


def lars(state, p, g, *, lr=1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, trust_coeff=0.001,
         eps=1e-8, trust_clip=False, always_adapt=False):  # fmt: skip
    """One step of timm's Lars for one parameter, in float64; returns the new parameter."""
    if weight_decay != 0 or always_adapt:
        ratio = 1.0
        if p.norm() > 0 and g.norm() > 0:
            ratio = float(trust_coeff * p.norm() / (g.norm() + weight_decay * p.norm() + eps))
        if trust_clip:
            ratio = min(ratio / lr, 1.0)
        g = ratio * (g + weight_decay * p)
    if momentum:
        first = "b" not in state
        state["b"] = g if first else momentum * state["b"] + (1 - dampening) * g
        g = g + momentum * state["b"] if nesterov else state["b"]
    return p - lr * g


LAMB_OPTIONS = {
    "defaults": {},
    "no bias correction": {"bias_correction": False},
    "betas": {"betas": (0.8, 0.95)},
    "eps": {"eps": 0.1},
    "weight decay": {"weight_decay": 0.3},
    "no weight decay": {"weight_decay": 0.0},
    "no weight decay, nvlamb": {"weight_decay": 0.0, "use_nvlamb": True},
    "L2": {"adam_w_mode": False, "weight_decay": 0.3},
    "no averaging": {"grad_averaging": False},
    "all at once": {"bias_correction": False, "adam_w_mode": False, "grad_averaging": False, "use_nvlamb": True},
}
LARS_OPTIONS = {
    "defaults": {"lr": 0.01},
    "momentum": {"lr": 0.01, "momentum": 0.9},
    "dampening": {"lr": 0.01, "momentum": 0.9, "dampening": 0.4},
    "dampening without momentum": {"lr": 0.01, "dampening": 0.4},
    "nesterov": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
    "weight decay": {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1, "trust_coeff": 0.02},
    "nesterov and weight decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "trust_coeff": 0.02},
    "always": {"always_adapt": True, "momentum": 0.9, "trust_coeff": 0.01},
    "clipped": {"lr": 0.02, "weight_decay": 0.1, "trust_clip": True, "trust_coeff": 0.05, "momentum": 0.5},
    "clipped, large lr": {"lr": 3.0, "weight_decay": 0.1, "trust_clip": True, "trust_coeff": 0.003},
    "eps": {"weight_decay": 0.1, "trust_coeff": 0.02, "eps": 5.0},
}
CASES = [
    *(pytest.param(FusedLAMB, lamb, {"lr": 1e-2, **o}, id=f"LAMB, {name}") for name, o in LAMB_OPTIONS.items()),
    *(pytest.param(FusedLARS, lars, o, id=f"LARS, {name}") for name, o in LARS_OPTIONS.items()),
]


def gradients(step, shapes=SHAPES):
    """Random gradients that depend on the step's number."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).float() for shape in shapes]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("max_grad_norm", [None, 0.7])
@pytest.mark.parametrize(("cls", "formula", "options"), CASES)
def test_is_the_formula(cls, formula, options, max_grad_norm, maximize):
    """100 steps with every option, with and without clipping, descending and ascending.

    Each step rounds a parameter once, by 2^-24 of its size (at most 8 here), and the update by a few 2^-24 of its own,
    which is smaller: 100 steps make 100 * 8 * 2^-24 = 5e-5, if all rounded the same way. A parameter of one element
    changes by a fixed share of itself in each step, as errors do; so the bound is relative to its size, too.
    """
    start = gradients(999)
    params = [torch.nn.Parameter(x.clone()) for x in start]
    want, states = [x.double() for x in start], [{} for _ in start]
    options = {"max_grad_norm": max_grad_norm, "maximize": maximize, **options}
    optimizer = cls(params, **options)
    own = {name: value for name, value in options.items() if name not in {"max_grad_norm", "maximize"}}
    for step in range(100):
        grads = gradients(step)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
        factor = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm + 1e-6))
        factor = -factor if maximize else factor
        for i, g in enumerate(grads):
            want[i] = formula(states[i], want[i], factor * g.double(), **own)
    for p, w, s in zip(params, want, start, strict=True):
        scale = max(1.0, float(w.abs().max()), float(s.abs().max()))
        torch.testing.assert_close(p.detach().double(), w, rtol=0, atol=5e-5 * scale)
        assert not torch.equal(p.detach(), s)


def test_signatures_are_those_of_apex_and_timm():
    """Names, order and defaults of the arguments, so that the import alone has to be changed."""
    p = torch.nn.Parameter(torch.ones(2))
    by_place = FusedLAMB([p], 1e-3, True, (0.9, 0.999), 1e-6, 0.01, False, True, True, True, 1.0, False)
    assert by_place.defaults == FusedLAMB([p]).defaults
    assert by_place.max_grad_norm == FusedLAMB([p]).max_grad_norm == 1.0
    by_place = FusedLARS([p], 1.0, 0, 0, 0, False, 0.001, 1e-8, False, False)
    assert by_place.defaults == FusedLARS([p]).defaults


# Guards


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("use_nvlamb", [False, True])
def test_lamb_without_norms(weight_decay, use_nvlamb):
    """Zero weights, and an update that is zero: the ratio is 1, and nothing is divided by zero."""
    zero, still = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(5))
    optimizer = FusedLAMB([zero, still], lr=0.5, weight_decay=weight_decay, use_nvlamb=use_nvlamb, max_grad_norm=None)
    zero.grad, still.grad = torch.full((5,), 2.0), torch.zeros(5)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((5,), -0.5), rtol=1e-5, atol=0)
    # The update of the other is its decay alone, stretched to the size of the weights.
    torch.testing.assert_close(still.detach(), torch.full((5,), 1.0 if weight_decay == 0 else 0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("lr", [0.5, 4.0])
def test_lars_without_norms(lr, trust_clip):
    """Where a norm is zero the ratio is 1; clipped, it is 1 / lr at most, so that the step is no larger than g."""
    zero, still = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(5))
    optimizer = FusedLARS([zero, still], lr=lr, weight_decay=0.1, trust_clip=trust_clip)
    zero.grad, still.grad = torch.full((5,), 2.0), torch.zeros(5)
    optimizer.step()
    rate = min(lr, 1.0) if trust_clip else lr
    torch.testing.assert_close(zero.detach(), torch.full((5,), -2.0 * rate), rtol=1e-6, atol=0)
    torch.testing.assert_close(still.detach(), torch.full((5,), 1 - 0.1 * rate), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (FusedLAMB, {"max_grad_norm": None}),
        (FusedLARS, {"weight_decay": 0.1}),
        (FusedLARS, {"weight_decay": 0.1, "trust_clip": True, "momentum": 0.9}),
    ],
)
def test_what_is_not_finite_reaches_the_result(cls, options, dtype, bad):
    """A NaN in one gradient makes the whole tensor NaN, through its norm, and no other; an infinity is not hidden."""
    dirty, clean = (torch.nn.Parameter(torch.ones(6, dtype=dtype)) for _ in range(2))
    optimizer = cls([dirty, clean], **options)
    dirty.grad, clean.grad = torch.ones(6, dtype=dtype), torch.ones(6, dtype=dtype)
    dirty.grad[2] = bad
    optimizer.step()
    assert not dirty[2].isfinite()
    assert clean.isfinite().all()
    if math.isnan(bad):
        assert dirty.isnan().all()


@pytest.mark.parametrize("moments_dtype", [None, torch.bfloat16, torch.int8, torch.float8_e5m2], ids=str)
def test_lamb_measures_moments_as_they_are_stored(moments_dtype):
    """With the ratio |p| / |u|, a step has the length lr |p|, to a few roundings, however coarsely u is stored."""
    p = torch.nn.Parameter(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
    optimizer = FusedLAMB([p], lr=0.1, moments_dtype=moments_dtype)
    for step in range(3):
        before = p.detach().double().clone()
        (p.grad,) = gradients(step, [p.shape])
        optimizer.step()
        assert float((p.detach() - before).norm() / before.norm()) == pytest.approx(0.1, rel=1e-6)


# The same bits


@pytest.mark.parametrize(
    ("cls", "options"),
    [(FusedLAMB, {}), (FusedLAMB, {"adam_w_mode": False}), (FusedLARS, {"weight_decay": 0.1, "momentum": 0.9})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads_or_company(cls, options, dtype):
    """Tensors of more than two chunks: any number of threads, alone or among others, in any order."""
    shapes = [(2 * _core.CHUNK + 77,), (5,), (_core.CHUNK + 1,)]

    def run(n_threads, order):
        torch.set_num_threads(n_threads)
        params = [torch.nn.Parameter(x.to(dtype)) for x in gradients(7, shapes)]
        optimizer = cls([params[i] for i in order], lr=0.1, max_grad_norm=math.inf, **copy.deepcopy(options))
        for step in range(2):
            for p, g in zip(params, gradients(step, shapes), strict=True):
                p.grad = g.to(dtype)
            optimizer.step()
        return params

    want = run(1, (0, 1, 2))
    for n_threads, order in ((2, (0, 1, 2)), (8, (2, 0, 1)), (3, (1, 2, 0))):
        assert all(torch.equal(p, q) for p, q in zip(run(n_threads, order), want, strict=True))
    for i, p in enumerate(want):
        assert torch.equal(run(2, (i,))[i], p)


# Other behaviour


def test_zero_grad_follows_set_grad_none():
    """As in apex; also in copies, and an argument overrides it."""
    for set_grad_none in (True, False):
        p = torch.nn.Parameter(torch.ones(3))
        for optimizer in (FusedLAMB([p], set_grad_none=set_grad_none), None):
            this = optimizer or copy.deepcopy(FusedLAMB([p], set_grad_none=set_grad_none))
            own = this.param_groups[0]["params"][0]
            own.grad = torch.ones(3)
            this.zero_grad()
            assert (own.grad is None) == set_grad_none
            own.grad = torch.ones(3)
            this.zero_grad(set_to_none=not set_grad_none)
            assert (own.grad is None) != set_grad_none


BAD = {
    "amsgrad": (FusedLAMB, {"amsgrad": True}, "amsgrad=True: LAMB has no such variant; leave it out"),
    "LAMB lr": (FusedLAMB, {"lr": -1.0}, r"lr=-1\.0: must be a number >= 0"),
    "nan": (FusedLAMB, {"lr": math.nan}, "lr=nan: must be"),
    "LAMB eps": (FusedLAMB, {"eps": -1e-8}, "eps=-1e-08: must be"),
    "LAMB decay": (FusedLAMB, {"weight_decay": -0.1}, r"weight_decay=-0\.1: must be"),
    "beta": (FusedLAMB, {"betas": (0.9, 1.0)}, r"betas=\(0\.9, 1\.0\): must be two numbers in \[0, 1\)"),
    "three betas": (FusedLAMB, {"betas": (0.9, 0.9, 0.9)}, "must be two numbers"),
    "norm": (FusedLAMB, {"max_grad_norm": -1.0}, r"max_grad_norm=-1\.0: must be a number >= 0, or None"),
    "LARS lr": (FusedLARS, {"lr": -1.0}, r"lr=-1\.0: must be"),
    "momentum": (FusedLARS, {"momentum": -0.5}, r"momentum=-0\.5: must be"),
    "trust": (FusedLARS, {"trust_coeff": -0.5}, r"trust_coeff=-0\.5: must be"),
    "nesterov": (FusedLARS, {"nesterov": True}, r"nesterov=True with momentum=0\.0 and dampening=0\.0: needs a mom"),
    "dampening": (
        FusedLARS,
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        r"nesterov=True with momentum=0\.9 and dampening=0\.1: needs a momentum, no dampening",
    ),
}


@pytest.mark.parametrize(("cls", "options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(cls, options, message):
    """What was given, and what is allowed."""
    with pytest.raises(ValueError, match=message):
        cls([torch.nn.Parameter(torch.ones(1))], **options)
