"""FusedAdamW takes the update of torch.optim.AdamW for every option, over hundreds of steps."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.optim._batch import COMPOSITES

STEPS = 300
SHAPES = [(33, 17), (64,), (), (5, 1, 3)]

OPTIONS = {
    "defaults": {},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "amsgrad and maximize": {"amsgrad": True, "maximize": True},
    "no weight decay": {"weight_decay": 0.0},
    "large weight decay": {"weight_decay": 0.5},
    "large eps": {"eps": 1e-2},
    "betas": {"betas": (0.5, 0.95)},
    "betas of zero": {"betas": (0.0, 0.0), "eps": 1e-3},
    "tensor lr": {"lr": torch.tensor(3e-3)},
    "tensor betas": {"betas": (torch.tensor(0.8), torch.tensor(0.98))},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_same_update_for_every_option(options):
    """After 300 steps we are near torch in double, and torch's own rounding explains the rest of our distance to it.

    torch multiplies parameters by 1 - lr * wd, rounded to float32: an error of up to 2^-25 of the parameter that is the
    same in every step and so adds up. We subtract lr * wd * p inside the update and do not have it. What remains is
    one rounding of the parameter a step on either side, whose sum over 300 steps grows with their square root.
    """
    lr = {"lr": 3e-3} if "lr" not in options else {}
    ours, theirs = twins()
    start, exact = copy.deepcopy(ours), [torch.nn.Parameter(p.detach().double()) for p in ours]
    a, b = FusedAdamW(ours, **lr, **options), torch.optim.AdamW(theirs, **lr, **options)
    c = torch.optim.AdamW(exact, **lr, **{k: v for k, v in options.items() if not torch.is_tensor(v)})
    if "lr" in options:
        c.param_groups[0]["lr"] = float(options["lr"])
    for step in range(STEPS):
        set_grads(step, ours, theirs, exact)
        a.step()
        b.step()
        c.step()
    largest = max(float(p.detach().abs().max()) for p in start)
    drift = STEPS * 2**-25 * largest * (options.get("weight_decay", 1) > 0)
    rounding = 3 * STEPS**0.5 * 2**-24 * largest
    assert distance(ours, theirs) < drift + rounding
    if not torch.is_tensor(options.get("betas", (0,))[0]):  # given as float32 tensors, betas are other numbers
        assert distance(ours, exact) < rounding
    assert distance(ours, start) > 100 * (drift + rounding)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_same_update_for_tiny_and_huge_gradients(scale):
    """Gradients near eps and far from it: the place of eps in the formula decides the size of the step."""
    ours, theirs = twins()
    exact = [torch.nn.Parameter(p.detach().double()) for p in ours]
    start = copy.deepcopy(ours)
    classes = (FusedAdamW, ours), (torch.optim.AdamW, theirs), (torch.optim.AdamW, exact)
    optimizers = [cls(params, weight_decay=0) for cls, params in classes]
    for step in range(50):
        set_grads(step, ours, theirs, exact, scale=scale)
        for optimizer in optimizers:
            optimizer.step()
    bound = 3 * 50**0.5 * 2**-24 * 4
    assert distance(ours, theirs) < bound
    assert distance(ours, exact) < bound
    assert distance(ours, start) > 0.9 * distance(exact, start)


@given(
    lr=st.floats(1e-6, 1e-1),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.5, 0.9999),
    eps=st.floats(1e-10, 1e-2),
    weight_decay=st.floats(0, 1),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_same_update_for_any_numbers(lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, seed):
    """Whatever the hyper-parameters, ten steps differ by less than a thousandth of what they move."""
    options = {
        "lr": lr,
        "betas": (beta1, beta2),
        "eps": eps,
        "weight_decay": weight_decay,
        "amsgrad": amsgrad,
        "maximize": maximize,
    }
    ours, theirs = twins(seed, shapes=[(37,)])
    start = copy.deepcopy(ours)
    a, b = FusedAdamW(ours, **options), torch.optim.AdamW(theirs, **options)
    for step in range(10):
        set_grads(seed + step, ours, theirs)
        a.step()
        b.step()
    # Torch rounds the parameter twice and the decay factor once a step, we once; and some parts of the movement.
    bound = 40 * 2**-24 * float(start[0].detach().abs().max()) + 1e-4 * distance(ours, start)
    assert distance(ours, theirs) <= bound


def test_groups_keep_their_own_values():
    """Each group's lr, decay, betas and flags are used for its parameters; all groups share one step call."""
    ours, theirs = twins()

    def groups(params):
        return [
            {"params": params[:1], "lr": 1e-2, "weight_decay": 0.0},
            {"params": params[1:3], "betas": (0.7, 0.9), "amsgrad": True},
            {"params": params[3:], "maximize": True, "eps": 1e-3},
        ]

    a, b = FusedAdamW(groups(ours)), torch.optim.AdamW(groups(theirs))
    for step in range(100):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
        if step == 50:
            for optimizer in (a, b):
                optimizer.param_groups[0]["lr"] = 1e-3
    assert distance(ours, theirs) < 100 * 2**-24 * 4


