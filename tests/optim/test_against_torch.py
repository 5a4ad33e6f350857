"""Every optimizer takes the update of its torch class for every option, over hundreds of steps."""

import copy

import _problems
import pytest
import torch
from _optimizers import EVERY_KERNEL, EVERY_OPTION, every_class, every_kernel, every_once_rounded, every_option
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedLAMB, FusedLARS, FusedLion, FusedSGD
from gaudi3_rt.optim._elsewhere import COMPOSITES

SHAPES = [(33, 17), (64,), (), (5, 1, 3)]


def twins(seed=0, dtype=torch.float32, shapes=SHAPES):
    """Two lists of equal parameters."""
    generator = torch.Generator().manual_seed(seed)
    first = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    return first, copy.deepcopy(first)


def set_grads(seed, *lists, scale=1.0, dtype=None):
    """The same random gradients for each list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            grad = torch.randn(p.shape, generator=generator) * scale
            p.grad = grad.to(dtype or p.dtype)


def distance(ours, theirs):
    """Largest absolute difference over two lists of tensors."""
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def test_the_table_has_every_kernel():
    """An optimizer cannot be added without its rows in the table that these tests run over."""
    kernels = set()
    for case in EVERY_KERNEL.values():
        optimizer = case.make([torch.nn.Parameter(torch.ones(1))])
        kernels.add(optimizer._kernel(optimizer.param_groups[0]))
    tested_elsewhere = {name for name in _core.kernels() if name == "ema" or name.startswith("muon_")}
    assert kernels == set(_core.kernels()) - tested_elsewhere


@every_option
def test_same_update_for_every_option(case):
    """After hundreds of steps we are near torch in double; torch's rounding explains the rest of our distance to it.

    With decoupled weight decay torch multiplies parameters by 1 - lr * wd, rounded to float32: an error of up to 2^-25
    of the parameter that is the same in every step and so adds up. We subtract lr * wd * p inside the update and do not
    have it. What remains is one rounding of the parameter a step on either side, whose sum over all steps grows with
    the square root of their number.
    """
    n_steps = 300 if case.ours is FusedAdamW else 100
    options = case.options
    lr = {"lr": 3e-3} if "lr" not in options else {}
    ours, theirs = twins()
    start, exact = copy.deepcopy(ours), [torch.nn.Parameter(p.detach().double()) for p in ours]
    a, b = case.make(ours, **lr), case.reference(theirs, **lr)
    c = case.theirs(exact, **lr, **{k: v for k, v in options.items() if not torch.is_tensor(v)})
    if "lr" in options:
        c.param_groups[0]["lr"] = float(options["lr"])
    for step in range(n_steps):
        set_grads(step, ours, theirs, exact)
        a.step()
        b.step()
        c.step()
    largest = max(float(p.detach().abs().max()) for p in start)
    drift = n_steps * 2**-25 * largest * (case.decays_by_factor and a.param_groups[0]["weight_decay"] > 0)
    rounding = 3 * n_steps**0.5 * 2**-24 * largest
    case.assert_close(ours, theirs, drift + rounding)
    if not torch.is_tensor(options.get("betas", (0,))[0]):  # given as float32 tensors, betas are other numbers
        case.assert_close(ours, exact, rounding)
    assert distance(ours, start) > 100 * (drift + rounding)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("name", ["AdamW, defaults", "Adam, defaults", "Adagrad, defaults"])
def test_same_update_for_tiny_and_huge_gradients(name, scale):
    """Gradients near eps and far from it: the place of eps in the formula decides the size of the step."""
    case = EVERY_OPTION[name]
    ours, theirs = twins()
    exact = [torch.nn.Parameter(p.detach().double()) for p in ours]
    start = copy.deepcopy(ours)
    optimizers = [
        case.make(ours, weight_decay=0),
        case.reference(theirs, weight_decay=0),
        case.reference(exact, weight_decay=0),
    ]
    for step in range(50):
        set_grads(step, ours, theirs, exact, scale=scale)
        for optimizer in optimizers:
            optimizer.step()
    bound = 3 * 50**0.5 * 2**-24 * 4
    assert distance(ours, theirs) < bound
    assert distance(ours, exact) < bound
    assert distance(ours, start) > 0.9 * distance(exact, start)


NUMBERS = {"lr": st.floats(1e-6, 1e-1), "weight_decay": st.floats(0, 1), "maximize": st.booleans()}
ADAM = {
    **NUMBERS,
    "betas": st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.9999)),
    "eps": st.floats(1e-10, 1e-2),
    "amsgrad": st.booleans(),
}
ANY_NUMBERS = {
    FusedAdamW: ADAM,
    FusedAdam: ADAM,
    FusedSGD: {**NUMBERS, "momentum": st.floats(0, 0.99), "dampening": st.floats(0, 1)},
    FusedLion: {**NUMBERS, "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))},
    FusedAdagrad: {
        **NUMBERS,
        "lr_decay": st.floats(0, 1),
        "initial_accumulator_value": st.floats(0, 10),
        "eps": st.floats(1e-10, 1e-2),
    },
    FusedLAMB: {
        **NUMBERS,
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.9999)),
        "eps": st.floats(1e-10, 1e-2),
        "adam_w_mode": st.booleans(),
        "bias_correction": st.booleans(),
        "grad_averaging": st.booleans(),
        "use_nvlamb": st.booleans(),
    },
    FusedLARS: {
        **NUMBERS,
        "momentum": st.floats(0, 0.99),
        "dampening": st.floats(0, 1),
        "trust_coeff": st.floats(1e-4, 1),
        "trust_clip": st.booleans(),
        "always_adapt": st.booleans(),
    },
}


@every_class
@given(data=st.data(), seed=st.integers(0, 1000))
def test_same_update_for_any_numbers(case, data, seed):
    """Whatever the hyper-parameters, ten steps differ by less than a thousandth of what they move."""
    options = data.draw(st.fixed_dictionaries(ANY_NUMBERS[case.ours]))
    ours, theirs = twins(seed, shapes=[(37,)])
    start = copy.deepcopy(ours)
    a, b = case.bare(ours, **options), case.theirs(theirs, **options)
    for step in range(10):
        set_grads(seed + step, ours, theirs)
        a.step()
        b.step()
    # Torch rounds the parameter twice and the decay factor once a step, we once; and some parts of the movement.
    bound = 40 * 2**-24 * float(start[0].detach().abs().max()) + 1e-4 * distance(ours, start)
    case.assert_close(ours, theirs, bound)


GROUPS = {  # what the second and the third group have of their own
    FusedAdamW: ({"betas": (0.7, 0.9), "amsgrad": True}, {"eps": 1e-3}),
    FusedAdam: ({"betas": (0.7, 0.9), "amsgrad": True}, {"eps": 1e-3, "decoupled_weight_decay": True}),
    FusedSGD: ({"momentum": 0.5, "dampening": 0.0, "nesterov": True}, {"momentum": 0.0}),
    FusedLion: ({"betas": (0.7, 0.9)}, {"betas": (0.5, 0.5)}),
    FusedAdagrad: ({"lr_decay": 0.5}, {"eps": 1e-3}),
    FusedLAMB: ({"betas": (0.7, 0.9), "adam_w_mode": False}, {"eps": 1e-3, "bias_correction": False}),
    FusedLARS: ({"momentum": 0.5, "nesterov": True, "lr": 0.1, "weight_decay": 0.1}, {"always_adapt": True}),
}


@every_class
def test_groups_keep_their_own_values(case):
    """Each group's numbers and flags are used for its parameters; all groups share one step call."""
    ours, theirs = twins()
    second, third = GROUPS[case.ours]

    def groups(params):
        return [
            {"params": params[:1], "lr": 1e-2, "weight_decay": 0.0},
            {"params": params[1:3], **second},
            {"params": params[3:], "maximize": True, **third},
        ]

    a, b = case.bare(groups(ours)), case.theirs(groups(theirs))
    for step in range(100):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
        if step == 50:
            for optimizer in (a, b):
                optimizer.param_groups[0]["lr"] = 1e-3
    case.assert_close(ours, theirs, 100 * 2**-24 * 4)


