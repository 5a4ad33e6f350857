"""How fast are the kernels of gradient reduction alone, and how exact is a sum of 2 to 64 shards?"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import reduce_error
import report
import torch
from harness import LIMIT, OURS, TORCH, Lab, Rival, Row, Wanted
from memory_limit import Traffic
from torch import Tensor

from gaudi3_rt import reduce

STACK = "torch.stack().mean(0)"
CHAIN = "add_ chain"
PASSES = "two passes"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHARES_WANTED = 0.8
STACK_WANTED = 20.0


def _random(numel: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_shards(lab: Lab, limit_library: ctypes.CDLL, dtype: str, n: int) -> None:
    """The mean of n shards. The limit reads all that a mean reads and writes, at the speed at which memory is read."""
    shards = [_random(lab.scale.shard, DTYPES[dtype], seed) for seed in range(n)]
    out, sums = torch.empty_like(shards[0]), torch.empty_like(shards[0])
    passes = [Traffic(limit_library, read=[[tensor]]) for tensor in (*shards, out)]

    def chain() -> None:
        sums.copy_(shards[0])
        for shard in shards[1:]:
            sums.add_(shard)
        sums.div_(n)

    rivals = {
        OURS: lambda: reduce.reduce_shards(shards, out, "mean"),
        STACK: lambda: torch.stack(shards).mean(0),
        CHAIN: chain,
        LIMIT: lambda: [one.run() for one in passes],
    }
    exact = torch.stack([shard.double() for shard in shards]).mean(0)
    reduce.reduce_shards(shards, out, "mean")
    half_ulp = torch.finfo(DTYPES[dtype]).eps / 2
    torch.testing.assert_close(out.double(), exact, rtol=half_ulp, atol=1e-6)

    lab.benchmark.group = "reduce_shards"
    samples = lab.race({name: Rival(run) for name, run in rivals.items()})
    moved = (n + 1) * out.nbytes
    wanted = [Wanted("share", SHARES_WANTED)]
    if dtype == "bfloat16":
        wanted.append(Wanted("speed", STACK_WANTED, rival=STACK))
    question = f"mean of {n} shards, {dtype}"
    lab.rows.append(Row(f"{question}, against {STACK}", "", samples, rival=STACK, moved_bytes=moved, wanted=wanted))
    lab.rows.append(Row(f"{question}, against {CHAIN}", "", samples, rival=CHAIN, moved_bytes=moved))


def test_reduce_shards_measured(lab: Lab) -> None:
    """What the sum of squares adds when it is found in the same pass, against a pass of its own."""
    shards = [_random(lab.scale.shard, torch.float32, seed) for seed in range(4)]
    out = torch.empty_like(shards[0])

    def two_passes() -> None:
        reduce.reduce_shards(shards, out)
        reduce.sum_squares([out])

    _race(
        lab, "sum and sum of squares", Contest(lambda: reduce.reduce_shards_measured(shards, out), two_passes), PASSES
    )


@dataclass(frozen=True)
class Contest:
    """Ours, torch's expression, and the arrays that an ideal implementation reads and writes."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    arrays: Sequence[Tensor] = ()


