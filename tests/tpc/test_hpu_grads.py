"""Gradient tools on an "hpu" device: by its operators, with the CPU's results, and without waiting for the device."""

import logging
import math

import pytest
import torch
from _hpu import Waits, assert_close

from gaudi3_rt import grads
from gaudi3_rt.optim import _hpu as ours

pytestmark = pytest.mark.usefixtures("calls")

# Sums of squares are within 16 roundings of the exact one, their sum adds 7, a root halves that and adds one;
# coefficient and product add three.
NORM_BOUND = 13 * 2.0**-24
SCALED_BOUND = NORM_BOUND + 3 * 2.0**-24
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "mixed": None}
SHAPES = [(4, 6), (700,), (), (0, 3), (513,), (7, 5)]


def gradients(device, dtype, special=None):
    """Equal tensors at each call; one is empty, one is transposed; the second has the special value somewhere."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for i, shape in enumerate(SHAPES):
        values = torch.randn(shape, generator=generator)
        if special is not None and i == 1:
            values[600] = special
        made.append(values.to(device, DTYPES[dtype] or list(DTYPES.values())[i % 2]))
    made[-1] = made[-1].t()
    return made


def with_gradients(tensors):
    """Parameters that have these gradients."""
    params = [torch.nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors]
    for param, tensor in zip(params, tensors, strict=True):
        param.grad = tensor
    return params


def assert_scaled(there, here):
    """Equal within the bound, or for bfloat16 but for one rounding."""
    for a, b in zip(there, here, strict=True):
        assert a.stride() == b.stride()
        assert_close(a, b, rtol=2.0**-7 if b.dtype is torch.bfloat16 else SCALED_BOUND, atol=0)


def names(calls):
    """The kernels that ran, each once."""
    return sorted({name.rpartition("_")[0] for name, _ in calls})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.0, 0.25, 1e9, math.inf])
def test_clip_grad_norm(dtype, max_norm, calls):
    """One norm over all tensors; the host waits for nothing, and tensors stay where they are."""
    there, here = gradients("hpu", dtype), gradients("cpu", dtype)
    params = with_gradients(there)
    before = [(tensor.data_ptr(), tensor._version) for tensor in there]
    with Waits() as waits:
        norm = grads.clip_grad_norm_(params, max_norm)
    assert waits.count == 0
    expected = grads.clip_grad_norm_(with_gradients(here), max_norm)
    assert (norm.shape, norm.dtype) == ((), torch.float32)
    assert_close(norm, expected, rtol=NORM_BOUND, atol=0)
    assert_scaled(there, here)
    assert names(calls) == ["clip_coefficient", "scale", "sum_finish", "sum_squares"]
    assert sum(name == "clip_coefficient_f32" for name, _ in calls) == 1
    for tensor, (address, version) in zip(there, before, strict=True):
        assert tensor.data_ptr() == address
        assert tensor._version > version


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_norms_that_are_not_finite(special):
    """As on a CPU: all gradients become NaN or 0; or an error names the one to blame and changes nothing."""
    there, here = gradients("hpu", "mixed", special), gradients("cpu", "mixed", special)
    for tensors in (there, here):
        kept = [tensor.cpu().clone() for tensor in tensors]
        params = [(f"p{i}", param) for i, param in enumerate(with_gradients(tensors))]
        with pytest.raises(RuntimeError, match=r"total norm of order 2.0 is non-finite \((nan|inf)\): .* 1 \('p1'\)"):
            grads.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
        for tensor, value in zip(tensors, kept, strict=True):
            torch.testing.assert_close(tensor.cpu(), value, rtol=0, atol=0, equal_nan=True)
    norms = [grads.clip_grad_norm_(with_gradients(tensors), 1.0) for tensors in (there, here)]
    torch.testing.assert_close(norms[0].cpu(), norms[1], equal_nan=True)
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0, equal_nan=True)


def test_finite_norms_raise_no_error():
    """With error_if_nonfinite the host waits, because it has to know."""
    there, here = gradients("hpu", "f32"), gradients("cpu", "f32")
    with Waits() as waits:
        grads.clip_grad_norm_(with_gradients(there), 0.5, error_if_nonfinite=True)
    assert waits.count > 0
    grads.clip_grad_norm_(with_gradients(here), 0.5, error_if_nonfinite=True)
    assert_scaled(there, here)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e15])
def test_norm_and_clipping_apart(dtype, scale, calls):
    """get_total_norm and clip_grads_with_norm_ have the bits of clip_grad_norm_, of all sizes, without waiting."""
    together, apart = ([tensor * scale for tensor in gradients("hpu", dtype)] for _ in range(2))
    norm = grads.clip_grad_norm_(with_gradients(together), scale)
    with Waits() as waits:
        total = grads.get_total_norm(apart)
        grads.clip_grads_with_norm_(with_gradients(apart), scale, total)
    assert waits.count == 0
    assert torch.equal(total.cpu(), norm.cpu())
    for a, b in zip(apart, together, strict=True):
        assert torch.equal(a.cpu(), b.cpu())
    assert sum(name == "clip_coefficient_f32" for name, _ in calls) == 3


def test_a_norm_from_the_host(calls):
    """A norm that is no tensor of the device is looked at; gradients are still multiplied by the operators."""
    there, here = gradients("hpu", "f32"), gradients("cpu", "f32")
    with pytest.raises(ValueError, match=r"total_norm=-1\.0: a norm is a number >= 0"):
        grads.clip_grads_with_norm_(with_gradients(there), 1.0, torch.tensor(-1.0))
    assert not calls
    for tensors in (there, here):
        grads.clip_grads_with_norm_(with_gradients(tensors), 1.0, torch.tensor(8.0))
    assert_scaled(there, here)
    assert names(calls) == ["scale"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", [None, math.nan, -math.inf])
@pytest.mark.parametrize("before", [0.0, 1.0])
def test_unscale(dtype, special, before, calls):
    """Equal bits; found_inf is raised and never cleared; nothing is waited for."""
    there, here = gradients("hpu", dtype, special), gradients("cpu", dtype, special)
    found = [torch.tensor([before]).to(device) for device in ("hpu", "cpu")]
    inv_scale = [torch.tensor(2.0**-7).to(device) for device in ("hpu", "cpu")]
    with Waits() as waits:
        grads.unscale_(there, inv_scale[0], found[0])
    assert waits.count == 0
    grads.unscale_(here, inv_scale[1], found[1])
    assert float(found[0]) == float(found[1]) == (1.0 if special is not None else before)
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0, equal_nan=True)
    assert set(names(calls)) <= {"unscale", "sum_finish", "found_inf"}
    assert "found_inf" in names(calls)


def test_unscale_by_numbers_of_the_host():
    """A factor that is a float, and a found_inf elsewhere."""
    there, found = gradients("hpu", "f32", math.inf), torch.tensor(0.0)
    grads.unscale_(there, 0.5, found)
    assert found == 1
    assert torch.equal(there[0].cpu(), gradients("cpu", "f32")[0] / 2)


@pytest.mark.parametrize("order", [1.0, 3.0, math.inf])
def test_other_orders_are_left_to_torch(order, calls, caplog):
    """The norm is the CPU's; it is said once for all calls."""
    there, here = gradients("hpu", "f32"), gradients("cpu", "f32")
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        norms = [grads.clip_grad_norm_(with_gradients(tensors), 1e9, order) for tensors in (there, here)]
        grads.get_total_norm(there, order)
    torch.testing.assert_close(norms[0].cpu(), norms[1], rtol=1e-6, atol=0)
    (record,) = caplog.records
    assert f"no kernel for norms of order {order:g} of torch.float32 tensors on device 'hpu'" in record.message
    assert "load()" not in record.message
    assert not calls


