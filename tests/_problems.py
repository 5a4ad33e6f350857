"""What the tests of the engine share: steps to take, made for any kernel by the names of what it takes."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim._rule import Rule

ROOT = Path(__file__).parent.parent
TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DTYPES = list(
    TORCH_DTYPES.values()
)  # those that need nothing besides; test_bf16_codecs.py and test_block_codecs.py have the rest

# Around one and two registers of 4, 8 and 16 lanes and around a tile of 512; chunks have tests of their own.
SIZES = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512, 513, 1000]
# More than one chunk, ragged ends, and enough elements (16 Ki each) for eight threads to be woken.
LARGE_SIZES = [70_000, 1, 0, _core.CHUNK, _core.CHUNK + 1, 12_345, 3 * _core.CHUNK - 1, 0]
# Tensors so small that a thread takes many at a time.
MANY_SIZES = [*[65, 0, 130, 1] * 700, 7]

SPECIAL_VALUES = [
    *(0.0, -0.0, math.nan, math.inf, -math.inf),
    *(1e-45, -1e-40, 1.1754942e-38, 1.1754944e-38, 3e-8, -6e-8, 6.1e-5),  # denormal or nearly, in one dtype or another
    *(1e-20, -1e20, 3.4e38, -3.4e38, 65504.0, 65520.0, -70000.0),  # their squares leave the range of one or another
]

# A sensible value for every hyper-parameter that a kernel may have, and whether float rounding of it moves the result
# by no more than a rounding. (Not so a decay rate: 1 - beta is used, and has to be formed in double.)
HYPER = {
    "lr": (1e-2, True),
    "beta1": (0.9, False),
    "beta2": (0.999, False),
    "eps": (1e-3, True),  # large enough that a misplaced one shows
    "weight_decay": (0.1, True),
    "bias_correction": (1.0, False),
    "grad_averaging": (1.0, False),
    "always_adapt": (0.0, False),
    "momentum": (0.99, False),
    "dampening": (0.3, False),
    "trust_coeff": (0.02, True),
    "trust_clip": (0.0, False),
    "lr_decay": (1e-4, False),  # lr / (1 + (t - 1) lr_decay) is formed in double; small, so that late steps still move
    "decay": (0.97, False),
    "lr_ratio": (1.5, True),
}


def hyper_of(kernel: str) -> list[float]:
    """A value for each of the kernel's hyper-parameters."""
    names = _core.describe_kernel(kernel)["hyper"]
    unknown = [name for name in names if name not in HYPER]
    assert not unknown, f"kernel {kernel!r} has hyper-parameters without a value in tests/_problems.py HYPER: {unknown}"
    return [HYPER[name][0] for name in names]


def operand_names(kernel: str) -> list[str]:
    """What the kernel's operands are called, in order."""
    return ["param", "grad", *_core.describe_kernel(kernel)["state"]]


@dataclass(repr=False)  # a failing test prints its message, not thousands of numbers
class Problem:
    """Tensors to step: a list per operand and one of step counters."""

    kernel: str
    operands: list[list[Tensor]]
    steps: list[Tensor]

    def clone(self) -> "Problem":
        """The same in memory of its own."""
        operands = [[tensor.clone() for tensor in operand] for operand in self.operands]
        return Problem(self.kernel, operands, [step.clone() for step in self.steps])

    def extend(self, tensor_list: _core.TensorList, part: slice = slice(None), *, maximize: bool = False) -> list[int]:
        """Appends the tensors of a part to a list; returns the indices left over."""
        operands = [operand[part] for operand in self.operands]
        numbers = list(range(len(self.steps)))[part]
        rule = Rule(self.kernel, hyper_of(self.kernel), maximize=maximize)
        return tensor_list.extend(rule, operand_names(self.kernel)[2:], operands, self.steps[part], numbers)


def problem(
    kernel: str,
    sizes: Sequence[int | tuple[int, ...]],
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    seed: int = 0,
    t: float = 3,
    special: float = 0.0,
) -> Problem:
    """A step number t + 1 with random values, some of them (the share `special`) of the kind that breaks kernels."""
    # By numpy: torch would wake its threads for every large tensor. All at once: a list may have thousands of tensors.
    generator = np.random.default_rng(seed)
    names = operand_names(kernel)
    described = _core.describe_kernel(kernel)
    squares = {name for name, positive in zip(described["state"], described["positive"], strict=True) if positive}
    lengths = [math.prod(size) if isinstance(size, tuple) else size for size in sizes]
    operands = []
    for name, dtype in zip(names, dtypes or [torch.float32] * len(names), strict=True):
        x = generator.standard_normal(sum(lengths), dtype=np.float32)
        if name in squares:
            x = np.float32(0.1) + x * x
        if special:
            values = generator.choice(np.array(SPECIAL_VALUES, np.float32), x.size)
            x = np.where(generator.random(x.size) < special, values, x)
        # Copies, so that each tensor has memory of its own, aligned as torch aligns it.
        parts = torch.from_numpy(x).to(dtype).split(lengths)
        operands.append([part.reshape(size).clone() for part, size in zip(parts, sizes, strict=True)])
    return Problem(kernel, operands, [torch.tensor(float(t)) for _ in sizes])


