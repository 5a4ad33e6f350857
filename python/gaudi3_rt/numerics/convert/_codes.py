"""Numbers of 8 bits in blocks that share a scale: dynamic quantization, as bitsandbytes and torchao store moments.

Formula: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, section 2.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from gaudi3_rt.numerics.convert._values import Values

BLOCK = 256
_DECADES = 7
_PART = 2**15
"""Elements that are encoded at a time: what is between stays in a cache, and takes no memory to speak of.
Numpy does it in one thread, which is faster by far than a search by torch in several."""

_LOW_BITS = 15
"""Of a float32, what ``_lowest_codes`` leaves out: what is left tells numbers apart that differ by 1 part in 256."""


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


def decoded(codes: Tensor | Values, scales: Tensor, numbers: Tensor) -> Values:
    """What codes stand for, float32, in the shape of the codes.

    Args:
        codes: uint8, of any shape; blocks are counted over their elements in order.
        scales: of each block.
        numbers: what a code stands for in a block with scale 1.
    """
    table = numbers.detach().cpu().float().flatten().numpy()
    whole = codes if isinstance(codes, Values) else Values.of(codes)

    def part(start: int, stop: int) -> Tensor:
        found = torch.from_numpy(table.take(whole.part(start, stop).cpu().numpy()))
        return scaled(found, scales, start, whole.numel)

    return Values(whole.shape, torch.float32, part)


def decode(codes: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
    """The same, all of it at once."""
    return decoded(codes, scales, numbers).make()


def scaled(values: Tensor, scales: Tensor, start: int, total: int) -> Tensor:
    """Elements times the scales of their blocks, in place.

    Args:
        values: some elements, float32, on the CPU.
        scales: of all blocks.
        start: number of the first element.
        total: how many elements the blocks have together; all but the last have as many.
    """
    stop = start + values.numel()
    block = BLOCK if scales.numel() == -(-total // BLOCK) else max(total // max(scales.numel(), 1), 1)
    edges = np.arange(start // block, -(-stop // block) + 1) * block
    counts = np.diff(edges.clip(start, stop))
    of_blocks = scales.detach().flatten()[start // block :][: counts.size].cpu().float()
    return values.mul_(torch.from_numpy(of_blocks.numpy().repeat(counts)))


def scales_of(values: Tensor) -> Tensor:
    """The largest magnitude of each block, float32."""
    flat = values.detach().flatten()
    scales = torch.empty(-(-flat.numel() // BLOCK))
    for start in range(0, flat.numel(), _PART):
        blocks = _blocks(flat[start : start + _PART])
        scales[start // BLOCK :][: len(blocks)] = blocks.abs().amax(1)
    return scales


def encode(values: Tensor, numbers: Tensor) -> Tensor:
    """The nearest codes, in the shape of the values."""
    flat = values.detach().cpu().flatten()
    middles = (numbers[:-1] + numbers[1:]) / 2
    table = _lowest_codes(tuple(middles.tolist())).numpy()
    between = np.append(middles.numpy(), np.float32(np.inf))
    codes = torch.empty(flat.numel(), dtype=torch.uint8)
    for start in range(0, flat.numel(), _PART):
        blocks = _blocks(flat[start : start + _PART]).numpy()
        scales = np.abs(blocks).max(1, keepdims=True)
        ratios = (blocks / np.where(scales > 0, scales, np.float32(1))).ravel()
        found = table.take((ratios.view(np.int32) >> _LOW_BITS) + len(table) // 2)
        found += ratios > between.take(found)
        part = codes[start : start + _PART].numpy()
        part[:] = found[: part.size]
    return codes.view(values.shape)


def encoded(values: Values, numbers: Tensor) -> tuple[Values, Values]:
    """The nearest codes, and the scales of their blocks."""
    blocks = (-(-values.numel // BLOCK),)

    def aligned(start: int, stop: int) -> Tensor:
        return values.part(start * BLOCK, min(stop * BLOCK, values.numel))

    def codes(start: int, stop: int) -> Tensor:
        first = start // BLOCK
        return encode(aligned(first, -(-stop // BLOCK)), numbers)[start - first * BLOCK :][: stop - start]

    def scales(start: int, stop: int) -> Tensor:
        found = torch.empty(stop - start)
        few = _PART // BLOCK  # since each is made of a whole block of values
        for at in range(start, stop, few):
            found[at - start :][:few] = scales_of(aligned(at, min(at + few, stop)))
        return found

    return Values(values.shape, torch.uint8, codes), Values(blocks, torch.float32, scales)


@functools.lru_cache(4)
def _lowest_codes(between: tuple[float, ...]) -> Tensor:
    """By the upper bits of a float32, as a signed number from the lowest on: the lower of the codes that it may have.

    Numbers with these bits in common are at most one code apart, so that one comparison finds the code.
    """
    upper = torch.arange(-(2 ** (31 - _LOW_BITS)), 2 ** (31 - _LOW_BITS), dtype=torch.int32) << _LOW_BITS
    ends = torch.stack([upper, upper | (2**_LOW_BITS - 1)]).view(torch.float32)
    return torch.bucketize(ends, torch.tensor(between), out_int32=True).amin(0)


def _blocks(values: Tensor) -> Tensor:
    flat = values.float()
    return torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