def test_other_dtypes_are_left_to_torch(calls, caplog):
    """float16 gradients, also in company of float32 ones: all of the call, said once for each dtype."""
    there = [tensor.to(torch.float16) if i else tensor for i, tensor in enumerate(gradients("hpu", "f32"))]
    here = [tensor.cpu() for tensor in there]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        norms = [grads.clip_grad_norm_(with_gradients(tensors), 0.5) for tensors in (there, here)]
    torch.testing.assert_close(norms[0].cpu(), norms[1], rtol=1e-6, atol=0)
    said = [record.message for record in caplog.records]
    for what in ("norms of order 2", "scaling"):
        for dtype in ("torch.float16", "torch.float32"):
            assert sum(f"{what} of {dtype}" in message for message in said) == 1
    assert not calls


def test_without_the_operators_torch_does_it(calls, caplog, monkeypatch):
    """The same result; one line says how to load them."""
    monkeypatch.setattr(ours, "_loaded", False)
    there, here = gradients("hpu", "f32"), gradients("cpu", "f32")
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        norms = [grads.get_total_norm(tensors) for tensors in (there, here)]
    torch.testing.assert_close(norms[0].cpu(), norms[1], rtol=1e-6, atol=0)
    (record,) = caplog.records
    assert "gaudi3_rt.hpu.load()" in record.message
    assert not calls


def test_expanded_gradients_are_refused(calls):
    """Before any is written."""
    there = [torch.ones(5).to("hpu"), torch.ones(1).to("hpu").expand(4)]
    with pytest.raises(ValueError, match="parameter 1 is an expanded view"):
        grads.clip_grad_norm_(with_gradients(there), 0.5)
    assert torch.equal(there[0].cpu(), torch.ones(5))
    assert "scale" not in names(calls)
    with pytest.raises(ValueError, match="tensor 1 is an expanded view"):
        grads.unscale_(there, 0.5, torch.zeros(()).to("hpu"))
    assert torch.equal(there[0].cpu(), torch.ones(5))