def step(
    isa: str, this: Problem, *, n_threads: int = 1, exchange: bool = True, maximize: bool = False, **options: object
) -> tuple[float | None, bool]:
    """Takes the step in place; all tensors must be taken."""
    tensor_list = _core.TensorList(isa, torch.Tensor, exchange)
    assert this.extend(tensor_list, maximize=maximize) == []
    return tensor_list.step(n_threads, **options)


# The integers of a tensor's element size, and what infinity is among them.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
INFINITY = {
    dtype: torch.tensor(torch.inf, dtype=dtype).view(INTEGERS[dtype.itemsize]).item()
    for dtype in (*DTYPES, torch.float64)
}


def bits(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as integers, all NaNs made one: which NaN comes out is the CPU's choice."""
    flat = tensor.detach().contiguous().reshape(-1)
    stored = flat.view(INTEGERS[tensor.element_size()]).numpy()
    return np.where((stored & np.iinfo(stored.dtype).max) > INFINITY[tensor.dtype], -1, stored)


def assert_same_bits(got: Problem, want: Problem, what: str = "") -> None:
    """All operands and counters are equal, bit by bit."""
    names = [*operand_names(want.kernel), "step"]
    for name, ours, theirs in zip(names, [*got.operands, got.steps], [*want.operands, want.steps], strict=True):
        assert_same_tensors(ours, theirs, f"{what}: {name}")


def assert_same_tensors(got: Sequence[Tensor], want: Sequence[Tensor], what: str) -> None:
    """Two lists are equal, bit by bit: at once, because they may be long, and one by one to say where they differ."""
    assert [(x.numel(), x.dtype) for x in got] == [(x.numel(), x.dtype) for x in want], f"{what}: lengths or dtypes"
    if not got or np.array_equal(*(bits(torch.cat([x.reshape(-1) for x in tensors])) for tensors in (got, want))):
        return
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        differ = np.flatnonzero(bits(a) != bits(b))
        assert differ.size == 0, (
            f"{what} of tensor {i} differs in {differ.size} of {a.numel()} elements, first in {differ[0]}: "
            f"{a.reshape(-1)[differ[0]].item()!r}, expected {b.reshape(-1)[differ[0]].item()!r}"
        )


# A rounding to float changes a number by at most this, relatively.
UNIT = 2.0**-24
# Roundings that fall on one input of a formula on its way to an output (see bounds).
ROUNDINGS = 8


def bounds(kernel: str, t: float, operands: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the definition gives for each operand, and how far float arithmetic may be from that.

    Every rounding inside a formula multiplies one intermediate number by 1 + d, |d| <= UNIT. In formulas made of sums,
    products, quotients and roots that is the same as changing one of the inputs that were multiplied into it: an
    operand, or a hyper-parameter like lr that is a factor of its term. On the longest way, AdamW's update, seven
    roundings fall on lr: step_size, rsqrt_c2, root, fma, quotient, product and the sum with the decay. So an output may
    be off by what a change of every input by ROUNDINGS units does to it, each taken alone and added up, and by one
    rounding of the output itself. Decay rates are not changed: their rounding falls on the moment that they multiply
    and 1 - beta is a factor of the gradient, rounded once. (Nor is dampening, for the same reason, nor lr_decay, which
    is used up in double.) A sum that is used again, like Adam's g + wd p, passes its rounding on to all its terms.

    Lion's step is a sign, and so jumps. Near a tie of its two terms, changing one of them turns the sign one way and
    changing the other turns it the other way: the bound there is the size of both steps together, so either sign is
    allowed, and everywhere else it is as small as for the other kernels.
    """
    hyper = hyper_of(kernel)

    def run(changed_hyper: Sequence[float], changed: Sequence[np.ndarray]) -> list[np.ndarray]:
        arrays = [np.ascontiguousarray(x, dtype=np.float64).copy() for x in changed]
        _core.reference(kernel, changed_hyper, t, arrays)
        return arrays

    want = run(hyper, operands)
    bound = [UNIT * np.abs(x) for x in want]
    more = 1 + ROUNDINGS * UNIT
    variants = [(hyper, [x * more if i == j else x for i, x in enumerate(operands)]) for j in range(len(operands))]
    for j, name in enumerate(_core.describe_kernel(kernel)["hyper"]):
        if HYPER[name][1]:
            variants.append(([h * more if i == j else h for i, h in enumerate(hyper)], operands))
    for changed in variants:
        for k, x in enumerate(run(*changed)):
            bound[k] += np.abs(x - want[k])
    return want, bound


def stored_states_bound(
    kernel: str,
    t: float,
    operands: Sequence[np.ndarray],
    want: Sequence[np.ndarray],
    dtypes: Sequence[torch.dtype],
) -> np.ndarray:
    """How far the parameter may be off because a kernel of two passes reads its new states back as they are stored.

    For each state: the change of the old state that changes the new one by half a unit of its storage, and what that
    does to the parameter. Then what all elements together do to the norm of the update, by which it is divided: that
    changes by no more, relatively, than the norm of the changes.
    """
    bound = np.zeros_like(want[0])
    if not _core.describe_kernel(kernel)["two_passes"]:
        return bound
    for j in range(2, len(operands)):
        unit = 1.1 * half_ulp(np.abs(want[j]), dtypes[j])  # more, for what float arithmetic adds before it is stored

        def run(change: np.ndarray, j: int = j) -> list[np.ndarray]:
            arrays = [x + change if i == j else x.copy() for i, x in enumerate(operands)]
            _core.reference(kernel, hyper_of(kernel), t, arrays)
            return arrays

        slope = (run(unit)[j] - want[j]) / np.where(unit == 0, 1, unit)
        bound += np.abs(run(unit / np.where(slope == 0, 1, slope))[0] - want[0])
    update = np.abs(want[0] - operands[0])
    return bound + update * (np.linalg.norm(bound) / max(np.linalg.norm(update), np.finfo(float).tiny))


def half_ulp(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Half the distance of the numbers of a dtype around x: what storing may change; nothing for float."""
    if dtype is torch.float32:
        return np.zeros_like(x)
    info = torch.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(x), info.smallest_normal)))
    return 0.5 * info.eps * np.exp2(exponent)


