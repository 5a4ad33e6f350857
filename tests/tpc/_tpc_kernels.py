"""What the tests of the TPC kernels share: any kernel of the registry, compiled and run on named tensors."""

import contextlib
import functools
import math
import re
from pathlib import Path

import _problems
import numpy as np
import torch

from gaudi3_rt import _core, tpc

FOLDER = _problems.ROOT / "tpc_kernels"
KERNELS = {kernel["name"]: kernel for kernel in _core.tpc_kernels()}
MEMBER, BLOCK = _core.TPC_MEMBER_ELEMENTS, _core.TPC_BLOCK_ELEMENTS
DTYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i32": torch.int32,
}

# Around one and two vectors of f32 and of bf16, around members, and several of them.
SIZES = [1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 512, 1000, 2047, 2048, 2049, 3000, 4096, 4097]

# What a member touches of a tensor, dimension 0 first.
ACCESS = {
    "elements": (tpc.Access(a=MEMBER, start=0, end=MEMBER - 1),),
    "rows": (tpc.Access(a=MEMBER, start=0, end=MEMBER - 1), tpc.WHOLE),
    "whole": None,
    "partial": (tpc.Access(a=1, start=0, end=0),),
    "scales": (tpc.Access(a=MEMBER // BLOCK, start=0, end=MEMBER // BLOCK - 1),),
}

# How far a member's sum of squares may be from the exact one. A square is rounded 8 times in the sum of its lane, twice
# where four vectors become one, 6 times among lanes; one that is no normal number is lost in a sum that is zero.
SUM_BOUND = 16 * 2.0**-24
LOST_SQUARE = 2.0**-126


@contextlib.contextmanager
def flushing():
    """In here the CPU flushes denormal numbers, as a TPC does. Emulation stays outside: it has to flush by itself."""
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@functools.cache
def compiled(name: str, folder: Path = FOLDER) -> tpc.Kernel:
    """A kernel of the registry, from the sources in a folder."""
    kernel = KERNELS[name]
    pairs = [define.partition("=") for define in kernel["defines"]]
    return tpc.compile(folder / kernel["source"], defines={key: value or None for key, _, value in pairs})


def length(access: str, n: int) -> int:
    """Elements of a tensor with this access when the kernel works on n elements."""
    return {"elements": n, "whole": 1, "partial": math.ceil(n / MEMBER), "scales": math.ceil(n / BLOCK)}[access]


def run(
    name: str,
    inputs: dict[str, torch.Tensor],
    n: int,
    *,
    seed: int = 0,
    check: bool = True,
    in_place: bool = False,
    folder: Path = FOLDER,
    access: dict[str, tuple[tpc.Access, ...] | None] | None = None,
) -> dict[str, torch.Tensor]:
    """Runs a kernel on n elements, with its access patterns checked; returns the outputs by name.

    Outputs begin as NaN (integers as 77), and NaN is what a float load finds beyond the end of a tensor.

    Args:
        name: the kernel.
        inputs: by name; left as they are.
        n: how many elements.
        seed: of the partition of the index space.
        check: with the emulator's checks.
        in_place: whether outputs with the name of an input share its memory (a copy of it).
        folder: where the sources are.
        access: what a member touches, by kind, if not what the registry's words mean.
    """
    kernel = KERNELS[name]
    inputs = {operand["name"]: inputs[operand["name"]].clone() for operand in kernel["inputs"]}
    outputs = {}
    for operand in kernel["outputs"]:
        if in_place and operand["name"] in inputs:
            outputs[operand["name"]] = inputs[operand["name"]]
            continue
        dtype = DTYPES[operand["dtype"]]
        empty = math.nan if dtype.is_floating_point else 77
        outputs[operand["name"]] = torch.full((length(operand["access"], n),), empty, dtype=dtype)
    for operand in kernel["inputs"]:
        assert inputs[operand["name"]].dtype == DTYPES[operand["dtype"]], operand
    operands = [*kernel["inputs"], *kernel["outputs"]]
    patterns = [(access or ACCESS)[operand["access"]] for operand in operands]
    compiled(name, folder).run(
        list(inputs.values()),
        list(outputs.values()),
        index_space=(1 if kernel["single_member"] else math.ceil(n / MEMBER),),
        access=patterns,
        seed=seed,
        check=check,
        pad_values=[math.nan if DTYPES[operand["dtype"]].is_floating_point else 0 for operand in operands],
    )
    return outputs


def scalars(kernel: str, t: float, grad_factor: float) -> torch.Tensor:
    """What a step's kernel takes as scalars."""
    return torch.tensor([*_core.kernel_constants(kernel, _problems.hyper_of(kernel), t), grad_factor])


def assert_same_bits(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    """Equal bit by bit, but for which NaN, and for the sign of zero: what a TPC's products do with it is not public."""
    assert got.dtype == want.dtype, what
    a, b = (np.where(x == np.iinfo(x.dtype).min, 0, x) for x in (_problems.bits(got), _problems.bits(want)))
    differ = np.flatnonzero(a != b)
    assert differ.size == 0, (
        f"{what} differs in {differ.size} of {a.size} elements, first in {differ[0]}: "
        f"{got[differ[0]].item()!r}, expected {want[differ[0]].item()!r}"
    )


def mutate(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the kernels' sources with one text replaced."""
    for source in [*FOLDER.glob("*.c"), *FOLDER.glob("*.h")]:
        (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    text = (folder / file).read_text(encoding="utf-8")
    assert len(re.findall(re.escape(old), text)) == 1, f"tpc_kernels/{file} has to contain this text once: {old!r}"
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder
