"""Codes of 8 bits are the nearest ones, and making them takes little memory beside the result."""

import subprocess
import sys

import pytest
import torch

from gaudi3_rt.numerics.convert._codes import BLOCK, decode, dynamic_map, encode, scales_of

LIMITED = """
import resource, torch
from gaudi3_rt.numerics.convert._codes import decode, dynamic_map, encode, scales_of
torch.set_num_threads(1)
numbers = dynamic_map(signed=True)
small = torch.ones(2**16)
decode(encode(small, numbers), scales_of(small), numbers)
values = torch.ones(2**24)  # 64 MiB
def used():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used() + 48 * 2**20,) * 2)
codes = encode(values, numbers)
scales = scales_of(values)
del values
assert bool((decode(codes, scales, numbers) == 1).all())
"""


def searched(values, numbers):
    """The nearest codes, each by a search."""
    blocks = torch.nn.functional.pad(values, (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    between = (numbers[:-1] + numbers[1:]) / 2
    found = torch.bucketize(blocks / torch.where(scales > 0, scales, 1), between)
    return found.flatten()[: values.numel()].to(torch.uint8)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 2**15, 2**15 + 3, 200_000])
def test_each_code_is_the_nearest(signed, size):
    """Over all decades; blocks of zeros and the last, shorter one among them."""
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(size, generator=generator) * torch.exp(4 * torch.randn(size, generator=generator))
    values = values if signed else values.abs()
    values[256:512] = 0
    numbers = dynamic_map(signed=signed)
    codes, scales = encode(values, numbers), scales_of(values)
    assert torch.equal(codes, searched(values, numbers))
    expected = numbers[codes.int()] * scales.repeat_interleave(BLOCK)[:size]
    assert torch.equal(decode(codes, scales, numbers), expected)


@pytest.mark.parametrize("signed", [True, False])
def test_between_two_codes(signed):
    """At each middle of two numbers, and at the next float32 on both sides of it."""
    numbers = dynamic_map(signed=signed)
    middles = (numbers[:-1] + numbers[1:]) / 2
    every = torch.cat([numbers, middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0))])
    values = torch.cat([torch.nn.functional.pad(part, (0, BLOCK - len(part)), value=1.0) for part in every.split(200)])
    assert torch.equal(encode(values, numbers), searched(values, numbers))


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory that holds is Linux's")
def test_memory_is_that_of_the_result():
    """64 MiB become 16 MiB of codes, and these 64 MiB again, within 48 MiB beside the values."""
    subprocess.run([sys.executable, "-c", LIMITED], check=True, timeout=120, capture_output=True)  # noqa: S603 (ours)