def check_against_reference(kernel: str, take: Callable[[Problem], object], this: Problem, n_steps: int = 1) -> None:
    """Takes steps and compares each with the definition; a step that does nothing fails, whatever the bound.

    Args:
        kernel: name of the kernel.
        take: takes one step of a problem with one tensor, in place.
        this: the problem; new gradients are drawn from step to step.
        n_steps: how many steps.
    """
    generator = np.random.default_rng(1)
    for _ in range(n_steps):
        before = [operand[0].double().numpy() for operand in this.operands]
        t = float(this.steps[0]) + 1
        want, bound = bounds(kernel, t, before)
        bound[0] += stored_states_bound(kernel, t, before, want, [operand[0].dtype for operand in this.operands])
        take(this)
        for j, name in enumerate(operand_names(kernel)):
            got = this.operands[j][0]
            if name == "grad":
                assert np.array_equal(before[j], got.double().numpy()), "the gradient was written"
                continue
            error = np.abs(got.double().numpy() - want[j])
            allowed = bound[j] + half_ulp(np.abs(want[j]) + bound[j], got.dtype)
            wrong = np.flatnonzero(~(error <= allowed))
            assert wrong.size == 0, (
                f"{kernel} {name}: {wrong.size} of {error.size} elements are off, first in {wrong[0]}: "
                f"got {got[wrong[0]].item()!r}, expected {want[j][wrong[0]]!r} +- {allowed[wrong[0]]:.2g}"
            )
            # Among few states none may move: a running maximum that stays.
            moved = np.abs(want[j] - before[j]) > 100 * bound[j]
            assert moved.any() or error.size < (7 if j == 0 else 100), f"{name}: the bound is not far below the step"
        grad = this.operands[1][0]
        grad.copy_(torch.from_numpy(generator.standard_normal(grad.shape)))


def check_all(cases: Iterable[tuple], check: Callable[..., object]) -> None:
    """Checks every case and names all that fail: one test for what is too small to be thousands."""
    failed = []

    def passes(case: tuple) -> None:
        try:
            check(*case)
        except AssertionError as error:
            failed.append(f"{case}: {error}")

    for case in cases:
        passes(case)
    assert not failed, f"{len(failed)} cases fail:\n" + "\n".join(failed)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a script in a fresh interpreter; what it prints is in the result."""
    clean = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)  # noqa: S603


def run_tool(*command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """Runs a program; what it prints is in the result."""
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=timeout)  # noqa: S603
