"""Storage options: what they keep, bits that depend on nothing else, exact parameters, small updates that count."""

import copy
import io

import pytest
import torch
from _training import OPTIMIZERS, SHAPES, STORAGES, assert_same, everything, parameters, train

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW

every_storage = pytest.mark.parametrize("storage", STORAGES)


def make(storage, optimizer="AdamW", **more):
    """An optimizer with parameters of its own, equal at each call."""
    dtype, options = STORAGES[storage]
    return OPTIMIZERS[optimizer](parameters(dtype), **options, **more)


# What is kept


def bytes_per_parameter(dtype, **options):
    """Of the optimizer's state for a parameter of 1 Mi elements, the step counter left out."""
    p = torch.nn.Parameter(torch.zeros(1024, 1024, dtype=dtype))
    p.grad = torch.zeros_like(p)
    optimizer = FusedAdamW([p], **options)
    optimizer.step()
    kept = {key: value for key, value in optimizer.state[p].items() if key != "step"}
    return sum(value.numel() * value.element_size() for value in kept.values()) / p.numel()


def test_bytes_per_parameter():
    """The memory of AdamW's state, as the docs state it."""
    f32, bf16 = torch.float32, torch.bfloat16
    assert bytes_per_parameter(f32) == 8
    assert bytes_per_parameter(bf16) == 4
    assert bytes_per_parameter(f32, moments_dtype=bf16) == 4
    assert bytes_per_parameter(f32, moments_dtype=torch.int8) == 2.0625
    assert bytes_per_parameter(f32, moments_dtype=torch.float8_e4m3fn) == 2.03125
    assert bytes_per_parameter(f32, moments_dtype=torch.float8_e5m2) == 2.03125
    assert bytes_per_parameter(f32, moments_dtype=(bf16, torch.int8)) == 3.03125
    assert bytes_per_parameter(f32, moments_dtype=(f32, torch.int8)) == 5.03125
    assert bytes_per_parameter(f32, ema_decay=0.9) == 12
    assert bytes_per_parameter(bf16, rounding="stochastic") == 4
    assert bytes_per_parameter(bf16, rounding="stochastic", moments_dtype=torch.int8) == 2.0625
    assert bytes_per_parameter(bf16, master="split") == 10
    assert bytes_per_parameter(bf16, master="float32") == 12
    assert bytes_per_parameter(bf16, master="split", moments_dtype=torch.int8) == 4.0625
    assert bytes_per_parameter(bf16, master="split", ema_decay=0.9) == 14


def test_small_parameters_keep_float32_moments():
    """Below 4096 elements blocks save nothing; from there on they are used, whatever the shape."""
    params = parameters(shapes=[(4095,), (4096,), (64, 64), (1, 2, 2048), (5, 1024), (10, 500)])
    optimizer = FusedAdamW(params, moments_dtype=torch.int8)
    train(optimizer, 1)
    assert [("exp_avg_codes" in optimizer.state[p]) for p in params] == [False, True, True, True, True, True]
    assert optimizer.state[params[0]]["exp_avg"].dtype is torch.float32
    shapes = [tuple(optimizer.state[p]["exp_avg_scales"].shape) for p in params[1:]]
    assert shapes == [(16, 2), (16, 2), (1, 2, 8, 2), (5, 4, 2), (20, 2)]
    dtypes = [optimizer.state[params[1]][key].dtype for key in ("exp_avg_codes", "exp_avg_sq_codes", "exp_avg_scales")]
    assert dtypes == [torch.int8, torch.uint8, torch.float32]


# The same bits


