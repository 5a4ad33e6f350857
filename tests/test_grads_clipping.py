"""Clipping by norm and by value: torch's coefficient and bounds, one multiplication, no needless write."""

import math
import signal

import pytest
import torch
from _gradients import GRADS, LAYOUTS, ORDERS, assert_same, copies, drawn, exact_norm, random, with_grads
from _problems import run_python
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_ as torch_clip_grad_norm_
from torch.nn.utils import clip_grad_value_ as torch_clip_grad_value_

from gaudi3_rt.grads import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm, unscale_

# Clipping by norm


@given(description=GRADS, order=st.sampled_from(ORDERS), share=st.sampled_from([0.0, 0.01, 0.9]))
def test_clipping_multiplies_once(description, order, share):
    """Every element is multiplied by torch's coefficient and rounded once, whatever its dtype and layout."""
    grads = drawn(description)
    max_norm = share * exact_norm(grads, order)
    want = copies(grads)
    norm = clip_grad_norm_(with_grads(grads), max_norm, order)
    coefficient = min(1.0, max_norm / (float(norm) + 1e-6))
    for grad in want:
        grad.mul_(coefficient)
    assert_same(grads, want)


@given(description=GRADS, order=st.sampled_from([*ORDERS, 3.0]), share=st.sampled_from([0.1, 2.0]))
def test_one_call_is_two_calls(description, order, share):
    """`clip_grad_norm_` is `get_total_norm` and then `clip_grads_with_norm_`, bit by bit."""
    grads = drawn(description)
    apart = copies(grads)
    max_norm = share * exact_norm(grads, order)
    norm = get_total_norm(apart, order)
    clip_grads_with_norm_(with_grads(apart), max_norm, norm)
    assert torch.equal(clip_grad_norm_(with_grads(grads), max_norm, order), norm)
    assert_same(grads, apart)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("last", [torch.float32, torch.float64], ids=str)
def test_a_bad_norm_does_what_it_does_in_torch(order, value, max_norm, last):
    """NaN poisons everything; infinity gives 0 times the gradient; with an infinite bound it is NaN too."""
    grads = [random((40,)), random((50,)), random((5,), last)]
    grads[1][7] = value
    ours, theirs = with_grads(copies(grads)), with_grads(copies(grads))
    want = torch_clip_grad_norm_(theirs, max_norm, order)
    got = clip_grad_norm_(ours, max_norm, order)
    torch.testing.assert_close(got, want, equal_nan=True)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, equal_nan=True)


@pytest.mark.parametrize("total", [0.0, 1e-30, 0.5, 3.0, 100.0, math.inf, math.nan])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, math.inf])
def test_clipping_with_a_given_norm_is_torchs(total, max_norm):
    """`clip_grads_with_norm_` for norms of all kinds, as a 0-d tensor and as a tensor of one element."""
    for norm in (torch.tensor(total), torch.tensor([total], dtype=torch.float64)):
        ours, theirs = (with_grads([random((40,)), random((5,), torch.float64)]) for _ in range(2))
        assert clip_grads_with_norm_(ours, max_norm, norm) is None
        torch.nn.utils.clip_grads_with_norm_(theirs, max_norm, norm.reshape(()))
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p.grad, q.grad, equal_nan=True)


READ_ONLY = """
import mmap, os, sys, tempfile, warnings, torch
from gaudi3_rt.grads import clip_grad_norm_, clip_grads_with_norm_, get_total_norm, unscale_
warnings.simplefilter("ignore")  # torch's, about memory that is not writable
with tempfile.TemporaryFile() as file:
    file.write(torch.ones(100_000).numpy().tobytes())
    file.flush()
    memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    params = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        params.append(torch.nn.Parameter(torch.zeros(50_000, dtype=dtype)))
        params[-1].grad = torch.frombuffer(memory, dtype=dtype, count=50_000)
    params = params[:4 if WITH_FLOAT64 else 3]
    for order in (1, 2, float("inf"), 3):
        norm = clip_grad_norm_(params, 1e30, order)
        clip_grads_with_norm_(params, norm + 1, norm)
    assert norm.item() > 0
    unscale_([p.grad for p in params[:3]], 1.0, torch.zeros(()))
    print("only read", flush=True)
    clip_grad_norm_(params, 1e-3)
"""


@pytest.mark.parametrize("with_float64", [False, True])
def test_nothing_is_written_when_nothing_is_clipped(with_float64):
    """Gradients in memory that cannot be written survive every call with a bound above the norm, and no other."""
    done = run_python(READ_ONLY.replace("WITH_FLOAT64", str(with_float64)))
    assert done.stdout == "only read\n", done.stderr
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("dtype64", [torch.float32, torch.float64], ids=str)
def test_versions_count_writes(dtype64):
    """The version of a gradient, and of what it is a view of, rises when it is written and only then."""
    base = torch.ones(2, 8, dtype=dtype64)
    grads = [base[0], torch.ones(3)]
    params = with_grads(grads)
    found_inf = torch.zeros(())
    calls = [
        (True, lambda: clip_grad_norm_(params, 0.1)),
        (False, lambda: clip_grad_norm_(params, 1e9)),
        (False, lambda: get_total_norm(grads)),
        (True, lambda: clip_grads_with_norm_(params, 1.0, torch.tensor(2.0))),
        (False, lambda: clip_grads_with_norm_(params, 1.0, torch.tensor(0.5))),
        (True, lambda: clip_grad_value_(params, 0.01)),
        (True, lambda: unscale_(grads, 0.5, found_inf)),
    ]
    for i, (writes, call) in enumerate(calls):
        before = [tensor._version for tensor in (base, *grads)]
        call()
        after = [tensor._version for tensor in (base, *grads)]
        assert all((b > a) == writes for a, b in zip(before, after, strict=True)), f"call {i}: {before} to {after}"


def test_backward_through_an_old_gradient_is_an_error():
    """A gradient that was clipped since is not used in a backward as if it still had its old value."""
    (p,) = with_grads([torch.ones(5)])
    x = torch.ones(5, requires_grad=True)
    y = (x * p.grad).sum()
    clip_grad_norm_([p], 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


# Clipping by value


@given(description=GRADS, clip_value=st.sampled_from([0.0, 0.3, 1.0, 65504.0, math.inf]))
def test_clipping_by_value_is_torchs(description, clip_value):
    """Equal numbers, NaN kept, for every dtype and layout."""
    grads = [LAYOUTS[layout](random((n, 4), dtype, n, 0.2)) for n, dtype, layout in description]
    theirs = with_grads(copies(grads))
    if math.isfinite(clip_value):
        torch_clip_grad_value_(theirs, clip_value)
    clip_grad_value_(with_grads(grads), clip_value)
    for ours, p in zip(grads, theirs, strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bound_beyond_the_dtype_bounds_nothing(layout):
    """A bound that float16 does not hold, which torch refuses, changes no element."""
    x = LAYOUTS[layout](torch.tensor([[1.0, -65504.0, math.inf, math.nan]], dtype=torch.float16))
    before = x.clone()
    clip_grad_value_(with_grads([x]), 1e6)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
