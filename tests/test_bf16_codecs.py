"""Parameters in bfloat16 without loss, and the random bits of stochastic rounding."""

import itertools
import math

import _stored
import numpy as np
import pytest
import torch
from _stored import BLOCK, DRAWING_CODECS, Engine, Stored

from gaudi3_rt import _core

ALL_PATTERNS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


# split and master


def test_split_is_exact(isa):
    """Every float comes back bit for bit, and the parameter alone is the nearest bfloat16."""
    _stored.check_split(Engine(isa))


@pytest.mark.parametrize("low", [-(2**15), -1, 0, 1, 2**15 - 1])
def test_a_split_parameter_that_is_written_from_outside(isa, low):
    """Any number in the parameter is read as that number, within half a unit; zero, infinity and NaN stay that."""
    param = ALL_PATTERNS.view(torch.bfloat16).float()
    got = Engine(isa).load(Stored("bf16_split", ALL_PATTERNS, torch.full((2**16,), low, dtype=torch.int16)))
    assert torch.equal(got.isnan(), param.isnan())
    assert torch.equal(got.isinf(), param.isinf())
    assert torch.equal(got.signbit()[~got.isnan()], param.signbit()[~got.isnan()])
    finite = param.isfinite()
    unit = torch.exp2(param[finite].abs().clamp(min=2.0**-126).log2().floor() - 7)
    assert ((got - param)[finite].abs() <= unit / 2).all()


def test_a_master_copy_holds_as_long_as_the_parameter_is_its_rounding(isa):
    """Every float comes back bit for bit; a parameter that was written from outside wins over its copy."""
    values = _stored.every_kind_of_float()
    stored = Engine(isa).store("bf16_master", values)
    param = stored.data.view(torch.bfloat16)
    nearest = values.to(torch.bfloat16)
    assert torch.equal(param.isnan(), nearest.isnan())
    assert torch.equal(param[~param.isnan()], nearest[~param.isnan()])
    got = Engine(isa).load(stored)
    number = ~values.isnan()
    assert (_stored.patterns(got[number]) == _stored.patterns(values[number])).all()
    assert got[~number].isnan().all()
    stored.data[::3] = torch.tensor([0, -(2**15), 0x7F80, 0x7FC0, 0x3F80, 1], dtype=torch.int16).repeat(10_000)[
        : len(stored.data[::3])
    ]
    changed = torch.from_numpy(_stored.patterns(param.float()) != _stored.patterns(nearest.float()))
    assert changed.sum() > len(values) / 4
    got = Engine(isa).load(stored)
    want = torch.where(changed, param.float(), values)
    assert torch.equal(got.isnan(), want.isnan())
    number = ~want.isnan()
    assert (_stored.patterns(got[number]) == _stored.patterns(want[number])).all()


# Stochastic rounding


def test_stochastic_rounding_goes_to_a_neighbour(isa):
    """Bfloat16 numbers stay, infinities and NaNs too; all others go to one of the two beside them."""
    _stored.check_stochastic_neighbours(Engine(isa))


def test_the_odds_are_the_fraction(isa):
    """For fractions from the smallest to the largest, of either sign."""
    _stored.check_stochastic_odds(Engine(isa))


def assert_independent(a, b, what):
    """No bit of one sequence tells anything of a bit of the other.

    Of n pairs of independent bits n / 2 are equal, give or take sqrt(n) / 2; of the 256 pairs of places each is
    allowed 5.5 times that, which chance exceeds once in 10^5 calls.
    """
    n = len(a)
    bits = [(x[:, None] >> np.arange(16) & 1) * 2.0 - 1 for x in (a, b)]
    excess = np.abs(bits[0].T @ bits[1])
    assert excess.max() <= 5.5 * math.sqrt(n), f"{what}: bits {np.argwhere(excess > 5.5 * math.sqrt(n))[:3].tolist()}"


