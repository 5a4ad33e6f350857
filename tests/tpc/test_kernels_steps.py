"""TPC kernels of optimizers, emulated, against the CPU's: equal bits, where the CPU flushes denormal numbers too."""

import _problems
import _tpc_kernels
import numpy as np
import pytest
import torch
from _tpc_kernels import KERNELS, LOST_SQUARE, SIZES, SUM_BOUND, assert_same_bits, flushing, scalars
from hypothesis import given, settings
from hypothesis import strategies as st

from gaudi3_rt import _core

OF_OPTIMIZERS = {name: kernel for name, kernel in KERNELS.items() if kernel["cpu"] in _core.kernels()}
ONE_PASS = [n for n, k in OF_OPTIMIZERS.items() if not _core.describe_kernel(k["cpu"])["two_passes"]]
FIRST = [n for n in OF_OPTIMIZERS if "_first_" in n]
SECOND = [n for n in OF_OPTIMIZERS if "_second_" in n]

cases = given(
    n=st.sampled_from(SIZES),
    seed=st.integers(0, 2**32),
    special=st.sampled_from([0.0, 0.3]),
    t=st.sampled_from([0, 3, 1000]),
    grad_factor=st.sampled_from([1.0, 0.37, -2.0]),
    in_place=st.booleans(),
)


def test_every_kernel_of_the_cpu_is_tested_here():
    """One pass, first or second: each kernel of an optimizer is one of them."""
    assert {*ONE_PASS, *FIRST, *SECOND} == set(OF_OPTIMIZERS)
    assert len(ONE_PASS) >= 20
    assert len(FIRST) >= 6
    assert len(SECOND) >= 8


def make(name, n, *, seed=0, special=0.0, t=3):
    """A problem for the CPU and the kernel's inputs, by name."""
    kernel = KERNELS[name]
    this = _problems.problem(kernel["cpu"], [n], seed=seed, special=special, t=t)
    names = _problems.operand_names(kernel["cpu"])
    dtypes = {operand["name"]: _tpc_kernels.DTYPES[operand["dtype"]] for operand in kernel["inputs"]}
    for operand, operand_name in zip(this.operands, names, strict=True):
        operand[0] = operand[0].to(dtypes.get(operand_name, torch.float32))
    return this, {operand_name: operand[0] for operand, operand_name in zip(this.operands, names, strict=True)}


def assert_is(outputs, this):
    """The kernel's outputs are the CPU's operands, and the bf16 copy is that of the parameter."""
    for name, (operand,) in zip(_problems.operand_names(this.kernel), this.operands, strict=True):
        if name in outputs:
            assert_same_bits(outputs[name], operand, name)
    if "param_bf16" in outputs:
        assert_same_bits(outputs["param_bf16"], outputs["param"].bfloat16(), "param_bf16")


def step_on_cpu(this, **options):
    """One step on a copy."""
    stepped = this.clone()
    with flushing():
        _problems.step(_core.isas()[0], stepped, **options)
    return stepped


@pytest.mark.parametrize("name", ONE_PASS)
@cases
@settings(max_examples=12)
def test_step_has_the_bits_of_the_cpu(name, n, seed, special, t, grad_factor, in_place):
    """Also with values that are not finite, and in place."""
    this, inputs = make(name, n, seed=seed, special=special, t=t)
    inputs["scalars"] = scalars(this.kernel, t + 1, grad_factor)
    outputs = _tpc_kernels.run(name, inputs, n, seed=seed, in_place=in_place)
    assert_is(outputs, step_on_cpu(this, grad_factor=grad_factor))


@pytest.mark.parametrize("name", [name for name in ONE_PASS if name.endswith("_f32")])
def test_step_is_the_definition(name):
    """Several steps stay within a few roundings of the definition in double."""

    def take(this):
        names = _problems.operand_names(this.kernel)
        inputs = {operand_name: operand[0] for operand_name, operand in zip(names, this.operands, strict=True)}
        inputs["scalars"] = scalars(this.kernel, float(this.steps[0]) + 1, 1.0)
        outputs = _tpc_kernels.run(name, inputs, this.operands[0][0].numel())
        for operand_name, operand in zip(names, this.operands, strict=True):
            operand[0] = outputs.get(operand_name, operand[0])
        this.steps[0] += 1

    _problems.check_against_reference(KERNELS[name]["cpu"], take, make(name, 1000)[0], n_steps=3)


def measure_on_cpu(this, grad_factor):
    """The first pass on a copy: the copy, and the two sums of squares."""
    measured = this.clone()
    tensor_list = _core.TensorList(_core.isas()[0], torch.Tensor, True)
    assert measured.extend(tensor_list) == []
    with flushing():
        return measured, tensor_list.measure(1, grad_factor)[0]


@pytest.mark.parametrize("name", FIRST)
@cases
@settings(max_examples=8)
def test_first_pass(name, n, seed, special, t, grad_factor, in_place):
    """The moments have the CPU's bits; the partial sums add up to its sums, where float can hold them."""
    this, inputs = make(name, n, seed=seed, special=special, t=t)
    inputs["scalars"] = scalars(this.kernel, t + 1, grad_factor)
    outputs = _tpc_kernels.run(name, inputs, n, seed=seed, in_place=in_place)
    measured, sums = measure_on_cpu(this, grad_factor)
    assert_is(outputs, measured)
    for partials, want in zip([v for k, v in outputs.items() if k.endswith("_sums")], sums, strict=True):
        got = float(partials.double().sum())
        assert not want < 1e38 or abs(got - want) <= SUM_BOUND * want + LOST_SQUARE * n
        assert np.isfinite(want) or not np.isfinite(got)