def pickled(optimizer):
    """A copy by pickle; torch.save has a pickler of its own, and is the only one that knows float8 (torch 2.13)."""
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@every_storage
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bits_do_not_depend_on_threads_groups_copies_and_resumes(storage, optimizer):
    """Six steps give the same bytes whatever happens on the way, clipping included."""
    dtype, options = STORAGES[storage]
    options = {"max_grad_norm": 1.0, **options}
    want = OPTIMIZERS[optimizer](parameters(dtype), **options)
    torch.set_num_threads(1)
    train(want, 6)

    for n_threads, cut in ((2, 1), (8, 3)):  # groups that are cut elsewhere: parameters keep their numbers
        torch.set_num_threads(n_threads)
        params = parameters(dtype)
        got = OPTIMIZERS[optimizer]([{"params": params[:cut]}, {"params": params[cut:]}], **options)
        train(got, 6)
        assert_same(everything(got), everything(want))

    half = OPTIMIZERS[optimizer](parameters(dtype), **options)
    train(half, 3)
    for resumed in (copy.deepcopy(half), pickled(half)):
        train(resumed, 3, first=3)
        assert_same(everything(resumed), everything(want))
    params = [torch.nn.Parameter(p.detach().clone()) for group in half.param_groups for p in group["params"]]
    loaded = OPTIMIZERS[optimizer](params, **options)
    loaded.load_state_dict(copy.deepcopy(half.state_dict()))
    train(loaded, 3, first=3)
    assert_same(everything(loaded), everything(want))


