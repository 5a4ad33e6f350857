"""What the tests of storage share: tensors as codecs store them, and what must hold of each codec."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaudi3_rt import _core

BLOCK = _core.BLOCK
BLOCK_CODECS = [name for name in _core.codecs() if _core.describe_codec(name)["in_blocks"]]
DRAWING_CODECS = ["bf16_stochastic", *BLOCK_CODECS]  # those whose result depends on random bits

# A float's rounding in a formula of a few operations: scaling, and the bits of a logarithm (see model_of_int8).
ROUNDING = 2.0**-18


@dataclass(repr=False)
class Stored:
    """The memory of a codec: its elements, and what it keeps beside them."""

    codec: str
    data: Tensor
    second: Tensor | None

    def part(self, begin: int, end: int) -> "Stored":
        """A copy of the elements from begin to end; in blocks, begin is where one begins."""
        second = self.second
        if second is not None:
            blocks = _core.describe_codec(self.codec)["in_blocks"]
            second = second[begin // BLOCK : -(-end // BLOCK)] if blocks else second[begin:end]
        return Stored(self.codec, self.data[begin:end].clone(), second if second is None else second.clone())

    def same(self, other: "Stored") -> bool:
        """Equal, byte by byte; what blocks are that hold no number is the CPU's choice."""
        second = self.second is None or np.array_equal(_bytes(self.second), _bytes(other.second))
        return bool(second and torch.equal(self.data, other.data))


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy().view(np.uint8)


