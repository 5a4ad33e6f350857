"""Gradient reduction on an "hpu" device: by its operators where they take the tensors, with the CPU's bits."""

import logging

import pytest
import torch
from _hpu import Waits
from _shards import assert_same_bits, numbers

from gaudi3_rt import reduce
from gaudi3_rt.optim import _hpu as ours
from gaudi3_rt.reduce import _shards as shards_module

pytestmark = pytest.mark.usefixtures("calls")

DTYPES = [torch.float32, torch.bfloat16]


def there(tensors):
    """Copies on the device."""
    return [tensor.to("hpu") for tensor in tensors]


def names(calls):
    """The kernels that ran, in order."""
    return [name for name, _ in calls]


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_those_of_a_cpu(dtype, out_dtype, calls, caplog):
    """Sum and mean of few and many shards, into the dtypes of the operators; nothing is waited for, nothing said."""
    widths = ["cast_bf16_to_f32"] if (dtype, out_dtype) == (torch.bfloat16, torch.float32) else []
    narrows = ["cast_f32_to_bf16"] if (dtype, out_dtype) == (torch.float32, torch.bfloat16) else []
    suffix = "f32" if torch.float32 in {dtype, out_dtype} else "bf16"
    for n, op in ((2, "sum"), (5, "mean"), (11, "mean")):
        here = [numbers(700, dtype, seed).view(7, 100) for seed in range(n)]
        out = torch.zeros(7, 100, dtype=out_dtype).to("hpu")
        shards, before = there(here), (out.data_ptr(), out._version)
        calls.clear()
        with caplog.at_level(logging.WARNING, logger="gaudi3_rt"), Waits() as waits:
            assert reduce.reduce_shards(shards, out, op, scale=0.37) is out
        assert waits.count == 0
        assert names(calls) == [*widths, f"reduce_shards_{suffix}", *narrows]
        assert out.data_ptr() == before[0]
        assert out._version > before[1]
        want = reduce.reduce_shards(here, torch.empty(7, 100, dtype=out_dtype), op, scale=0.37)
        assert_same_bits(out.cpu(), want, f"{op} of {n}")
    assert not caplog.records


def test_rows_are_not_copied(calls, monkeypatch):
    """The rows of one tensor are what the operator reads; shards in another order are not taken for them."""
    rows = torch.stack([numbers(300, seed=seed) for seed in range(3)])
    on_device = rows.to("hpu")
    want = reduce.reduce_shards(rows)
    backwards = reduce.reduce_shards(list(rows.flip(0)))
    assert not torch.equal(want, backwards)
    assert_same_bits(reduce.reduce_shards([on_device[2], on_device[1], on_device[0]]).cpu(), backwards)
    part = reduce.reduce_shards([on_device[0, :100], on_device[1, :100], on_device[2, :100]])
    assert_same_bits(part.cpu(), want[:100])
    assert_same_bits(reduce.reduce_shards(on_device.view(-1)[300:].view(2, 300)).cpu(), reduce.reduce_shards(rows[1:]))
    monkeypatch.delattr(torch, "stack")
    assert_same_bits(reduce.reduce_shards(on_device).cpu(), want)
    assert names(calls) == ["reduce_shards_f32"] * 4


def test_layouts_and_places(calls):
    """Transposed shards among others, the sum in place of a shard, and tensors without elements or dimensions."""
    here = [numbers(600, seed=seed).view(20, 30) for seed in range(3)]
    here[1] = here[1].t().contiguous().t()
    shards = there(here)
    assert reduce.reduce_shards(shards, shards[1]) is shards[1]
    assert_same_bits(shards[1].cpu(), reduce.reduce_shards(here))
    assert_same_bits(shards[0].cpu(), here[0])
    assert names(calls) == ["reduce_shards_f32"]
    assert reduce.reduce_shards(there([torch.empty(0, 3)] * 2)).shape == (0, 3)
    assert names(calls) == ["reduce_shards_f32"]
    assert reduce.reduce_shards(there([torch.tensor(1.0), torch.tensor(2.0)])).item() == 3


