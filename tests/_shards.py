"""What the tests of sums of shards, transfers and wires share: definitions in numpy, and checks for builds.

The checks take an engine: the functions of one build of the package (``Engine``), or of a source with one wrong line.
"""

import ctypes
import itertools

import numpy as np
import torch
from _problems import SPECIAL_VALUES, TORCH_DTYPES, bits
from _stored import ROUNDING
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.reduce import merge_counts

DTYPES = list(TORCH_DTYPES.values())
BLOCK = _core.BLOCK


def leaves(n: int) -> list[int]:
    """The merges of n shards one by one."""
    return merge_counts([(i, i + 1) for i in range(n)], n)


def numbers(n: int, dtype: torch.dtype = torch.float32, seed: int = 0, special: float = 0.0) -> Tensor:
    """Random numbers over some octaves, a part of them special."""
    generator = np.random.default_rng([n, seed])
    values = generator.standard_normal(n) * 2.0 ** generator.integers(-4, 5, n)
    where = generator.random(n) < special
    values[where] = generator.choice(SPECIAL_VALUES, int(where.sum()))
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32)).to(dtype)


def spread_numbers(n: int, decades: float, seed: int = 0, special: float = 0.0) -> Tensor:
    """Numbers whose scales differ from element to element."""
    exponents = -decades * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return numbers(n, seed=seed, special=special) * 10**exponents


def tree_sum(nodes: list[Tensor], merges: list[int], factor: float, dtype: torch.dtype) -> Tensor:
    """The definition: every addition of two numpy float32 arrays, then the factor, then torch's conversion."""
    stack: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        for node, count in zip(nodes, merges, strict=True):
            stack.append(node.to(torch.float32).numpy())
            for _ in range(count):
                right = stack.pop()
                stack[-1] = stack[-1] + right
        (total,) = stack
        return torch.from_numpy(np.asarray(total * np.float32(factor))).to(dtype)


def assert_same_bits(got: Tensor, want: Tensor, what: object = "") -> None:
    """Equal bit by bit, NaNs as NaNs."""
    differ = np.flatnonzero(bits(got) != bits(want))
    assert differ.size == 0, (
        f"{what}: {differ.size} of {got.numel()} elements differ, first in {differ[0]}: "
        f"{got.reshape(-1)[differ[0]].item()!r}, expected {want.reshape(-1)[differ[0]].item()!r}"
    )


