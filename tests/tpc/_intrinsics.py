"""Intrinsics of the emulator as functions of NumPy arrays, each compiled from the expression that a test writes."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HEADERS = Path(__file__).resolve().parents[2] / "tpc_kernels" / "emulator"

# NumPy's element and shape of a type of TPC-C; bf16 and f16 are their bits.
TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "float": ("f4", ()),
    "int32_t": ("i4", ()),
    "int16_t": ("i2", ()),
    "uint8_t": ("u1", ()),
    "bool": ("u1", ()),
    "bf16": ("u2", ()),
    "float64": ("f4", (64,)),
    "int64": ("i4", (64,)),
    "uint64": ("u4", (64,)),
    "bfloat128": ("u2", (128,)),
    "half128": ("u2", (128,)),
    "short128": ("i2", (128,)),
    "ushort128": ("u2", (128,)),
    "char256": ("i1", (256,)),
    "uchar256": ("u1", (256,)),
    "bool64": ("u1", (64,)),
    "bool128": ("u1", (128,)),
    "bool256": ("u1", (256,)),
    "float128": ("f4", (2, 64)),
    "int128": ("i4", (2, 64)),
    "uint128": ("u4", (2, 64)),
    "bfloat256": ("u2", (2, 128)),
    "half256": ("u2", (2, 128)),
    "short256": ("i2", (2, 128)),
    "ushort256": ("u2", (2, 128)),
    "float256": ("f4", (4, 64)),
    "int256": ("i4", (4, 64)),
    "uint256": ("u4", (4, 64)),
}

_SOURCE = """\
#include "tpc.h"
static gaudi3_rt::tpc::Run g3rt_run;
static gaudi3_rt::tpc::Outcome g3rt_outcome;
static gaudi3_rt::tpc::Box g3rt_box;
extern "C" void g3rt_begin(std::uint64_t seed, double ulps, double fast_ulps) {{
  g3rt_run.name = "test";
  g3rt_run.boxes = &g3rt_box;
  g3rt_run.index_rank = 1;
  g3rt_run.seed = seed;
  g3rt_run.special_ulps = ulps;
  g3rt_run.fast_special_ulps = fast_ulps;
  gaudi3_rt::tpc::machine.run = &g3rt_run;
  gaudi3_rt::tpc::machine.outcome = &g3rt_outcome;
  gaudi3_rt::tpc::begin_box(0);
}}
extern "C" const char* g3rt_error() {{ return g3rt_outcome.error; }}
{functions}
"""
_FUNCTION = """\
static {result} {name}_({parameters}) {{ {body} }}
extern "C" int call_{name}(long n, {result}* g3rt_result{pointers}) {{
  try {{
    for (long i = 0; i < n; ++i) g3rt_result[i] = {name}_({arguments});
  }} catch (const gaudi3_rt::tpc::Failure&) {{
    return 1;
  }}
  return 0;
}}
"""


class EmulationError(Exception):
    """What the emulator's fail() said."""


def function(result: str, body: str, **parameters: str) -> tuple[str, str, dict[str, str]]:
    """A function of TPC-C for a ``Library``: a body with ``return``, or the expression that it returns."""
    return result, body if "return" in body else f"return {body};", parameters


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + 256, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + size].view(dtype).reshape(shape)


