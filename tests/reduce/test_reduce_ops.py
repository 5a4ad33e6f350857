"""torch.ops.gaudi3_rt.* of reduction pass torch's own check of operators, and are the functions."""

import pytest
import torch
from _shards import numbers

from gaudi3_rt.reduce import accumulate_, compress, decompress, reduce_shards

OPS = torch.ops.gaudi3_rt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operators_pass_torchs_check(dtype):
    """Schemas, fake kernels, mutation and aliasing."""
    shards = [numbers(520, dtype, i) for i in range(3)]
    torch.library.opcheck(OPS.reduce_shards.default, (shards, "mean", 0.5))
    torch.library.opcheck(OPS.accumulate_.default, ([torch.zeros(520)], shards[:1], 2.0))
    for wire in ("bfloat16", "int8"):
        torch.library.opcheck(OPS.compress.default, (shards[0], wire, 0.5, torch.zeros(520)))
        torch.library.opcheck(OPS.decompress.default, (compress(shards[0], wire), 0.5))


def test_operators_are_the_functions():
    """Same bits."""
    shards = [numbers(520, torch.bfloat16, i) for i in range(3)]
    assert torch.equal(OPS.reduce_shards(shards, "mean", 0.5), reduce_shards(shards, op="mean", scale=0.5))
    mains = [torch.ones(520), torch.ones(520)]
    OPS.accumulate_(mains[:1], shards[:1], 0.3)
    accumulate_(mains[1], shards[0], scale=0.3)
    assert torch.equal(*mains)
    sent = compress(shards[0], "int8")
    assert torch.equal(OPS.compress(shards[0], "int8"), sent)
    assert torch.equal(OPS.decompress(sent, 2.0), decompress(sent, scale=2.0))