class Engine:
    """The functions of one build."""

    def __init__(self, isa: str, n_threads: int = 1, *, exchange: bool = True) -> None:
        """The build by its name; exchange: whether tensors are described through DLPack's table."""
        self.isa, self.n_threads, self.exchange = isa, n_threads, exchange

    def tree_sum(self, nodes: list[Tensor], merges: list[int], factor: float, out: Tensor) -> list[float]:
        """Fills ``out``; returns the sum of squares of each chunk."""
        sums = np.full(-(-out.numel() // _core.CHUNK), np.nan)
        last = (self.n_threads, self.exchange)
        assert _core.reduce_nodes(self.isa, torch.Tensor, [out], [nodes], merges, factor, sums, *last)
        return sums.tolist()

    def transfer(self, name: str, source: Tensor, target: Tensor, factor: float) -> None:
        """Fills ``target``."""
        last = (self.n_threads, self.exchange)
        assert _core.transfer(self.isa, torch.Tensor, name, [source], [target], factor, *last) == []

    def compress(self, wire: str, x: Tensor, residual: Tensor | None, out: Tensor, factor: float) -> None:
        """Fills ``out`` and ``residual``."""
        last = (self.n_threads, self.exchange)
        assert _core.compress(self.isa, torch.Tensor, wire, x, residual, out, factor, *last)

    def decompress(self, wire: str, compressed: Tensor, out: Tensor, factor: float) -> None:
        """Fills ``out``."""
        last = (self.n_threads, self.exchange)
        assert _core.decompress(self.isa, torch.Tensor, wire, compressed, out, factor, *last)


class Mutant:
    """The same of a library that tests/_mutant_builds.py built."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """What was loaded."""
        self.library = library
        library.tree_sum.restype = ctypes.c_double

    def tree_sum(self, nodes: list[Tensor], merges: list[int], factor: float, out: Tensor) -> list[float]:
        """As above, of one chunk."""
        n = len(nodes)
        arguments = (
            (ctypes.c_void_p * n)(*(node.data_ptr() for node in nodes)),
            (ctypes.c_int * n)(*(codec(node) for node in nodes)),
            (ctypes.c_uint8 * n)(*merges),
            ctypes.c_int(n),
            ctypes.c_float(factor),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_int(codec(out)),
            ctypes.c_int64(out.numel()),
        )
        return [self.library.tree_sum(*arguments)]

    def transfer(self, name: str, source: Tensor, target: Tensor, factor: float) -> None:
        """As above."""
        number = _core.transfers().index(name)
        self.library.transfer(number, ctypes.c_float(factor), *memory(source), *memory(target), count(source))

    def compress(self, wire: str, x: Tensor, residual: Tensor | None, out: Tensor, factor: float) -> None:
        """As above."""
        rest = None if residual is None else residual.data_ptr()
        number = _core.wires().index(wire)
        where = (ctypes.c_void_p(rest), ctypes.c_void_p(out.data_ptr()))
        self.library.compress(number, ctypes.c_float(factor), *memory(x), *where, count(x))

    def decompress(self, wire: str, compressed: Tensor, out: Tensor, factor: float) -> None:
        """As above."""
        number, where = _core.wires().index(wire), ctypes.c_void_p(compressed.data_ptr())
        self.library.decompress(number, ctypes.c_float(factor), where, *memory(out), count(out))


def codec(tensor: Tensor) -> int:
    """The number of the codec that stores a dtype."""
    return _core.codecs().index(next(name for name, dtype in TORCH_DTYPES.items() if dtype == tensor.dtype))


def memory(tensor: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int]:
    """Address and codec."""
    return ctypes.c_void_p(tensor.data_ptr()), ctypes.c_int(codec(tensor))


def count(tensor: Tensor) -> ctypes.c_int64:
    """Number of elements."""
    return ctypes.c_int64(tensor.numel())


def check_tree(engine: Engine | Mutant, sizes: tuple[int, ...] = (1, 33, 513, 1030)) -> None:
    """The bits of the definition for all dtypes, short and long trees, and the sum of squares of what is stored."""
    # The last two are covers: nodes of two shards between single ones.
    trees = [leaves(n) for n in (2, 3, 4, 5, 6, 7, 8, 13)]
    trees += [merge_counts([(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)], 6)]
    trees += [merge_counts([(0, 1), (1, 2), (2, 4), (4, 8), (8, 10), (10, 11)], 11)]
    for merges, size, (dtype, out_dtype) in itertools.product(trees, sizes, itertools.product(DTYPES, DTYPES)):
        nodes = [numbers(size, dtype, seed, special=0.05) for seed in range(len(merges))]
        for node in nodes:
            node[size // 2] = -0.0  # to which no zero may be added
        out = torch.full((size,), -7.0, dtype=out_dtype)
        sums = engine.tree_sum(nodes, merges, 0.3, out)
        what = f"{len(merges)} nodes of {size} {dtype} to {out_dtype}, merges {merges}"
        assert_same_bits(out, tree_sum(nodes, merges, 0.3, out_dtype), what)
        want = _core.reduce("scalar", torch.Tensor, "sum_squares", list(out.split(_core.CHUNK)), 1)
        assert np.array_equal(sums, want, equal_nan=True), what


def check_transfers(engine: Engine | Mutant) -> None:
    """What the reference gives, rounded to float and to the dtype of where it goes."""
    for name, size, (dtype, out_dtype) in itertools.product(
        _core.transfers(), (1, 33, 1030), itertools.product(DTYPES, DTYPES)
    ):
        source, target = numbers(size, dtype, 1), numbers(size, out_dtype, 2)
        factor = 0.75  # exact, so that products of halves are, and a float32's is rounded once
        want = target.double().numpy().copy()
        _core.transfer_reference(name, factor, source.double().numpy(), want)
        if name == "accumulate":  # the product is rounded first
            want = target.double().numpy() + (source.float() * factor).double().numpy()
        engine.transfer(name, source, target, factor)
        assert_same_bits(target, torch.from_numpy(want).float().to(out_dtype), f"{name}, {size} {dtype} to {out_dtype}")


def wire_of(wire: str, n: int) -> Tensor:
    """Memory for n elements on a wire."""
    dtype = torch.bfloat16 if wire == "bfloat16" else torch.uint8
    return torch.empty(_core.wire_bytes(wire, n) // dtype.itemsize, dtype=dtype)


def check_wires(engine: Engine | Mutant) -> None:
    """What arrives is the reference's, and with what the residual keeps, all that was sent."""
    for wire, size, dtype in itertools.product(_core.wires(), (1, 255, 256, 1030), DTYPES):
        for spread in (0, 3, 20):
            x = spread_numbers(size, spread).to(dtype)
            residual, sent, got = numbers(size, seed=4) / 100, wire_of(wire, size), torch.empty(size)
            value = x.float() * 0.75 + residual
            engine.compress(wire, x, residual, sent, 0.75)
            engine.decompress(wire, sent, got, 1.0)
            what = f"{wire}, {size} {dtype}, {spread} decades"
            assert_same_bits(residual, value - got, what)
            want = value.double().numpy().copy()
            _core.wire_reference(wire, want)
            # Where a number is as near to the middle of two codes as the formula's roundings, it may get either.
            assert np.mean(np.abs(got.numpy() - want) > ROUNDING * np.abs(want)) < 0.01, what
            error, allowed = (np.abs(y - value.double().numpy()) for y in (got.double().numpy(), want))
            assert (error <= allowed + ROUNDING * np.abs(value.numpy())).all(), what
            half = torch.empty(size, dtype=dtype)
            engine.decompress(wire, sent, half, 0.5)
            assert_same_bits(half, (got * 0.5).to(dtype), what)
            plain = wire_of(wire, size)
            engine.compress(wire, x, None, plain, 1.0)
            engine.decompress(wire, plain, got, 1.0)
            want = x.double().numpy().copy()
            _core.wire_reference(wire, want)
            assert np.mean(np.abs(got.numpy() - want) > ROUNDING * np.abs(want)) < 0.01, what


def check_wires_show_bad_values(engine: Engine | Mutant) -> None:
    """A value that is not finite arrives as one, at least in its block; the residual stays finite."""
    for wire, bad in itertools.product(_core.wires(), (np.nan, np.inf, -np.inf)):
        x, residual = numbers(1030, seed=5), torch.zeros(1030)
        x[300] = bad
        sent, got = wire_of(wire, 1030), torch.empty(1030)
        engine.compress(wire, x, residual, sent, 1.0)
        engine.decompress(wire, sent, got, 1.0)
        assert not got[300].isfinite(), wire
        assert got[:BLOCK].isfinite().all(), wire
        assert got[2 * BLOCK :].isfinite().all(), wire
        assert residual.isfinite().all(), wire
        again = torch.empty(1030)
        engine.compress(wire, numbers(1030, seed=6), residual, sent, 1.0)
        engine.decompress(wire, sent, again, 1.0)
        assert again.isfinite().all(), "one bad step spoils the next"