def test_parameters_count_their_own_steps():
    """A parameter that gets its first gradient later has its own bias correction."""
    ours, theirs = twins()
    a, b = FusedAdamW(ours, lr=1e-2), torch.optim.AdamW(theirs, lr=1e-2)
    for step in range(60):
        set_grads(step, ours, theirs)
        for params in (ours, theirs):
            if step < 20:
                params[0].grad = None
            if step % 3:
                params[2].grad = None
        a.step()
        b.step()
    assert [float(a.state[p]["step"]) for p in ours] == [float(b.state[p]["step"]) for p in theirs] == [40, 60, 20, 60]
    assert distance(ours, theirs) < 100 * 2**-24 * 4


def test_closure_add_param_group_hooks_and_zero_grad():
    """The rest of an optimizer's interface is torch's own."""
    ours, theirs = twins()
    calls = []
    for params, cls in ((ours, FusedAdamW), (theirs, torch.optim.AdamW)):
        optimizer = cls(params[:2], lr=1e-2)
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
    assert distance(ours, theirs) < 100 * 2**-24 * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_are_updated_in_float_and_rounded_once(dtype):
    """One step from random state is the definition in double, rounded to nearest: within half a unit of the storage."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(20_000, generator=generator).to(dtype))
    p.grad = torch.randn(20_000, generator=generator).to(dtype)
    optimizer = FusedAdamW([p], lr=1e-2)
    optimizer.step()
    optimizer.state[p]["exp_avg"].copy_(torch.randn(20_000, generator=generator).to(dtype) * 0.1)
    optimizer.state[p]["exp_avg_sq"].copy_((torch.rand(20_000, generator=generator) + 0.1).to(dtype))
    state = optimizer.state[p]
    arrays = [t.detach().double().numpy() for t in (p, p.grad, state["exp_avg"], state["exp_avg_sq"])]
    _core.reference("adamw", [1e-2, 0.9, 0.999, 1e-8, 1e-2], 2.0, arrays)
    optimizer.step()
    for got, exact in zip((p, state["exp_avg"], state["exp_avg_sq"]), (arrays[0], arrays[2], arrays[3]), strict=True):
        exact_tensor = torch.from_numpy(exact)
        exponent = exact_tensor.abs().log2().floor().clamp(min=-14)  # below, float16 is denormal
        half_unit = torch.finfo(dtype).eps / 2 * 2**exponent
        # The arithmetic in float32 may move a value that is nearly a tie to the other side.
        assert ((got.detach().double() - exact_tensor).abs() <= half_unit + 1e-6).all()
        assert (got.detach() == exact_tensor.to(dtype)).double().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_composite_has_the_formula_of_the_kernel(dtype, amsgrad):
    """The update in torch operations, for devices without a kernel, is the definition to within its own rounding."""
    kernel = "adamw_amsgrad" if amsgrad else "adamw"
    generator = torch.Generator().manual_seed(1)
    n_states = 3 if amsgrad else 2
    tensors = [torch.rand(1000, generator=generator).to(dtype) for _ in range(2 + n_states)]
    arrays = [t.double().numpy().copy() for t in tensors]
    hyper = [1e-2, 0.9, 0.999, 1e-8, 0.1]
    grad = tensors[1].to(torch.promote_types(dtype, torch.float32))
    COMPOSITES[kernel](hyper, 7.0, tensors[0], grad, tensors[2:])
    _core.reference(kernel, hyper, 7.0, arrays)
    unit = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    for got, exact in zip(tensors, arrays, strict=True):
        torch.testing.assert_close(got.double(), torch.from_numpy(exact), rtol=unit, atol=unit * 1e-2)