class Library:
    """Functions that are compiled together, once for each mode, when the first one is called."""

    def __init__(self, *, fast: str = "-O3", before: str = "", **functions: tuple[str, str, dict[str, str]]) -> None:
        """``functions`` are made by ``function``; ``fast`` optimizes them where the checking mode is off.

        What is ``before`` them is text of TPC-C that they use.
        """
        self._before = before
        self._functions = functions
        self._fast = fast

    @functools.lru_cache  # noqa: B019 - a library lives as long as its test file
    def _build(self, checking: bool) -> ctypes.CDLL | str:
        """The compiled functions, or what the compiler said."""
        text = [self._before]
        for name, (result, body, parameters) in self._functions.items():
            text.append(
                _FUNCTION.format(
                    name=name,
                    result=result,
                    body=body,
                    parameters=", ".join(f"{t} {p}" for p, t in parameters.items()),
                    pointers="".join(f", const {t}* g3rt_{p}" for p, t in parameters.items()),
                    arguments=", ".join(f"g3rt_{p}[i]" for p in parameters),
                )
            )
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or "c++"
        flags = (
            "-std=c++20 -ffp-contract=off -fno-strict-aliasing -fno-math-errno -fno-trapping-math -Wno-narrowing "
            f"-fPIC -shared {'-O1' if checking else self._fast} -DGAUDI3_RT_TPC_CHECKING={int(checking)}"
        )
        with TemporaryDirectory() as folder:
            source, library = Path(folder, "intrinsics.cpp"), Path(folder, "intrinsics.so")
            source.write_text(_SOURCE.format(functions="\n".join(text)))
            command = [compiler, *flags.split(), "-isystem", str(HEADERS), str(source), "-o", str(library)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if run.returncode != 0:
                return run.stderr
            built = ctypes.CDLL(str(library))
        built.g3rt_error.restype = ctypes.c_char_p
        return built

    def only(self, *names: str) -> Library:
        """Some of the functions, when fewer have to be compiled."""
        return Library(**{name: self._functions[name] for name in names})

    def call(
        self,
        name: str,
        *arrays: np.ndarray,
        checking: bool = False,
        seed: int = 0,
        ulps: tuple[float, float] = (0, 0),
    ) -> np.ndarray:
        """The function of ``n`` values of each parameter; an array is (n, ...) of what its type is."""
        result, _, parameters = self._functions[name]
        inputs = []
        for array, kind in zip(arrays, parameters.values(), strict=True):
            dtype, shape = np.dtype(TYPES[kind][0]), TYPES[kind][1]
            value = np.asarray(array)
            assert value.dtype == dtype, f"{name}: {kind} is {dtype}, not {value.dtype}"
            value = value.reshape(-1, *shape)
            inputs.append(_aligned(value.shape, dtype))
            inputs[-1][...] = value
        n = len(inputs[0]) if inputs else 1
        assert all(len(x) == n for x in inputs), f"{name}: {[x.shape for x in inputs]}"
        out = _aligned((n, *TYPES[result][1]), np.dtype(TYPES[result][0]))
        library = self._build(checking)
        assert isinstance(library, ctypes.CDLL), library
        library.g3rt_begin(ctypes.c_uint64(seed), ctypes.c_double(ulps[0]), ctypes.c_double(ulps[1]))
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (out, *inputs)]
        if getattr(library, f"call_{name}")(ctypes.c_long(n), *pointers):
            raise EmulationError(library.g3rt_error().decode())
        return out

    def lanes(self, name: str, *arrays: np.ndarray, **options: object) -> np.ndarray:
        """A function of lanes, of flat arrays of any one length."""
        result, _, parameters = self._functions[name]
        size = len(arrays[0])
        count = int(np.prod(TYPES[result][1], dtype=np.int64))
        assert all(np.prod(TYPES[t][1], dtype=np.int64) == count for t in parameters.values())
        padded = [np.concatenate([x, np.zeros(-len(x) % count, x.dtype)]) for x in arrays]
        return self.call(name, *padded, **options).reshape(-1)[:size]  # type: ignore[arg-type]


def bits(x: np.ndarray) -> np.ndarray:
    """The bits of floats, to compare them with."""
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


def floats(x: np.ndarray) -> np.ndarray:
    """f32 from bits."""
    return np.ascontiguousarray(x, np.uint32).view(np.float32)


def flush(x: np.ndarray) -> np.ndarray:
    """f32 with the denormal numbers replaced by the zero of their sign."""
    b = bits(np.asarray(x, np.float32))
    return floats(np.where(b & 0x7F800000, b, b & 0x80000000))


def finish(x: np.ndarray) -> np.ndarray:
    """f32 as an arithmetic instruction writes it: flushed, and one NaN."""
    return floats(np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits(flush(x))))


SPECIAL = floats(
    np.array(
        [
            0,
            1,
            0x7FFFFF,
            0x800000,
            0x800001,
            0x3F800000,
            0x3F800001,
            0x40000000,
            0x7F7FFFFF,
            0x7F800000,
            0x7F800001,
            0x7FC00000,
        ],
        np.uint32,
    )
)
SPECIAL = np.concatenate([SPECIAL, floats(bits(SPECIAL) | np.uint32(0x80000000))])


def pairs_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of two elements."""
    return np.repeat(x, len(x)), np.tile(x, len(x))


def random_floats(rng: np.random.Generator, n: int) -> np.ndarray:
    """f32 of all bit patterns."""
    return floats(rng.integers(0, 1 << 32, n, np.uint32))
