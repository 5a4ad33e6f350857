"""Tensors for any kernel of the table: their sizes, and values that the kernel can make something of."""

import math

import torch
from _tpc_kernels import BLOCK, DTYPES, MEMBER

N_ROWS = 3
N_NUMBERS = 16  # of an operand that may have any number
RANGES = {"keys": (0, 16), "codes_per_octave": (8.0, 20.0)}  # a key may be a shift; codes are exponents
DEFAULT_RANGE = (0.05, 0.95)


def members(kernel, n):
    """Members of the index space for n elements."""
    return 1 if kernel["single_member"] else math.ceil(n / MEMBER)


def shape(operand, n):
    """Of an operand of a kernel that is called for n elements."""
    members_of, blocks = math.ceil(n / MEMBER), math.ceil(n / BLOCK)
    whole = operand["size"] or N_NUMBERS
    sizes = {"elements": n, "rows": n, "partial": members_of, "scales": blocks, "whole": whole}
    row = (sizes[operand["access"]],)
    return (N_ROWS, *row) if operand["access"] == "rows" else row


def shapes(kernel, n):
    """(shape, dtype) of the inputs and of the outputs for n elements."""
    return tuple([(shape(one, n), one["dtype"]) for one in kernel[side]] for side in ("inputs", "outputs"))


def tensors(kernel, n, seed=0):
    """Inputs with positive values of moderate size, and outputs that hold nothing."""
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = shapes(kernel, n)
    made = []
    for operand, (its_shape, dtype) in zip(kernel["inputs"], inputs, strict=True):
        is_float = DTYPES[dtype].is_floating_point
        low, high = RANGES.get(operand["name"], DEFAULT_RANGE if is_float else (0, 100))
        made.append((torch.rand(its_shape, generator=generator) * (high - low) + low).to(DTYPES[dtype]))
    return made, [torch.empty(its_shape, dtype=DTYPES[dtype]) for its_shape, dtype in outputs]