@every_kernel
def test_parameters_count_their_own_steps(case):
    """A parameter that gets its first gradient later has its own bias correction, or first step with momentum."""
    ours, theirs = twins()
    a, b = case.make(ours, lr=1e-2), case.reference(theirs, lr=1e-2)
    for step in range(60):
        set_grads(step, ours, theirs)
        for params in (ours, theirs):
            if step < 20:
                params[0].grad = None
            if step % 3:
                params[2].grad = None
        a.step()
        b.step()
    assert [float(a.state[p]["step"]) for p in ours] == [40, 60, 20, 60]
    if case.ours is not FusedSGD:  # torch does not count its steps
        assert [float(b.state[p]["step"]) for p in theirs] == [40, 60, 20, 60]
    case.assert_close(ours, theirs, 100 * 2**-24 * 4)


@every_class
def test_closure_add_param_group_hooks_and_zero_grad(case):
    """The rest of an optimizer's interface is torch's own."""
    ours, theirs = twins()
    calls = []
    for params, make in ((ours, case.make), (theirs, case.reference)):
        optimizer = make(params[:2], lr=1e-2)
        optimizer.add_param_group({"params": params[2:], "lr": 1e-3})
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum((p * p).sum() for p in params)
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(20)]
        assert losses[-1] < losses[0]
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)
        optimizer.step()
    assert calls == ["pre", "post"] * 42
    case.assert_close(ours, theirs, 100 * 2**-24 * 4)