def trust(kernel, norm_p, norm_g):
    """The ratio of LAMB or LARS by its definition, for the hyper-parameters of the tests."""
    h = dict(zip(_core.describe_kernel(kernel)["hyper"], _problems.hyper_of(kernel), strict=True))
    if norm_p == 0 or norm_g == 0:
        return 1.0
    if kernel.startswith("lamb"):
        return norm_p / norm_g
    return h["trust_coeff"] * norm_p / (norm_g + h["weight_decay"] * norm_p + h["eps"])


@pytest.mark.parametrize("name", SECOND)
@cases
@settings(max_examples=8)
def test_second_pass_has_the_bits_of_the_cpu(name, n, seed, special, t, grad_factor, in_place):
    """Given the same norms."""
    this, inputs = make(name, n, seed=seed, special=special, t=t)
    norm_p, norm_g = np.random.default_rng(seed).uniform(0.5, 2, 2)
    inputs["scalars"] = scalars(this.kernel, t + 1, grad_factor)
    inputs["ratio"] = torch.tensor([trust(this.kernel, norm_p, norm_g)], dtype=torch.float64).float()
    outputs = _tpc_kernels.run(name, inputs, n, seed=seed, in_place=in_place)
    measurement = [(norm_p * norm_p, norm_g * norm_g)]
    # The root of a square may be off by a rounding in double, which shows in float once in 2^29 times.
    assert_is(outputs, step_on_cpu(this, grad_factor=grad_factor, measurement=measurement))


def ratio_of(kernel, sums_p, sums_g, hyper=None):
    """What the kernel between the passes makes of partial sums."""
    name = kernel.split("_")[0]
    other = {"lamb": "update_sums", "lars": "grad_sums"}[name]
    constants = _core.kernel_constants(kernel, hyper or _problems.hyper_of(kernel), 1)
    inputs = {"param_sums": sums_p, other: sums_g, "scalars": torch.tensor([*constants, 1.0])}
    return float(_tpc_kernels.run(f"{name}_ratio_f32", inputs, 1)["ratio"])


@pytest.mark.parametrize("kernel", ["lamb", "lars"])
@given(n=st.integers(1, 300), seed=st.integers(0, 2**32), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
@settings(max_examples=10)
def test_ratio(kernel, n, seed, scale):
    """Within a few roundings of the definition, whatever the size of the sums."""
    generator = np.random.default_rng(seed)
    sums_p, sums_g = torch.from_numpy(generator.uniform(0, scale, (2, n)).astype(np.float32))
    want = trust(kernel, float(sums_p.double().sum()) ** 0.5, float(sums_g.double().sum()) ** 0.5)
    assert ratio_of(kernel, sums_p, sums_g) == pytest.approx(want, rel=8 * 2.0**-24)


@pytest.mark.parametrize("kernel", ["lamb", "lars"])
def test_ratio_of_special_norms(kernel):
    """1 where a norm is zero or nothing is adapted; NaN stays NaN; clipped at 1 where that is asked for."""
    zero, one, nan = torch.zeros(3), torch.ones(3), torch.tensor([1.0, torch.nan])
    assert ratio_of(kernel, zero, one) == 1
    assert ratio_of(kernel, one, zero) == 1
    assert np.isnan(ratio_of(kernel, nan, one))
    assert np.isnan(ratio_of(kernel, one, nan))
    names = _core.describe_kernel(kernel)["hyper"]
    hyper = dict(zip(names, _problems.hyper_of(kernel), strict=True))
    unadapted = {**hyper, "weight_decay": 0.0}
    assert ratio_of(kernel, 4 * one, one, list(unadapted.values())) == 1
    if "trust_clip" in hyper:
        clipped = {**hyper, "trust_clip": 1.0}
        assert ratio_of(kernel, 1e6 * one, one, list(clipped.values())) == 1
        assert np.isnan(ratio_of(kernel, nan, one, list(clipped.values())))
        small = ratio_of(kernel, 1e-9 * one, one, list(clipped.values()))
        assert small == pytest.approx(trust(kernel, 3e-9**0.5, 3**0.5) / hyper["lr"], rel=8 * 2.0**-24)


@pytest.mark.parametrize("kernel", _core.kernels())
def test_constants_are_those_of_the_step(kernel):
    """One float a constant; a change of the learning rate or of the step shows in them, and the same input does not."""
    described = _core.describe_kernel(kernel)
    hyper = _problems.hyper_of(kernel)
    constants = _core.kernel_constants(kernel, hyper, 3)
    assert constants == [float(np.float32(c)) for c in constants]
    assert constants == _core.kernel_constants(kernel, hyper, 3)
    for i, name in enumerate(described["hyper"]):
        changed = [h * 0.5 + 0.25 if i == j else h for j, h in enumerate(hyper)]
        shows = name not in {"bias_correction", "grad_averaging", "always_adapt", "trust_clip"}
        assert (_core.kernel_constants(kernel, changed, 3) != constants) or not shows, name
    with pytest.raises(ValueError, match="hyper"):
        _core.kernel_constants(kernel, hyper[:-1], 3)


def test_constants_of_adamw():
    """In the order that tpc_kernels/adamw.h reads."""
    lr, beta1, beta2, eps, decay, t = 0.01, 0.9, 0.999, 1e-8, 0.1, 5
    want = [beta1, 1 - beta1, beta2, 1 - beta2, eps, lr * decay, lr / (1 - beta1**t), (1 - beta2**t) ** -0.5]
    assert _core.kernel_constants("adamw", [lr, beta1, beta2, eps, decay], t) == [float(np.float32(x)) for x in want]