N = 2**15
BASE = {"seed": 1, "t": 1.0, "number": 0, "operand": 0}
CHANGED = {
    "seed": [{"seed": 0}, {"seed": 2}, {"seed": 2**63}],
    "step": [{"t": 2.0}, {"t": 3.0}, {"t": 1001.0}, {"t": 2.0**24}],
    "parameter": [{"number": 1}, {"number": 2}, {"number": 1000}],
    "operand": [{"operand": 2}, {"operand": 3}, {"operand": 4}],
    "parameter and operand": [{"number": 1, "operand": 3}, {"number": 1, "operand": 2}],
    "seed and step": [{"seed": 0, "t": 2.0}, {"seed": 2, "t": 0.0}],
    "step and parameter": [{"t": 0.0, "number": 1}, {"t": 2.0, "number": 2**64 - 1}],
    "element": [{"elements": (2**32, 2**62, 0)}, {"elements": (2**33, 2**62, 0)}, {"elements": (2**20, 2**62, 0)}],
}


@pytest.fixture(scope="module")
def base_numbers():
    """Those of the first elements of the first parameter in the first step."""
    return _stored.random_numbers(N, **BASE)


@pytest.mark.parametrize("what", CHANGED)
def test_other_sources_have_other_numbers(base_numbers, what):
    """Seed, step, parameter, operand and element each change the numbers beyond recognition, also at a shift."""
    for source in CHANGED[what]:
        other = _stored.random_numbers(N, **{**BASE, **source})
        for shift in (0, 1, 2, 16, 256):
            assert_independent(base_numbers[: N - shift], other[shift:], f"{source} at a shift of {shift}")


def test_operands_of_an_element_have_independent_numbers():
    """Each of the four gets 16 bits of its own."""
    numbers = {operand: _stored.random_numbers(N, **{**BASE, "operand": operand}) for operand in (0, 2, 3, 4)}
    for a, b in itertools.combinations(numbers, 2):
        assert_independent(numbers[a], numbers[b], f"operands {a} and {b}")


def test_neighbours_have_independent_numbers(base_numbers):
    """Elements at any small distance and at those of rows and blocks."""
    for distance in (1, 2, 3, 4, 7, 8, 16, 64, 255, 256, 512, 768, 4096):
        assert_independent(base_numbers[:-distance], base_numbers[distance:], f"distance {distance}")


def test_one_element_has_independent_numbers_in_successive_steps():
    """The mean over steps is what makes small updates count, so an element's numbers are independent in time."""
    taken = [_stored.random_numbers(64, **{**BASE, "t": float(t)}) for t in range(1, 513)]
    steps = np.stack(taken)
    for distance in (1, 2, 3, 10):
        assert_independent(steps[:-distance].ravel(), steps[distance:].ravel(), f"{distance} steps")


def test_numbers_are_uniform(base_numbers):
    """Upper and lower byte: chi-squared over 256 bins has mean 255 and deviation sqrt(510); 5 of them are allowed."""
    for byte in (base_numbers >> 8, base_numbers & 0xFF):
        counts = np.bincount(byte, minlength=256)
        chi_squared = ((counts - N / 256) ** 2 / (N / 256)).sum()
        assert abs(chi_squared - 255) <= 5 * math.sqrt(510)


# Equal bits


def values_of(codec, n):
    """Floats that a codec may be given, and that it does not store exactly."""
    return _stored.gradients("three decades", n, positive=codec.endswith("positive"))


@pytest.mark.parametrize("codec", DRAWING_CODECS)
@pytest.mark.parametrize("flush", [False, True])
def test_bits_do_not_depend_on_the_build(codec, flush):
    """All builds store the same, for every operand."""
    torch.set_flush_denormal(flush)
    for operand in (0, 2, 3, 4):
        source = {"seed": 3, "t": 7.0, "number": 5, "operand": operand}
        want = Engine("scalar").store(codec, values_of(codec, 1777), **source)
        for isa in _core.isas():
            assert Engine(isa).store(codec, values_of(codec, 1777), **source).same(want), isa


@pytest.mark.parametrize("codec", DRAWING_CODECS)
def test_a_part_is_stored_as_in_the_whole(isa, codec):
    """Rows of a tensor (Shard(0)), stored alone but with the numbers of their elements, have the bits of the whole."""
    values = values_of(codec, 4096)
    whole = Engine(isa).store(codec, values, t=3.0)
    cuts = [0, 256, 1024, 1792, 4096] if codec != "bf16_stochastic" else [0, 1, 300, 1023, 1793, 4096]
    for begin, end in itertools.pairwise(cuts):
        part = Engine(isa).store(codec, values[begin:end].clone(), t=3.0, elements=(begin, 2**62, 0))
        assert part.same(whole.part(begin, end))


