"""Any part of a tensor that is made in parts has the elements that the whole tensor has there."""

import types

import pytest
import torch
from _convert_layouts import assert_same, moments, torch_state

from gaudi3_rt import optim
from gaudi3_rt.numerics.convert import _sample, _torchao, _values, convert_state
from gaudi3_rt.numerics.convert._codes import decode, dynamic_map, encode, encoded, scales_of
from gaudi3_rt.numerics.convert._layouts import LAYOUTS
from gaudi3_rt.numerics.convert._records import Request
from gaudi3_rt.numerics.convert._values import Values, concatenated, elements


def assert_parts(values, whole, step=37):
    """In steps that fit no block, and all of it."""
    flat = whole.reshape(-1)
    assert values.shape == tuple(whole.shape)
    assert values.dtype is whole.dtype
    for start in range(0, flat.numel(), step):
        for stop in (start, start + 1, min(start + step + 3, flat.numel()), flat.numel()):
            assert torch.equal(values.part(start, stop), flat[start:stop])
    assert torch.equal(values.make(), whole)


ORDERS = {
    "contiguous": lambda: torch.arange(120.0).view(4, 5, 6),
    "transposed": lambda: torch.arange(120.0).view(10, 12).t(),
    "channels last": lambda: torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "one row": lambda: torch.arange(120.0).view(10, 12).t()[None],
    "strided": lambda: torch.arange(240.0).view(10, 24)[:, ::2],
    "expanded": lambda: torch.arange(12.0).expand(10, 12),
    "no dimension": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 3),
}


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_tensors(order):
    """Whatever the order of their memory."""
    tensor = ORDERS[order]()
    assert_parts(Values.of(tensor), tensor)
    flat = tensor.reshape(-1)
    assert torch.equal(elements(tensor, 0, flat.numel()), flat)
    assert_parts(Values.of(tensor).to(torch.bfloat16), tensor.bfloat16())


def test_parts_of_windows_and_of_tensors_in_a_line(monkeypatch):
    """Empty ones among them; a whole is made of blocks."""
    monkeypatch.setattr(_values, "BLOCK", 16)
    parts = [
        torch.arange(0.0),
        torch.arange(7.0),
        torch.arange(40.0).view(5, 8).t(),
        torch.arange(0.0),
        torch.arange(9.0),
    ]
    line = torch.cat([part.reshape(-1) for part in parts])
    every = concatenated(list(map(Values.of, parts)))
    assert_parts(every, line, 5)
    assert_parts(concatenated(list(map(Values.of, parts)), (7, 8)), line.view(7, 8), 5)
    assert_parts(every.window(5, (3, 9)), line[5:32].view(3, 9), 4)