def test_measured_sums(calls):
    """The sum of squares of what is stored, and what is not finite, of several chunks."""
    here = [numbers(70_000, torch.bfloat16, seed) for seed in range(2)]
    got, want = (reduce.reduce_shards_measured(shards) for shards in (there(here), here))
    assert_same_bits(got.out.cpu(), want.out)
    assert got.sum_squares == pytest.approx(want.sum_squares, rel=1e-13)
    assert got.nonfinite == 0
    here[0][69_999] = torch.inf
    assert reduce.reduce_shards_measured(there(here)).nonfinite == 1
    assert set(names(calls)) == {"reduce_shards_bf16"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accumulation(dtype, calls, caplog):
    """Lists of several layouts, in place; with the CPU's bits and without waiting."""
    mains = [numbers(600, seed=1).view(20, 30), torch.zeros(0, 4), numbers(35, seed=2).view(5, 7).t()]
    grads = [numbers(600, dtype, 3).view(20, 30), torch.zeros(0, 4, dtype=dtype), numbers(35, dtype, 4).view(7, 5)]
    on_device, before = there(mains), [tensor.clone() for tensor in mains]
    addresses = [(tensor.data_ptr(), tensor._version) for tensor in on_device]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"), Waits() as waits:
        reduce.accumulate_(on_device, there(grads), scale=0.3)
    assert waits.count == 0
    assert not caplog.records
    assert names(calls) == [f"accumulate_{ours.SUFFIXES[dtype]}"] * 2
    reduce.accumulate_(before, grads, scale=0.3)
    for got, want, (address, version) in zip(on_device, before, addresses, strict=True):
        assert_same_bits(got.cpu(), want)
        assert got.data_ptr() == address
        assert got._version > version


@pytest.mark.parametrize("bucket_dtype", DTYPES, ids=str)
def test_buckets(bucket_dtype, calls):
    """Into a bucket and out of it, scaled by operators; without a factor by the device's own copy."""
    here = [numbers(300, torch.float32, 1).view(10, 30), numbers(50, torch.bfloat16, 2)]
    suffix = ours.SUFFIXES[bucket_dtype]
    kernels = {f"{a}_to_{b}" if a != b else a for a in ("f32", "bf16") for b in (suffix,)}
    buckets = [torch.zeros(350, dtype=bucket_dtype).to(device) for device in ("hpu", "cpu")]
    for bucket, tensors in zip(buckets, (there(here), here), strict=True):
        reduce.pack_(bucket, tensors, scale=0.3)
    assert_same_bits(buckets[0].cpu(), buckets[1])
    assert set(names(calls)) == {f"scale_{kernel}" for kernel in kernels}
    calls.clear()
    back = [[torch.zeros_like(tensor).to(device) for tensor in here] for device in ("hpu", "cpu")]
    for bucket, tensors in zip(buckets, back, strict=True):
        reduce.unpack_(tensors, bucket)
    for got, want in zip(*back, strict=True):
        assert_same_bits(got.cpu(), want)
    assert not calls


def _cover(device):
    out = torch.zeros(40).to(device)
    nodes = [numbers(40, seed=seed).to(device) for seed in range(3)]
    shards_module.reduce_nodes([out], [nodes], [0, 0, 2])
    return out


def _half_sums(device):
    return reduce.reduce_shards([numbers(40, torch.float16, seed).to(device) for seed in range(3)])


def _half_into_main(device):
    main = numbers(40, seed=1).to(device)
    reduce.accumulate_(main, numbers(40, torch.float16, 2).to(device), scale=0.3)
    return main


def _half_bucket(device):
    return reduce.pack_(torch.zeros(40).to(device), [numbers(40, torch.float16, 2).to(device)], scale=0.3)


LEFT_TO_TORCH = {
    "sums of partial sums of shards": _cover,
    "sums of shards of torch.float16": _half_sums,
    "accumulation of torch.float16": _half_into_main,
    "casts of torch.float16": _half_bucket,
}


@pytest.mark.parametrize("what", LEFT_TO_TORCH)
def test_the_rest_is_left_to_torch(what, calls, caplog):
    """Other trees and dtypes: the same bits, which is said once."""
    make = LEFT_TO_TORCH[what]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for _ in range(2):
            assert_same_bits(make("hpu").cpu(), make("cpu"))
    (record,) = caplog.records
    assert f"no kernel for {what}" in record.message
    assert "load()" not in record.message
    assert not calls


def test_without_the_operators_torch_does_it(calls, caplog, monkeypatch):
    """The same bits; one line says how to load them."""
    monkeypatch.setattr(ours, "_loaded", False)
    here = [numbers(40, seed=seed) for seed in range(3)]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        assert_same_bits(reduce.reduce_shards(there(here)).cpu(), reduce.reduce_shards(here))
    (record,) = caplog.records
    assert "gaudi3_rt.hpu.load()" in record.message
    assert not calls


def test_an_error_of_the_device_leaves_the_tensors(graph_compiler):
    """What would be written is as it was."""
    graph_compiler.fails = "reduce_shards_f32"
    here = [numbers(40, seed=seed) for seed in range(2)]
    shards = there(here)
    with pytest.raises(RuntimeError, match="the device is gone"):
        reduce.reduce_shards(shards, shards[0])
    assert_same_bits(shards[0].cpu(), here[0])