def test_seeds_matter_and_nothing_else():
    """Another seed, other bits; a parameter's bits depend on its number and not on its neighbours."""
    dtype, options = STORAGES["all stochastic"]
    runs = []
    for changed in ({}, {"seed": 1}):
        optimizer = FusedAdamW(parameters(dtype), **options, **changed)
        train(optimizer, 2)
        runs.append(everything(optimizer))
    for key in ((0, "param"), (0, "exp_avg_codes"), (0, "exp_avg_sq_codes"), (2, "param")):
        assert (runs[0][key] != runs[1][key]).any()
    params = parameters(dtype)
    for p in params[1:]:
        p.requires_grad_(requires_grad=False)
    optimizer = FusedAdamW(params, **options)
    for step in range(2):
        params[0].grad = torch.randn(SHAPES[0], generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.step()
    alone = everything(optimizer)
    assert all((alone[key] == runs[0][key]).all() for key in alone if key[0] == 0)


@pytest.mark.parametrize("layout", ["transposed", "channels last", "every second", "block of a matrix"])
@pytest.mark.parametrize("storage", ["split", "master", "int8", "all stochastic", "split and e4m3fn"])
def test_layouts(storage, layout):
    """A parameter that is not contiguous is stepped like the same memory laid out plainly."""
    dtype, options = STORAGES[storage]
    (plain,) = parameters(dtype, [(64, 12, 8, 2)])
    memory = plain.detach()
    if layout == "transposed":
        other = memory.view(64, -1).clone().t()
        expected = memory.view(64, -1)
    elif layout == "channels last":
        other = memory.clone().permute(0, 3, 1, 2)
        assert other.is_contiguous(memory_format=torch.channels_last)
        expected = memory
    elif layout == "every second":
        other = memory.flatten().repeat_interleave(2)[::2]
        expected = memory.flatten()
    else:
        other = torch.cat([memory.view(96, 128)] * 2, 1)[:, :128]
        expected = memory.view(96, 128)
    p, q = torch.nn.Parameter(other), torch.nn.Parameter(expected.clone())
    a, b = FusedAdamW([p], lr=1e-2, **options), FusedAdamW([q], lr=1e-2, **options)
    for step in range(3):
        q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
        dims = {"transposed": (1, 0), "channels last": (0, 3, 1, 2)}.get(layout, tuple(range(q.ndim)))
        p.grad = q.grad.permute(dims)
        a.step()
        b.step()
    assert torch.equal(p.permute([dims.index(d) for d in range(p.ndim)]), q)
    assert p.stride() == other.stride()


def test_dtypes_may_be_mixed():
    """Float32, bfloat16, float16, empty and 0-d parameters in one optimizer, each stored as it can be."""
    shapes = [(80, 64), (80, 64), (0,), ()]

    def mixed(**options):
        params = [p.to(d) for d in (torch.float32, torch.bfloat16) for p in parameters(shapes=shapes)]
        return FusedAdamW([torch.nn.Parameter(p.detach()) for p in params], lr=1e-2, **options)

    together = mixed(master="split", moments_dtype=torch.int8, ema_decay=0.5)
    train(together, 3)
    keys = [sorted(together.state[p]) for p in together.param_groups[0]["params"]]
    assert all(("param_low" in k) == (i >= 4) for i, k in enumerate(keys))
    assert all(("exp_avg_codes" in k) == (i % 4 < 2) for i, k in enumerate(keys))
    half = FusedAdamW(parameters(torch.float16), moments_dtype=torch.int8)
    train(half, 1)
    assert {p.dtype for p in half.param_groups[0]["params"]} == {torch.float16}
    stochastic = mixed(rounding="stochastic")
    train(stochastic, 2)
    plain = mixed()
    train(plain, 2)
    for i, (p, q) in enumerate(zip(stochastic.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True)):
        assert torch.equal(p, q) or i in {4, 5, 7}, "only bfloat16 is rounded at random"
    assert not torch.equal(stochastic.param_groups[0]["params"][4], plain.param_groups[0]["params"][4])


# Exact parameters


def exact(optimizer, p):
    """The float32 number behind a bfloat16 parameter."""
    own = optimizer.state[p]
    codec, beside = ("bf16_split", "param_low") if "param_low" in own else ("bf16_master", "param_master")
    values = torch.empty(p.numel())
    _core.decode("scalar", torch.Tensor, codec, p.detach().view(torch.int16).flatten(), own[beside].flatten(), values)
    return values.view(p.shape)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("master", ["split", "float32"])
def test_exact_parameters_follow_float32_bit_for_bit(optimizer, master):
    """200 steps: the exact numbers and the moments are those of float32 training, the parameters their rounding."""
    shapes = [(60, 50), (7,), ()]
    start = parameters(torch.bfloat16, shapes)
    a = OPTIMIZERS[optimizer](start, master=master, max_grad_norm=1.0)
    b = OPTIMIZERS[optimizer]([torch.nn.Parameter(p.detach().float()) for p in start], max_grad_norm=1.0)
    train(a, 200)
    train(b, 200)
    for p, q in zip(a.param_groups[0]["params"], b.param_groups[0]["params"], strict=True):
        assert torch.equal(exact(a, p), q)
        assert ((p.float() - q).abs() <= (q.to(torch.bfloat16).float() - q).abs()).all()
        for key, value in b.state[q].items():
            assert torch.equal(a.state[p][key], value), key


# Small updates


@pytest.mark.parametrize("case", ["weight decay", "updates"])
@pytest.mark.parametrize("storage", ["bfloat16", "stochastic", "split", "master"])
def test_small_changes_are_not_lost(case, storage):
    """1000 changes, each below half a unit of a bfloat16 1.0, add up; rounding to nearest loses every one.

    Decay by lr wd = 3e-5 leaves (1 - 3e-5)^1000 = 0.97045; 1000 updates of 1e-4 leave 0.9. A stochastically rounded
    number moves by a unit u = 2^-8 with odds d / u, so after n steps of size d it deviates by sqrt(n d u), which is at
    most 0.02; the mean of 16384 of them by 1.6e-4, and 5 times that is allowed.
    """
    p = torch.nn.Parameter(torch.ones(128, 128, dtype=torch.bfloat16))
    decays = case == "weight decay"
    lr, weight_decay, want = (3e-4, 0.1, (1 - 3e-5) ** 1000) if decays else (1e-4, 0.0, 0.9)
    optimizer = FusedAdamW([p], lr=lr, weight_decay=weight_decay, **STORAGES[storage][1])
    p.grad = torch.zeros_like(p) if decays else torch.ones_like(p)
    for _ in range(1000):
        optimizer.step()
    if storage == "bfloat16":
        assert (p == 1).all()
    elif storage == "stochastic":
        assert p.detach().double().mean() == pytest.approx(want, abs=8e-4)
    else:  # 1000 roundings of a float between 0.5 and 1
        assert exact(optimizer, p).double().mean() == pytest.approx(want, abs=1000 * 2**-25)
        assert p.detach().double().mean() == pytest.approx(want, abs=2**-9)
