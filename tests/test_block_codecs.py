"""Moments in blocks of 256 elements: what codes mean, how numbers become codes, on every build."""

import math

import _stored
import numpy as np
import pytest
import torch
from _cases import for_all
from _stored import BLOCK, BLOCK_CODECS, Engine, Stored

from gaudi3_rt import _core

every_codec = pytest.mark.parametrize("codec", BLOCK_CODECS)


def decoded(isa, codec, codes, scales):
    """Values of codes that share their scales."""
    repeated = torch.tensor(scales, dtype=torch.float32).repeat(-(-len(codes) // BLOCK), 1)
    return _stored.Engine(isa).load(Stored(codec, torch.from_numpy(codes).view(torch.int8), repeated)).double().numpy()


@for_all(largest=[1.0, 3.7, 1e-30, 3e38], octaves=[1, 2, 5, 16, 32])
def test_int8_codes_mean_what_the_header_says(isa, largest, octaves):
    """All codes, of either sign, against the words in the header."""
    codes = np.arange(256, dtype=np.uint8)
    per_octave = 254 // octaves
    want, bound = _stored.model_of_int8(codes.astype(float), (np.float32(largest), per_octave), 255)
    got = decoded(isa, "int8_block_positive", codes, [largest, per_octave])
    assert (np.abs(got - want) <= bound).all()
    assert (np.diff(got) > 0).all()
    per_octave = 126 // octaves
    want, bound = _stored.model_of_int8((codes & 127).astype(float), (np.float32(largest), per_octave), 127)
    got = decoded(isa, "int8_block", codes, [largest, per_octave])
    assert (np.abs(got - np.where(codes > 127, -want, want)) <= bound).all()
    assert (np.signbit(got) == (codes > 127)).all()


@pytest.mark.parametrize("scale", [1.0, 2.0**-100, 2.0**90])
def test_fp8_codes_are_torchs_numbers(isa, scale):
    """Codes are torch's float8 numbers (of positive e4m3 their squares) times the scale; beyond the highest, it."""
    codes = np.arange(256, dtype=np.uint8)
    for codec, dtype in (("e4m3_block", torch.float8_e4m3fn), ("e5m2_block", torch.float8_e5m2)):
        info = torch.finfo(dtype)
        wide = torch.from_numpy(codes).view(dtype).double()
        wide = torch.where(wide.isfinite(), wide, info.max * torch.where(torch.from_numpy(codes) > 127, -1.0, 1.0))
        assert np.array_equal(decoded(isa, codec, codes, [scale]), wide.numpy() * scale)
        power = 2 if dtype is torch.float8_e4m3fn else 1
        got = decoded(isa, f"{codec}_positive", codes[:128], [scale])
        assert np.array_equal(got, wide[:128].numpy() ** power * scale)


@every_codec
@for_all(kind=_stored.KINDS)
def test_numbers_are_stored_as_one_of_the_codes_beside_them(isa, codec, kind):
    """Never further than one distance of codes; zero as zero, positive numbers never as zero."""
    _stored.check_blocks(Engine(isa), codec, kind)


@pytest.mark.parametrize("codec", ["int8_block", "int8_block_positive"])
def test_the_largest_is_exact_whatever_it_draws(isa, codec):
    """Also where the random number is the highest or lowest of all and the largest times its reciprocal is not 1."""
    numbers = _stored.random_numbers(2**21, t=1.0, operand=3)
    places = np.concatenate([np.flatnonzero(numbers == extreme)[:3] for extreme in (0, 65535)])
    assert {0, 65535} == set(numbers[places])
    for place in places:
        base = int(place) // BLOCK * BLOCK
        for largest in torch.linspace(1, 2, 50):
            values = torch.full((BLOCK,), 0.6) * largest
            values[place - base] = largest
            stored = Engine(isa).store(codec, values, t=1.0, operand=3, elements=(base, 2**62, 0))
            assert Engine(isa).load(stored)[place - base] == largest


@every_codec
@pytest.mark.parametrize("kind", ["usual", "three decades"])
def test_the_expected_value_is_the_number(codec, kind):
    """What is stored is right on average."""
    _stored.check_expected_value(Engine(_core.isas()[0]), codec, kind)


@every_codec
@pytest.mark.parametrize("kind", _stored.KINDS)
@pytest.mark.parametrize("flush", [False, True])
def test_bits_do_not_depend_on_the_build(codec, kind, flush):
    """Codes, scales and what is read from them are equal on all builds, with denormals kept or flushed."""
    values = _stored.gradients(kind, 3000, positive=codec.endswith("positive"))
    usual = Engine("scalar").store(codec, values, t=4.0)
    torch.set_flush_denormal(flush)
    want = Engine("scalar").store(codec, values, t=4.0)
    if kind in {"usual", "three decades", "all equal", "huge", "mostly zero", "zero"}:
        assert want.same(usual), "flushing changes what is stored of normal numbers"
    for isa in _core.isas():
        got = Engine(isa).store(codec, values, t=4.0)
        assert got.same(want), isa
        read, expected = Engine(isa).load(got), Engine("scalar").load(got)
        assert (_stored.patterns(read) == _stored.patterns(expected)).all(), isa


@every_codec
@for_all(bad=[math.nan, math.inf, -math.inf], place=[0, 255, 300, 767, 900])
def test_what_is_not_finite_makes_its_block_nan(isa, codec, bad, place):
    """All of its block, so that it is not overlooked, and no element of another."""
    values = _stored.gradients("usual", 1000, positive=codec.endswith("positive"))
    want = Engine(isa).store(codec, values)
    dirty = values.clone()
    dirty[place] = bad
    got = Engine(isa).store(codec, dirty)
    read = Engine(isa).load(got)
    inside = torch.arange(1000) // BLOCK == place // BLOCK
    assert read[inside].isnan().all()
    assert torch.equal(read[~inside], Engine(isa).load(want)[~inside])


@every_codec
@for_all(n=[0, 1, 2, 255, 256, 257, 511, 512, 513, 769])
def test_ragged_ends(isa, codec, n):
    """A tensor that ends early has the whole blocks of a longer one, and its own last; nothing is written behind."""
    values = _stored.gradients("three decades", 1024, positive=codec.endswith("positive"))
    got = Engine(isa).store(codec, values[:n].clone(), t=2.0)
    whole = n // BLOCK * BLOCK
    assert got.part(0, whole).same(Engine(isa).store(codec, values, t=2.0).part(0, whole))
    rest = Engine(isa).store(codec, values[whole:n].clone(), t=2.0, elements=(whole, 2**40, 0))
    assert got.part(whole, n).same(rest)
    assert Engine(isa).load(got).isfinite().all()
    buffer = _stored.empty(codec, 1024)
    clean = _stored.empty(codec, 1024)
    _core.encode(isa, torch.Tensor, codec, buffer.data[:n], buffer.second[: -(-n // BLOCK)], values[:n].clone(), t=2.0)
    assert torch.equal(buffer.data[n:], clean.data[n:])
    assert torch.equal(buffer.second[-(-n // BLOCK) :], clean.second[-(-n // BLOCK) :])


def test_codec_descriptions():
    """Bytes of an element and besides it, as the docs state them."""
    sizes = {codec: (d["bytes"], d["second_bytes"]) for codec in BLOCK_CODECS for d in [_core.describe_codec(codec)]}
    assert {size for codec, size in sizes.items() if "int8" in codec} == {(1, 8)}
    assert {size for codec, size in sizes.items() if "int8" not in codec} == {(1, 4)}


@pytest.mark.parametrize("codec", BLOCK_CODECS)
def test_storing_leaves_the_fpu_to_others(isa, codec):
    """What long doubles are computed with is free again; MMX instructions would keep it."""
    Engine(isa).store(codec, torch.ones(BLOCK + 9), t=1.0)
    assert np.longdouble(7) / np.longdouble(2) == np.longdouble("3.5")