@every_once_rounded
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_are_updated_in_float_and_rounded_once(case, dtype):
    """One step from random state is the definition in double, rounded to nearest: within half a unit of the storage."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(20_000, generator=generator).to(dtype))
    p.grad = torch.randn(20_000, generator=generator).to(dtype)
    optimizer = case.make([p], lr=1e-2)
    optimizer.step()
    (group,) = optimizer.param_groups
    kernel = optimizer._kernel(group)
    states = [optimizer.state[p][name] for name in _core.describe_kernel(kernel)["state"]]
    for square, state in zip(_core.describe_kernel(kernel)["positive"], states, strict=True):
        noise = (
            torch.rand(20_000, generator=generator) + 0.1 if square else torch.randn(20_000, generator=generator) * 0.1
        )
        state.copy_(noise.to(dtype))
    arrays = [t.detach().double().numpy() for t in (p, p.grad, *states)]
    _core.reference(kernel, optimizer._hyper(group), 2.0, arrays)
    optimizer.step()
    for got, exact in zip((p, *states), (arrays[0], *arrays[2:]), strict=True):
        exact_tensor = torch.from_numpy(exact)
        exponent = exact_tensor.abs().log2().floor().clamp(min=-14)  # below, float16 is denormal
        half_unit = torch.finfo(dtype).eps / 2 * 2**exponent
        # The arithmetic in float32 may move a value that is nearly a tie to the other side.
        far = ~((got.detach().double() - exact_tensor).abs() <= half_unit + 1e-6)
        # Few values in so short numbers: ties of zero, where rounding decides the sign of a step, are not rare.
        assert far.sum() <= (20 if case.steps_by_sign else 0)
        assert (got.detach() == exact_tensor.to(dtype)).double().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_composite_has_the_formula_of_the_kernel(kernel, dtype):
    """The update in torch operations, for devices without a kernel, is the definition to within its own rounding."""
    generator = torch.Generator().manual_seed(1)
    names = _problems.operand_names(kernel)
    tensors = [torch.rand(1000, generator=generator).to(dtype) for _ in names]
    arrays = [t.double().numpy().copy() for t in tensors]
    hyper = [
        value if name != "eps" else 1e-8
        for name, value in zip(_core.describe_kernel(kernel)["hyper"], _problems.hyper_of(kernel), strict=True)
    ]
    grad = tensors[1].to(torch.promote_types(dtype, torch.float32))
    COMPOSITES[kernel](hyper, 7.0, tensors[0], grad, tensors[2:], lambda sums: sums)
    _core.reference(kernel, hyper, 7.0, arrays)
    unit = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    if _core.describe_kernel(kernel)["two_passes"]:
        unit *= 4  # the moments are rounded before the parameter is formed from them
    for got, exact in zip(tensors, arrays, strict=True):
        torch.testing.assert_close(got.double(), torch.from_numpy(exact), rtol=unit, atol=unit * 1e-2)