def empty(codec: str, n: int) -> Stored:
    """Memory for n elements, filled with what no codec writes there."""
    described = _core.describe_codec(codec)
    data = torch.full((n,), -1, dtype={1: torch.int8, 2: torch.int16, 4: torch.int32}[described["bytes"]])
    if described["in_blocks"]:
        second = torch.full((-(-n // BLOCK), described["second_bytes"] // 4), -7.0)
    elif described["second_bytes"]:
        second = torch.full((n,), -1, dtype={2: torch.int16, 4: torch.float32}[described["second_bytes"]])
    else:
        second = None
    return Stored(codec, data, second)


class Engine:
    """The codecs of one build."""

    def __init__(self, isa: str) -> None:
        """The build by its name."""
        self.isa = isa

    def store(self, codec: str, values: Tensor, **source: object) -> Stored:
        """Values as a codec stores them; source: seed, t, number, operand, elements."""
        made = empty(codec, values.numel())
        _core.encode(self.isa, torch.Tensor, codec, made.data, made.second, values.contiguous(), **source)
        return made

    def load(self, stored: Stored) -> Tensor:
        """The floats of what is stored."""
        values = torch.empty(stored.data.numel())
        _core.decode(self.isa, torch.Tensor, stored.codec, stored.data, stored.second, values)
        return values


def floats(patterns: np.ndarray) -> Tensor:
    """Float32 numbers from their bits."""
    return torch.from_numpy(np.asarray(patterns).astype(np.uint32).view(np.float32).copy())


def patterns(values: Tensor) -> np.ndarray:
    """The bits of float32 numbers."""
    return values.numpy().view(np.uint32)


def every_kind_of_float() -> Tensor:
    """Each sign and exponent with mantissas at and beside the ties of bfloat16, and random ones."""
    mantissas = [k << 15 | low for k in (0, 1, 2, 3, 0x7F, 0xFE, 0xFF) for low in (0, 1, 0x7FFF)]
    mantissas += [(k << 15) - 1 for k in (2, 3, 4)]
    grid = np.add.outer(np.arange(512, dtype=np.int64) << 23, np.array(mantissas)).ravel()
    return floats(np.concatenate([grid, np.random.default_rng(0).integers(0, 2**32, 50_000)]))


def nearest_bf16(values: Tensor) -> Tensor:
    """As torch rounds."""
    return values.to(torch.bfloat16).float()


def check_split(engine: Engine) -> None:
    """Every float comes back bit for bit, and the parameter alone is the nearest bfloat16."""
    values = every_kind_of_float()
    stored = engine.store("bf16_split", values)
    got, param = engine.load(stored), stored.data.view(torch.bfloat16).float()
    assert torch.equal(got.isnan(), values.isnan())
    assert torch.equal(param.isnan(), values.isnan())
    overflows = param.isinf() & values.isfinite()
    assert (values[overflows].abs() >= (2 - 2.0**-8) * 2.0**127).all(), "finite numbers became infinite"
    exact = ~values.isnan() & ~overflows
    assert (patterns(got[exact]) == patterns(values[exact])).all(), "a float lost bits"
    assert torch.equal(got[overflows], param[overflows])
    tie = torch.from_numpy(patterns(values) & 0xFFFF) == 0x8000
    nearest = nearest_bf16(values)
    certain = ~values.isnan() & ~tie
    assert torch.equal(param[certain], nearest[certain])
    tie &= ~values.isnan() & ~overflows
    assert torch.equal((param - values)[tie].abs(), (nearest - values)[tie].abs()), "ties go to a neighbour"


def check_stochastic_neighbours(engine: Engine) -> None:
    """Bfloat16 numbers stay, others go to one of the two beside them."""
    own = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    wide = own.view(torch.bfloat16).float()
    stored = engine.store("bf16_stochastic", wide, t=1.0).data
    assert torch.equal(stored.view(torch.bfloat16).isnan(), wide.isnan())
    assert torch.equal(stored[~wide.isnan()], own[~wide.isnan()])
    values = every_kind_of_float()
    got = engine.store("bf16_stochastic", values, t=1.0).data.numpy().view(np.uint16)
    number = ~values.isnan().numpy()
    cut = (patterns(values) >> 16)[number]
    up = (got[number] - cut).astype(np.int64)
    assert set(np.unique(up)) == {0, 1}, "not a neighbour"
    assert engine.load(Stored("bf16_stochastic", torch.from_numpy(got.view(np.int16)), None))[~number].isnan().all()


def check_stochastic_odds(engine: Engine) -> None:
    """A number goes up with the probability of its fraction, to within 5 standard deviations of a binomial count."""
    n = 2**15
    for fraction in (1, 0x80, 0x1000, 0x5555, 0x8000, 0xC001, 0xFFFF):
        odds = fraction / 2**16
        for sign in (0, 0x80000000):
            values = floats(np.full(n, sign | 0x3F800000 | fraction))
            cut = np.int16((sign | 0x3F800000) >> 16 if sign == 0 else 0x3F80 - 2**15)
            count = int((engine.store("bf16_stochastic", values, seed=5, t=9.0).data != int(cut)).sum())
            assert abs(count - n * odds) <= 5 * math.sqrt(n * odds * (1 - odds)) + 1, f"fraction {fraction:#x}: {count}"


def random_numbers(n: int, **source: object) -> np.ndarray:
    """The 16 bits that each element gets: found by bisection, as the number goes up where the sum of both carries."""
    engine = Engine(_core.isas()[0])
    found = np.zeros(n, np.int64)
    for bit in reversed(range(16)):
        asked = found + (1 << bit)  # is the number at least this?
        up = engine.store("bf16_stochastic", floats(0x3F800000 | (0x10000 - asked)), **source).data.numpy()
        found = np.where(up != 0x3F80, asked, found)
    return found


def tables(engine: Engine, stored: Stored) -> np.ndarray:
    """For each block of what is stored, the value of every magnitude code, ascending."""
    highest = {"int8_block": 127, "int8_block_positive": 255, "e4m3_block": 0x7E, "e4m3_block_positive": 0x7E}
    codes = torch.arange(highest.get(stored.codec, 0x7B) + 1).to(torch.uint8).view(torch.int8)
    rows = []
    for scales in stored.second.split(1):
        repeated = Stored(stored.codec, codes, scales.repeat(-(-codes.numel() // BLOCK), 1))
        rows.append(engine.load(repeated).double().numpy())
    return np.stack(rows)


def neighbours(engine: Engine, values: Tensor, stored: Stored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each magnitude: the values of the codes below and above it, and of code 1.

    A code that is as near as the rounding of a formula may be either, so the one beyond it is taken.
    """
    x = values.double().abs().numpy()
    slack = ROUNDING * x + np.where(x == 0, 0, 2.0**-149)
    low, high, smallest = (np.empty_like(x) for _ in range(3))
    for block, table in enumerate(tables(engine, stored)):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        below = np.maximum(np.searchsorted(table, x[part] - slack[part], side="right") - 1, 0)
        above = np.searchsorted(table, x[part] + slack[part], side="left")
        low[part], smallest[part] = table[below], table[1]
        high[part] = table[np.minimum(above, len(table) - 1)]
    return low, high, smallest


def gradients(kind: str, n: int, *, positive: bool) -> Tensor:
    """Blocks of the kinds that occur, and of those that break codecs."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal(n)
    if kind == "three decades":
        x *= 10.0 ** generator.uniform(-3, 0, n)
    elif kind == "thirty decades":
        x *= 10.0 ** generator.uniform(-15, 15, n)
    elif kind == "all equal":
        x = np.full(n, 0.37)
    elif kind == "denormal":
        x = np.where(x > 1, 1e-38, 1e-42) * (1 + np.abs(x))
    elif kind == "least normal":
        x *= 3e-38
    elif kind == "huge":
        x = np.clip(x, -3.4, 3.4) * 1e38
    elif kind == "far apart":
        x = np.where(np.arange(n) % 5 == 0, 1e30, 1e-38) * np.sign(x)
    elif kind == "mostly zero":
        x[np.arange(n) % 7 > 0] = 0
    elif kind == "zero":
        x[:] = 0
    return torch.from_numpy(np.abs(x) if positive else x).float()


KINDS = ["usual", "three decades", "thirty decades", "all equal", "denormal", "least normal", "huge", "far apart"]
KINDS += ["mostly zero", "zero"]


def check_blocks(engine: Engine, codec: str, kind: str) -> None:
    """Each number is stored as one of the two codes beside it; zero as zero, the positive never as zero."""
    positive = codec.endswith("positive")
    values = gradients(kind, 5 * BLOCK + 77, positive=positive)
    for t in (1.0, 2.0, 3.0):
        stored = engine.store(codec, values, t=t)
        got = engine.load(stored)
        assert got.isfinite().all()
        assert torch.equal(got[values == 0], values[values == 0])
        assert ((got.sign() == values.sign()) | (got == 0)).all()
        low, high, smallest = neighbours(engine, values, stored)
        x, y = values.double().abs().numpy(), got.double().abs().numpy()
        if positive:
            assert (got[values > 0] > 0).all(), "a positive number became zero"
            for begin in range(0, x.size, BLOCK):
                block = x[begin : begin + BLOCK]
                least = block[block > 0].min(initial=np.inf) * (1 + ROUNDING)
                assert smallest[begin] <= max(least, block.max() * 2.0**-30, 2.0**-149), "too few octaves"
            tiny = (x > 0) & (x < smallest)
            low, high = np.where(tiny, smallest, low), np.where(tiny, smallest, high)
        wrong = np.flatnonzero(~((y >= low * (1 - ROUNDING)) & (y <= high * (1 + ROUNDING))))
        assert wrong.size == 0, (
            f"{codec}, {kind}: {wrong.size} of {x.size} are not beside their number, first {x[wrong[0]]!r} in "
            f"{wrong[0]}: {y[wrong[0]]!r}, codes {low[wrong[0]]!r} and {high[wrong[0]]!r}"
        )
        if codec.startswith("int8") and kind not in {"denormal", "least normal"}:
            for x_block, y_block in zip(values.abs().split(BLOCK), got.abs().split(BLOCK), strict=True):
                assert x_block.max() == y_block.max(), "the largest of a block is not exact"


def check_expected_value(engine: Engine, codec: str, kind: str, n_steps: int = 2000) -> None:
    """The mean of what is stored over many steps is the number.

    A number between two codes goes up with odds f, so that the mean of n draws has the deviation
    gap sqrt(f (1 - f) / n); 5 of them are allowed, 10 / n for numbers that hardly ever go up, 2^-16 for odds made of
    16 bits, and the rounding of the codes' values.
    """
    positive = codec.endswith("positive")
    values = gradients(kind, 2 * BLOCK, positive=positive)
    total = torch.zeros(values.numel(), dtype=torch.float64)
    for t in range(n_steps):
        stored = engine.store(codec, values, seed=1, t=float(t + 1))
        total += engine.load(stored)
    low, high, smallest = neighbours(engine, values, stored)
    x = values.double().abs().numpy()
    gap = high - low
    odds = np.clip((x - low) / np.where(gap == 0, 1, gap), 0, 1)
    allowed = gap * (5 * np.sqrt(odds * (1 - odds) / n_steps) + 10 / n_steps + 2.0**-16) + ROUNDING * x
    error = np.abs((total / n_steps).numpy() - values.double().numpy())
    counted = x >= smallest if positive else np.ones_like(x, bool)
    wrong = np.flatnonzero(counted & ~(error <= allowed))
    assert counted.mean() > 0.9
    assert wrong.size == 0, (
        f"{codec}, {kind}: the means of {wrong.size} numbers are off, first of {values[wrong[0]].item()!r} by "
        f"{error[wrong[0]]:.3g}, allowed {allowed[wrong[0]]:.3g}"
    )


def model_of_int8(codes: np.ndarray, scales: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes by the words of csrc/codecs/int8_block.h in float64, and how far floats may be from them.

    Code L is the largest; codes_per_octave codes below it is half of it, and between octaves they are evenly spaced.
    The kernel forms the distance in octaves times 2^23 as a float, with two roundings, cuts it off to an integer and
    takes that from a float's bits, where 2^23 are an octave: so it is off by 2 octaves + 1 units of 2^-23. The product
    with the largest is one rounding more, or a denormal.
    """
    largest, codes_per_octave = scales
    octaves = (highest - codes) / codes_per_octave
    whole = np.floor(octaves)
    values = np.where(codes == 0, 0, largest * 2.0**-whole * (1 - 0.5 * (octaves - whole)))
    return values, values * (2 * octaves + 2) * 2.0**-23 + 2.0**-149
