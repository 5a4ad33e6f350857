"""Norms are exact for any sizes, dtypes and memory; what is not finite is blamed on the first that has it."""

import itertools
import math

import pytest
import torch
from _gradients import (
    GRADS,
    ORDERS,
    OTHER_ORDERS,
    REDUCTIONS,
    assert_same,
    copies,
    drawn,
    exact_norm,
    random,
    with_grads,
)
from _problems import LARGE_SIZES, MANY_SIZES, problem
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_ as torch_clip_grad_norm_

from gaudi3_rt import _core
from gaudi3_rt.grads import clip_grad_norm_, get_total_norm

# Norms


@given(description=GRADS, order=st.sampled_from(ORDERS), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_norm_is_exact(description, order, scale):
    """Every norm is the true one rounded to its dtype: float32, or float64 where a tensor has that."""
    grads = drawn(description, scale)
    norm = get_total_norm(grads, order)
    wide = any(grad.dtype is torch.float64 for grad in grads)
    assert norm.dtype == (torch.float64 if wide else torch.float32)
    assert norm.shape == ()
    assert not norm.requires_grad
    assert float(norm) == pytest.approx(exact_norm(grads, order), rel=1e-12 if wide else 2.0**-24 + 1e-12, abs=0)


@pytest.mark.parametrize("order", [*ORDERS, *OTHER_ORDERS])
@pytest.mark.parametrize("dtype32", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("foreach", [None, True, False])
def test_every_order_is_torchs(order, dtype32, foreach):
    """Norm and clipped gradients are torch's for every order, to within its rounding."""
    grads = [random(shape, dtype32, seed) for seed, shape in enumerate([(7, 5), (3,), (), (400,)])]
    ours, theirs = with_grads(copies(grads)), with_grads(copies(grads))
    max_norm = 0.3 * float(torch.nn.utils.get_total_norm(grads, order))
    want = torch_clip_grad_norm_(theirs, max_norm, order, foreach=foreach)
    got = clip_grad_norm_(ours, max_norm, order, foreach=foreach)
    rtol = 1e-6 if dtype32 is torch.float32 else 1e-14
    torch.testing.assert_close(got, want, rtol=rtol, atol=0)
    torch.testing.assert_close(get_total_norm(grads, order, foreach=foreach), want, rtol=rtol, atol=0)
    for p, q, before in zip(ours, theirs, grads, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=4 * rtol, atol=0)
        assert not torch.equal(p.grad, before)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [LARGE_SIZES, MANY_SIZES])
def test_bits_do_not_depend_on_build_or_threads(order, dtype, sizes):
    """Norm, clipped and unscaled gradients have equal bits for every build and number of threads."""
    start = [x.to(dtype) for x in problem(_core.kernels()[0], sizes).operands[1]]
    seen = []
    for isa, n_threads in itertools.product(_core.isas(), [1, 2, 8]):
        clipped, unscaled = copies(start), copies(start)
        grads = _core.GradList(isa, torch.Tensor)
        assert grads.extend(clipped) == []
        norm, written = grads.clip(REDUCTIONS[order], 0.5, False, n_threads)
        assert written
        grads = _core.GradList(isa, torch.Tensor)
        assert grads.extend(unscaled) == []
        assert grads.unscale(0.3, n_threads)
        seen.append((norm, clipped, unscaled))
    for norm, clipped, unscaled in seen:
        assert norm == seen[0][0]
        assert_same(clipped, seen[0][1])
        assert_same(unscaled, seen[0][2])


def test_huge_and_tiny_gradients_have_a_norm():
    """Squares are summed in double: no overflow where float32 gives infinity, no 0 where it loses everything."""
    for value in (1e30, 1e-40):
        (p,) = with_grads([torch.full((1000,), value)])
        norm = clip_grad_norm_([p], 0.5 * value)
        assert float(norm) == pytest.approx(value * math.sqrt(1000), rel=1e-5)
    assert torch.isfinite(p.grad).all()


def test_empty_tensors_count_as_nothing(dtype):
    """An empty gradient has norm 0 in every order that a kernel computes."""
    for order, wide in itertools.product(ORDERS, [dtype, torch.float64]):
        for empty in (torch.empty(0, dtype=wide), torch.empty(0, 1, dtype=wide).expand(0, 4)):
            grads = [empty, torch.full((1,), -2.0)]
            assert float(get_total_norm(grads, order)) == 2
            assert float(clip_grad_norm_(with_grads(grads), 1.0, order)) == 2
            assert float(grads[1]) == pytest.approx(-1)


# error_if_nonfinite


@pytest.mark.parametrize("order", [*ORDERS, 3.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [1, 2, 3])
def test_the_first_gradient_to_blame_is_named(order, value, bad):
    """Index, name and shape of the first one that is not finite, wherever it is computed; nothing is changed."""
    grads = [torch.ones(4), torch.ones(6, 5), torch.ones(3, 2).t()[:, ::2], torch.ones(2, dtype=torch.float64)]
    grads[bad][-1] = value
    grads[3][0] = value
    params = [torch.nn.Parameter(torch.ones(9)), *with_grads(grads)]
    before = copies(grads)
    shape = str(tuple(grads[bad].shape)).replace("(", r"\(").replace(")", r"\)")
    what = rf"of order {order} is non-finite \(({value}|nan|inf)\): %s, of shape {shape}, is the first"
    with pytest.raises(RuntimeError, match=what % f"the gradient of parameter {bad + 1}"):
        clip_grad_norm_(params, 1.0, order, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match=what % rf"the gradient of parameter {bad + 1} \('p{bad + 1}'\)"):
        clip_grad_norm_(((f"p{i}", p) for i, p in enumerate(params)), 1.0, order, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match=what % f"tensor {bad}"):
        get_total_norm(grads, order, error_if_nonfinite=True)
    assert_same(grads, before)


def test_kernels_alone_change_nothing_on_a_bad_norm():
    """Also where norm and multiplication are one call of the kernels."""
    grads = [random((20_000,)), random((50,), torch.bfloat16)]
    grads[1][33] = math.inf
    before = copies(grads)
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 1, of shape \(50,\), is the first"):
        clip_grad_norm_(with_grads(grads), 1.0, error_if_nonfinite=True)
    assert_same(grads, before)


def test_a_norm_beyond_float32_blames_no_gradient():
    """Elements may be finite and their norm not."""
    (p,) = with_grads([torch.full((100,), 3e38)])
    with pytest.raises(RuntimeError, match=r"every element is finite, but their norm is beyond torch\.float32"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert (p.grad == 3e38).all()
    assert float(clip_grad_norm_([p], 1.0)) == math.inf
    assert (p.grad == 0).all()


def test_a_finite_norm_is_no_error():
    """With `error_if_nonfinite` a finite norm clips as without."""
    (p,) = with_grads([torch.full((4,), 2.0)])
    assert float(clip_grad_norm_([p], 1.0, error_if_nonfinite=True)) == 4
    torch.testing.assert_close(p.grad, torch.full((4,), 0.5))
    assert float(get_total_norm([p.grad], error_if_nonfinite=True)) == pytest.approx(1.0)