def _gradients(numel: int) -> list[Tensor]:
    return [part.view(-1, 64) for part in torch.split(_random(numel, torch.float32, 1), numel // 8)]


def _packing(numel: int, dtype: torch.dtype) -> Contest:
    grads, bucket = _gradients(numel), torch.empty(numel, dtype=dtype)
    return Contest(
        lambda: reduce.pack_(bucket, grads, scale=0.5),
        lambda: bucket.copy_(torch.cat([grad.view(-1) for grad in grads]).mul_(0.5)),
        [bucket, *grads],
    )


def _unpacking(numel: int, dtype: torch.dtype) -> Contest:
    grads, bucket = _gradients(numel), torch.zeros(numel, dtype=dtype)
    return Contest(
        lambda: reduce.unpack_(grads, bucket),
        lambda: [grad.copy_(part.view(grad.shape)) for grad, part in zip(grads, bucket.chunk(8), strict=True)],
        [bucket, *grads],
    )


def _accumulating(numel: int, dtype: torch.dtype) -> Contest:
    main, grad = torch.zeros(numel), _random(numel, dtype, 2)
    return Contest(
        lambda: reduce.accumulate_(main, grad, scale=0.5), lambda: main.add_(grad, alpha=0.5), [main, main, grad]
    )


def _rounding(numel: int) -> Contest:
    value = _random(numel, torch.float32, 3)
    sent = reduce.compress(value)
    return Contest(lambda: reduce.compress(value, out=sent), lambda: value.to(torch.bfloat16), [value, sent])


def _coding(numel: int) -> Contest:
    value = _random(numel, torch.float32, 3)
    codes = reduce.compress(value, "int8")
    return Contest(lambda: reduce.compress(value, "int8", out=codes), lambda: _int8(value), [value, codes])


def _coding_with_feedback(numel: int) -> Contest:
    value, residual, left = _random(numel, torch.float32, 3), torch.zeros(numel), torch.zeros(numel)
    codes = reduce.compress(value, "int8")

    def theirs() -> None:
        wanted = value + left
        torch.sub(wanted, _decoded(*_int8(wanted)), out=left)

    return Contest(
        lambda: reduce.compress(value, "int8", residual=residual, out=codes),
        theirs,
        [value, residual, residual, codes],
    )


def _decoding(numel: int) -> Contest:
    value = _random(numel, torch.float32, 3)
    codes, theirs, back = reduce.compress(value, "int8"), _int8(value), torch.empty(numel)
    return Contest(lambda: reduce.decompress(codes, out=back), lambda: _decoded(*theirs), [codes, back])


def _int8(value: Tensor) -> tuple[Tensor, Tensor]:
    blocks = value.view(-1, 256)
    scales = blocks.abs().amax(1, keepdim=True) / 127
    return (blocks / scales).round().to(torch.int8), scales


def _decoded(codes: Tensor, scales: Tensor) -> Tensor:
    return (codes.float() * scales).view(-1)


KERNELS: dict[str, Callable[[int], Contest]] = {
    **{f"pack_ 8 tensors into {name}": partial(_packing, dtype=dtype) for name, dtype in DTYPES.items()},
    **{f"unpack_ 8 tensors from {name}": partial(_unpacking, dtype=dtype) for name, dtype in DTYPES.items()},
    **{f"accumulate_ {name}": partial(_accumulating, dtype=dtype) for name, dtype in DTYPES.items()},
    "compress to bfloat16": _rounding,
    "compress to int8": _coding,
    "compress to int8, error feedback": _coding_with_feedback,
    "decompress int8": _decoding,
}


@pytest.mark.parametrize("question", KERNELS)
def test_other_kernels(lab: Lab, limit_library: ctypes.CDLL, question: str) -> None:
    """Buckets, accumulation and compression, each against torch's expression."""
    contest = KERNELS[question](lab.scale.shard)
    passes = [Traffic(limit_library, read=[[array]]) for array in contest.arrays]
    _race(lab, question, contest, TORCH, lambda: [one.run() for one in passes])


def _race(lab: Lab, question: str, contest: Contest, rival: str, limit: Callable[[], Any] | None = None) -> None:
    lab.benchmark.group = question
    runs = {OURS: contest.ours, rival: contest.theirs} | ({} if limit is None else {LIMIT: limit})
    samples = lab.race({name: Rival(run) for name, run in runs.items()})
    moved = sum(array.nbytes for array in contest.arrays) or None
    lab.rows.append(Row(question, "", samples, rival=rival, moved_bytes=moved))


def test_error_against_float64(request: pytest.FixtureRequest) -> None:
    """Sums of 2 to 64 shards against float64: ours are nearer than those of rings. Leaves a chart and its numbers."""
    numel = 1 << (12 if request.config.getoption("--scale") == "tiny" else 16)
    errors = reduce_error.measure(numel)
    machine = report.describe_machine(os.getloadavg())
    out, keep = request.config.getoption("--out"), request.config.getoption("--keep")
    for stem in report.stems("reduce_error", machine, out, keep=keep):
        reduce_error.write(errors, stem, report.caption(machine))
    for n, tree, ring, tree_bf16, ring_bf16 in zip(reduce_error.COUNTS, *errors.values(), strict=True):
        assert tree <= ring, n
        assert tree_bf16 <= 1.001 * ring_bf16, n
