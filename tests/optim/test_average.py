"""``ema_decay``: the average of the parameters, kept in the same pass, and put into place for a while."""

import copy

import numpy as np
import pytest
import torch
from _training import OPTIMIZERS, assert_same, everything, parameters, train

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW

PARAMS = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {}),
    "stochastic": (torch.bfloat16, {"rounding": "stochastic"}),
    "split": (torch.bfloat16, {"master": "split"}),
    "master": (torch.bfloat16, {"master": "float32"}),
}


def stored(optimizer, p):
    """The number that a parameter is: of exact ones, the float32."""
    own = optimizer.state[p]
    codec, beside = ("bf16_split", "param_low") if "param_low" in own else ("bf16_master", "param_master")
    if beside not in own:
        return p.detach().float()
    values = torch.empty(p.numel())
    _core.decode("scalar", torch.Tensor, codec, p.detach().view(torch.int16).flatten(), own[beside].flatten(), values)
    return values.view(p.shape)


def lerp(average, param, weight):
    """torch.lerp for float32 as one fused operation: the product is exact in float64, the sum rounded once."""
    return (average.double() + float(np.float32(weight)) * (param - average).double()).float()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("storage", PARAMS)
def test_the_average_follows_what_is_stored(optimizer, storage):
    """After each step it moves by the weight towards the new parameter as it is stored, bit for bit."""
    dtype, options = PARAMS[storage]
    this = OPTIMIZERS[optimizer](parameters(dtype), ema_decay=0.75, **options)
    params = this.param_groups[0]["params"]
    want = [p.detach().float().clone() for p in params]
    for step in range(4):
        train(this, 1, first=step)
        for i, p in enumerate(params):
            want[i] = lerp(want[i], stored(this, p), 0.25)
            average = this.state[p]["ema"]
            assert average.dtype is torch.float32
            assert torch.equal(average, want[i])


def test_is_torchs_lerp():
    """Vectors of torch.lerp are computed with one fused operation too; equal bits."""
    optimizer = FusedAdamW(parameters(shapes=[(64, 64)]), lr=1e-2, ema_decay=0.99)
    (p,) = optimizer.param_groups[0]["params"]
    want = p.detach().clone()
    for step in range(10):
        train(optimizer, 1, first=step)
        want = torch.lerp(want, p.detach(), 1 - 0.99)
        assert torch.equal(optimizer.state[p]["ema"], want)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_extreme_decays(decay):
    """0 copies the parameter, 1 keeps the average where it started."""
    optimizer = FusedAdamW(parameters(), lr=1e-2, ema_decay=decay)
    start = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    train(optimizer, 3)
    for p, s in zip(optimizer.param_groups[0]["params"], start, strict=True):
        torch.testing.assert_close(optimizer.state[p]["ema"], p.detach() if decay == 0 else s, rtol=0, atol=1e-7)


def test_where_there_is_no_kernel():
    """float64 parameters have their average too, in float64."""
    optimizer = FusedAdamW(parameters(torch.float64), lr=1e-2, ema_decay=0.9)
    params = optimizer.param_groups[0]["params"]
    want = [p.detach().clone() for p in params]
    for step in range(3):
        train(optimizer, 1, first=step)
        for i, p in enumerate(params):
            want[i].lerp_(p.detach(), 1 - 0.9)
            torch.testing.assert_close(optimizer.state[p]["ema"], want[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("storage", PARAMS)
def test_averaged_parameters_puts_back_every_bit(storage):
    """Inside, the parameters are the averages; afterwards everything is as before, also after an exception."""
    dtype, options = PARAMS[storage]
    optimizer = FusedAdamW([*parameters(dtype), *parameters(dtype, [(3,)])], lr=1e-2, ema_decay=0.5, **options)
    *params, unused = optimizer.param_groups[0]["params"]
    unused.requires_grad_(requires_grad=False)
    for step in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.step()
    control = copy.deepcopy(optimizer)
    before = everything(optimizer)

    def inside():
        with optimizer.averaged_parameters():
            for p in params:
                assert torch.equal(p, optimizer.state[p]["ema"].to(dtype))
            assert (everything(optimizer)[4, "param"] == before[4, "param"]).all()
            msg = "of the user's"
            raise KeyError(msg)

    with pytest.raises(KeyError, match="of the user's"):
        inside()
    assert_same(everything(optimizer), before)
    with optimizer.averaged_parameters():
        pass
    for this in (optimizer, control):
        for p in this.param_groups[0]["params"][:-1]:
            p.grad = torch.ones_like(p)
        this.step()
    assert_same(everything(optimizer), everything(control))


def test_an_old_value_is_an_error_inside():
    """Autograd learns that parameters were exchanged: no silently wrong gradient."""
    optimizer = FusedAdamW(parameters(), ema_decay=0.5)
    train(optimizer, 1)
    (p, *_) = optimizer.param_groups[0]["params"]
    result = (p * p).sum()
    with optimizer.averaged_parameters(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_without_averages():
    """A sentence that says how to get them."""
    for optimizer in (FusedAdamW(parameters()), FusedAdamW(parameters(), ema_decay=0.9)):
        with pytest.raises(ValueError, match="there are no averages: give ema_decay to the constructor, and take"):
            optimizer.averaged_parameters().__enter__()
