"""Numbers of 8 bits in blocks that share a scale: dynamic quantization, as bitsandbytes and torchao store moments.

Formula: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, section 2.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

BLOCK = 256
_DECADES = 7
_PART = 2**20
"""Elements that are encoded at a time, so that what is between stays small."""


@functools.cache
def dynamic_map(*, signed: bool) -> Tensor:
    """The 256 numbers that codes stand for, ascending, from -1 or 0 to 1.

    Each decade below 1 has twice as many codes as the one below it: the middles of equal parts of [0.1, 1] times a
    power of ten. Unsigned maps have twice as many in each. 0 and 1 complete them.
    """
    numbers = [0.0, 1.0]
    for decade in range(_DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1)
        middles = (10.0 ** (decade - _DECADES + 1) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        numbers += middles + ([-number for number in middles] if signed else [])
    return torch.tensor(sorted(numbers))


def decode(codes: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
    """What codes stand for, float32, in the shape of the codes.

    Args:
        codes: uint8, of any shape; blocks are counted over their elements in order.
        scales: of each block.
        numbers: what a code stands for in a block with scale 1.
    """
    block = BLOCK if scales.numel() == -(-codes.numel() // BLOCK) else codes.numel() // max(scales.numel(), 1)
    values = numbers.float()[codes.flatten().int()]
    return (values * scales.float().flatten().repeat_interleave(block)[: values.numel()]).view(codes.shape)


def scales_of(values: Tensor) -> Tensor:
    """The largest magnitude of each block, float32."""
    return _blocks(values).abs().amax(1)


def encode(values: Tensor, numbers: Tensor) -> Tensor:
    """The nearest codes, in the shape of the values."""
    flat = values.detach().flatten()
    between = (numbers[:-1] + numbers[1:]) / 2
    codes = torch.empty(flat.numel(), dtype=torch.uint8)
    for start in range(0, flat.numel(), _PART):
        blocks = _blocks(flat[start : start + _PART])
        scales = blocks.abs().amax(1, keepdim=True)
        found = torch.bucketize(blocks / torch.where(scales > 0, scales, 1), between, out_int32=True)
        part = codes[start : start + _PART]
        part.copy_(found.flatten()[: part.numel()])
    return codes.view(values.shape)


def _blocks(values: Tensor) -> Tensor:
    flat = values.detach().float().flatten()
    return torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
