"""TPC kernels of storage, emulated, against the CPU's codecs: equal bits, also of what is drawn."""

import _problems
import _stored
import _tpc_kernels
import numpy as np
import pytest
import torch
from _tpc_kernels import BLOCK, SIZES, assert_same_bits, flushing
from hypothesis import given, settings
from hypothesis import strategies as st

from gaudi3_rt import _core

ISA = _core.isas()[0]
BLOCK_CODECS = ["int8_block", "int8_block_positive"]
KINDS = ["usual", "wide", "tiny", "huge", "zero", "sparse", "one", "nonfinite"]
draws = dict(  # noqa: C408 (as arguments are written)
    n=st.sampled_from(SIZES),
    seed=st.integers(0, 2**63),
    t=st.integers(1, 10_000),
    number=st.integers(0, 1000),
    operand=st.sampled_from([0, 2, 3, 4]),
    base=st.sampled_from([0, 1000, 2**31 - 5, 2**32 - 100]),
)


def keys(seed, t, number, operand, base=0):
    """What a kernel draws from."""
    key0, key1, shift = _core.draw_keys(seed, t, number, operand)
    return torch.tensor(np.array([key0, key1, base, shift], np.uint32).view(np.int32))


def values(n, seed, special=0.0):
    """Random numbers of all sizes, some of them special, none denormal."""
    generator = np.random.default_rng(seed)
    x = (generator.standard_normal(n) * 10.0 ** generator.uniform(-20, 20, n)).astype(np.float32)
    specials = np.float32([x for x in _problems.SPECIAL_VALUES if x == 0 or not abs(x) < np.finfo(np.float32).tiny])
    return torch.from_numpy(np.where(generator.random(n) < special, generator.choice(specials, n), x))


@given(n=st.sampled_from(SIZES), seed=st.integers(0, 2**32))
@settings(max_examples=12)
def test_nearest(n, seed):
    """To bf16 and back."""
    x = values(n, seed, special=0.2)
    halves = _tpc_kernels.run("cast_f32_to_bf16", {"x": x}, n, seed=seed)["y"]
    assert_same_bits(halves, x.bfloat16(), "bf16")
    back = _tpc_kernels.run("cast_bf16_to_f32", {"x": halves}, n, seed=seed)["y"]
    assert_same_bits(back, halves.float(), "f32")


def encode(codec, x, draw, base=0):
    """What the CPU stores of a parameter's elements from number base on."""
    seed, t, number, operand = draw
    stored = _stored.empty(codec, x.numel())
    elements = (base, 1 << 62, 0)
    with flushing():
        _core.encode(ISA, torch.Tensor, codec, stored.data, stored.second, x, seed, float(t), number, operand, elements)
    return stored


@given(**draws)
@settings(max_examples=15)
def test_stochastic(n, seed, t, number, operand, base):
    """The CPU's bits, for any place in a parameter below 2^32."""
    x = values(n, seed % 2**32, special=0.2)
    base = min(base, 2**32 - n)
    inputs = {"x": x, "keys": keys(seed, t, number, operand, base)}
    got = _tpc_kernels.run("cast_f32_to_bf16_stochastic", inputs, n, seed=seed)["y"]
    assert_same_bits(
        got, encode("bf16_stochastic", x, (seed, t, number, operand), base).data.view(torch.bfloat16), "bf16"
    )


def block_values(kind, n, seed, *, positive):
    """Numbers of one kind, of both signs if the codec has them."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(n)
    if kind == "wide":
        x *= 10.0 ** generator.uniform(-30, 5, n)
    elif kind == "tiny":
        x = np.copysign(np.abs(x) * 1e-37 + 1.2e-38, x)
    elif kind == "huge":
        x *= 1e38
    elif kind == "zero":
        x *= 0
    elif kind == "sparse":
        x *= generator.random(n) < 0.02
    elif kind == "one":
        x = np.copysign(np.ones(n), x)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    x = np.clip(x, -3.4028235e38, np.float32(3.4028235e38))
    if kind == "nonfinite":
        x[generator.integers(n)] = generator.choice([np.inf, -np.inf, np.nan])
    return torch.from_numpy(np.abs(x) if positive else x)


@pytest.mark.parametrize("codec", BLOCK_CODECS)
@given(**draws, kind=st.sampled_from(KINDS))
@settings(max_examples=40)
def test_int8_blocks(codec, kind, n, seed, t, number, operand, base):
    """Scales and codes have the CPU's bits, of every kind of numbers, and so has what is read back."""
    positive = codec.endswith("_positive")
    x = block_values(kind, n, seed % 2**32, positive=positive)
    base = min(base, 2**32 - n)
    inputs = {"x": x, "keys": keys(seed, t, number, operand, base)}
    got = _tpc_kernels.run(f"quantise_{codec}", inputs, n, seed=seed)
    want = encode(codec, x, (seed, t, number, operand), base)
    largest, codes_per_octave = want.second.view(-1, 2).T
    assert_same_bits(got["largest"], largest.contiguous(), f"{kind}: largest")
    finite = torch.isfinite(largest)
    assert_same_bits(got["codes_per_octave"], codes_per_octave.contiguous(), f"{kind}: codes_per_octave")
    of_finite = finite.repeat_interleave(BLOCK)[:n]  # a block that is NaN is so with any codes
    assert torch.equal(got["codes"].view(torch.int8)[of_finite], want.data[of_finite]), kind

    back = _tpc_kernels.run(f"dequantise_{codec}", got, n, seed=seed)["x"]
    decoded = torch.empty(n)
    with flushing():
        _core.decode(ISA, torch.Tensor, codec, want.data, want.second, decoded)
    assert_same_bits(back, decoded, f"{kind}: read back")


@pytest.mark.parametrize("codec", BLOCK_CODECS)
def test_every_code_is_read(codec):
    """All 256 codes, for several scales, as the CPU reads them."""
    dtype = torch.uint8 if codec.endswith("_positive") else torch.int8
    codes = torch.arange(256, dtype=torch.uint8).repeat(6).view(dtype)
    largest = torch.tensor([1.0, 3.0e38, 2.0**-124, 0.3, 7e-20, 1e10])
    highest = 254 if codec.endswith("_positive") else 126
    codes_per_octave = torch.tensor([float(highest // octaves) for octaves in (1, 2, 3, 7, 16, 5)])
    inputs = {"codes": codes, "largest": largest, "codes_per_octave": codes_per_octave}
    got = _tpc_kernels.run(f"dequantise_{codec}", inputs, codes.numel())["x"]
    want = torch.empty(codes.numel())
    second = torch.stack([largest, codes_per_octave], 1).contiguous()
    with flushing():
        _core.decode(ISA, torch.Tensor, codec, codes, second, want)
    assert_same_bits(got, want, "x")


def test_keys_are_checked_by_what_they_draw():
    """Operands, steps and parameters draw differently, so that the tests above can tell them apart."""
    drawn = {
        tuple(_core.draw_keys(1, t, number, operand)) for t in (1, 2) for number in (0, 1) for operand in (0, 2, 3)
    }
    assert len(drawn) == 12