@pytest.mark.parametrize("size", [255, 256, 1000, 70_000])
def test_parts_of_codes(size):
    """Of blocks that begin before a part and end after it."""
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    numbers = dynamic_map(signed=True)
    codes, scales = encoded(Values.of(values), numbers)
    assert_parts(codes, encode(values, numbers), size // 3 + 1)
    assert_parts(scales, scales_of(values), 5)
    whole = decode(codes.make(), scales.make(), numbers)
    assert_parts(concatenated([Values.of(whole)]), whole, size // 3 + 1)


@pytest.mark.parametrize("block", [128, 256, 1280])
@pytest.mark.parametrize("kind", ["8 bits", "4 bits", "float8"])
def test_parts_of_torchaos_codes(kind, block):
    """Two of 4 bits are in a byte; one block may be all of a tensor."""
    generator = torch.Generator().manual_seed(block)
    scale = torch.rand(1280 // block, generator=generator)
    numbers = torch.linspace(-1, 1, 16 if kind == "4 bits" else 256)
    codes = torch.randint(0, len(numbers), (1280,), generator=generator, dtype=torch.uint8)
    stored, unit = codes, numbers[codes.int()]
    if kind == "4 bits":
        stored = codes[::2] << 4 | codes[1::2]
    elif kind == "float8":
        stored = unit.to(torch.float8_e4m3fn)
        unit = stored.float()
    tensor = types.SimpleNamespace(shape=torch.Size((32, 40)), codes=stored, scale=scale, qmap=numbers)
    assert_parts(_torchao.decoded(tensor), (unit * scale.repeat_interleave(block)).view(32, 40), 201)


@pytest.mark.parametrize("shape", [(64, 128), (60, 70), (64, 32, 3, 3)])
@pytest.mark.parametrize("permuted", [False, True])
def test_our_codes_in_the_order_of_their_memory(shape, permuted):
    """Of parameters that are channels_last or transposed, blocks are counted as they lie there."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=generator) * torch.exp(torch.randn(shape, generator=generator))
    if permuted:
        values = values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values.t()
    param = torch.nn.Parameter(values)
    ours = optim.FusedAdamW([param], moments_dtype=torch.int8)
    param.grad = param.detach() ** 3
    ours.step()
    assert ours.state_dict()["state"][0]["exp_avg_codes"].is_contiguous() != permuted
    plain = optim.FusedAdamW([param])
    plain.load_state_dict(ours.state_dict())
    converted = convert_state(ours.state_dict(), steps=1)
    assert_same(converted.state_dict["state"], plain.state_dict()["state"])
    expected = plain.state_dict()["state"][0]["exp_avg"]
    read = next(LAYOUTS["gaudi3_rt"].read(ours.state_dict(), Request()).params())
    assert_parts(read.moments["exp_avg"], expected, expected.numel() // 3 + 5)


# What a certificate looks at


def test_a_sample_is_no_larger_than_it_may_be(monkeypatch):
    """Whatever the shapes: one row may be all of a parameter, and parameters may be more than blocks fit in."""
    monkeypatch.setattr(_sample, "SAMPLE", 2**12)
    for shapes in (((1, 50_000),), ((300, 20),) * 40, ((), (5000,), (20_000, 1))):
        pairs = moments(shapes)
        names = [f"p{i}" for i in range(len(pairs))]
        for target, dtype in (("deepspeed", None), ("bitsandbytes", torch.uint8)):
            found = convert_state(
                torch_state(pairs, [5] * len(pairs), names=names),
                target=target,
                moments_dtype=dtype,
                allow_lossy=True,
                steps=1,
            ).certificate
            assert 2**11 < found.elements[1] <= 2**12
            assert found.parameters == (len(pairs), min(len(pairs), 16))
            assert found.reproduces == (dtype is None)


def test_a_sample_keeps_the_count_of_every_parameter(monkeypatch):
    """FusedAdam of DeepSpeed has that of a group with its last parameter, which may not be looked at."""
    monkeypatch.setattr(_sample, "SAMPLE", 2**12)
    pairs = moments(((300, 20),) * 40)
    group = {"lr": 1e-3, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    state = {i: {"step": 0, "exp_avg": first, "exp_avg_sq": second} for i, (first, second) in enumerate(pairs)}
    state[39]["step"] = 12
    sd = {"state": state, "param_groups": [{**group, "step": 0, "params": list(range(40))}]}
    found = convert_state(sd, steps=1)
    assert found.certificate.reproduces
    assert found.certificate.parameters == (40, 16)
    assert {float(own["step"]) for own in found.state_dict["state"].values()} == {12.0}


def test_a_sample_of_our_codes(monkeypatch):
    """In the order of indices their first blocks; in another, all of the smallest."""
    monkeypatch.setattr(_sample, "SAMPLE", 2**12)
    for permuted in (False, True):
        params = [torch.nn.Parameter(torch.randn(96, 128).t() if permuted else torch.randn(96, 128)) for _ in range(40)]
        ours = optim.FusedAdamW(params, moments_dtype=torch.int8)
        for param in params:
            param.grad = param.detach().clone()
        ours.step()
        found = convert_state(ours.state_dict(), steps=1).certificate
        assert found.reproduces
        assert found.elements[1] == (96 * 128 if permuted else 2**12)