@pytest.mark.parametrize("codec", DRAWING_CODECS)
@pytest.mark.parametrize("columns", [(0, 256), (256, 768), (0, 768)])
def test_columns_are_stored_as_in_the_whole(isa, codec, columns):
    """Columns of a matrix (Shard(1)): their elements lie in runs, at the distance of the matrix's rows."""
    rows, width = 9, 768
    values = values_of(codec, rows * width)
    whole = Engine(isa).store(codec, values, t=3.0)
    begin, end = columns
    shard = values.view(rows, width)[:, begin:end].contiguous().view(-1)
    part = Engine(isa).store(codec, shard, t=3.0, elements=(begin, end - begin, width))
    assert torch.equal(part.data.view(rows, -1), whole.data.view(rows, width)[:, begin:end])
    if part.second is not None:
        blocks = whole.second.view(rows, width // BLOCK, -1)[:, begin // BLOCK : end // BLOCK]
        assert torch.equal(part.second.view(blocks.shape), blocks)


def test_short_runs(isa):
    """Runs of any length, also below a register, give every element its own number."""
    width = 37
    values = values_of("bf16_stochastic", 50 * width)
    whole = Engine(isa).store("bf16_stochastic", values).data.view(50, width)
    for begin, end in ((0, 1), (3, 8), (30, 37)):
        shard = values.view(50, width)[:, begin:end].contiguous().view(-1)
        part = Engine(isa).store("bf16_stochastic", shard, elements=(begin, end - begin, width))
        assert torch.equal(part.data.view(50, -1), whole[:, begin:end])


def test_elements_beyond_32_bits(isa):
    """Where the lower half of the element's number wraps, inside a tile, the upper half goes on."""
    values = values_of("bf16_stochastic", 1000)
    for begin in (2**32 - 300, 2**40 - 700):
        whole = Engine(isa).store("bf16_stochastic", values, elements=(begin, 2**62, 0)).data
        cut = 2**32 - begin % 2**32
        first = Engine(isa).store("bf16_stochastic", values[:cut].clone(), elements=(begin, 2**62, 0)).data
        second = Engine(isa).store("bf16_stochastic", values[cut:].clone(), elements=(begin + cut, 2**62, 0)).data
        start = Engine(isa).store("bf16_stochastic", values[cut:].clone()).data
        assert torch.equal(whole, torch.cat([first, second]))
        assert not torch.equal(second, start)


# Bad input


@pytest.mark.parametrize(
    ("codec", "data", "second", "message"),
    [
        ("nope", torch.int8, (2, 2), "unknown codec 'nope'; known: f32, bf16"),
        ("int8_block", torch.int16, (2, 2), "codec 'int8_block' needs contiguous CPU memory of 8 bits an element"),
        ("int8_block", torch.int8, (1, 2), "codec 'int8_block' needs 16 contiguous bytes besides its 300 elements"),
        ("e5m2_block", torch.int8, (2, 2), "codec 'e5m2_block' needs 8 contiguous bytes besides its 300 elements"),
        ("bf16_split", torch.int16, (150,), "codec 'bf16_split' needs 600 contiguous bytes"),
    ],
)
def test_memory_of_another_size_is_refused(codec, data, second, message):
    """Never read or written beyond its end."""
    memory, beside = torch.zeros(300, dtype=data), torch.zeros(second if codec != "bf16_split" else 149)
    for call in (_core.encode, _core.decode):
        with pytest.raises(ValueError, match=message):
            call("scalar", torch.Tensor, codec, memory, beside, torch.ones(300))
    assert not memory.any()
    with pytest.raises(ValueError, match="values must be contiguous float32 on the CPU, as many as"):
        _core.encode("scalar", torch.Tensor, "bf16", torch.zeros(300, dtype=torch.int16), None, torch.ones(299))
