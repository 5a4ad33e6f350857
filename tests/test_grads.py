"""``gaudi3_rt.grads`` against torch: norms, clipping by norm and by value, unscaling."""

import itertools
import math
import signal

import numpy as np
import pytest
import torch
from _problems import DTYPES, LARGE_SIZES, MANY_SIZES, bits, problem, run_python
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_ as torch_clip_grad_norm_
from torch.nn.utils import clip_grad_value_ as torch_clip_grad_value_

from gaudi3_rt import _core
from gaudi3_rt.grads import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm, unscale_

ORDERS = [1.0, 2.0, math.inf]
OTHER_ORDERS = [3.0, 0.5, 0.0, -1.0, -math.inf]
ALL_DTYPES = [*DTYPES, torch.float64]
REDUCTIONS = {1.0: "sum_abs", 2.0: "sum_squares", math.inf: "max_abs"}

# How a gradient may lie in memory, made from dense numbers of shape (n, 4).
LAYOUTS = {
    "dense": lambda x: x.clone(),
    "permuted": lambda x: x.t().contiguous().t(),
    "gaps": lambda x: torch.stack([x, x], dim=-1)[..., 1],
    "part of a row": lambda x: torch.cat([x, x], dim=1)[:, 2:6],
}


def random(shape, dtype=torch.float32, seed=0, special=0.0):
    """Random values, some of them special."""
    return problem(_core.kernels()[0], [shape], seed=seed, special=special).operands[1][0].to(dtype)


def with_grads(grads):
    """Parameters that have these gradients."""
    params = []
    for grad in grads:
        params.append(torch.nn.Parameter(torch.zeros_like(grad)))
        params[-1].grad = grad
    return params


def copies(grads):
    """The same numbers in memory of their own, laid out alike."""
    return [torch.empty_strided(g.shape, g.stride(), dtype=g.dtype).copy_(g) for g in grads]


def exact_norm(grads, order):
    """The norm of all elements by its definition, correctly rounded sums in float64."""
    values = [abs(v) for grad in grads for v in grad.reshape(-1).tolist()]
    if order == math.inf:
        return max(values, default=0.0)
    return math.fsum(v**order for v in values) ** (1 / order)


def assert_same(got, want):
    """Equal bits."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert np.array_equal(bits(a), bits(b)), f"gradient {i}"


GRADS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from(ALL_DTYPES), st.sampled_from(list(LAYOUTS))), min_size=1, max_size=6
)


def drawn(description, scale=1.0):
    """Gradients of the drawn lengths, dtypes and layouts."""
    return [
        LAYOUTS[layout](random((n, 4), seed=i).mul(scale).to(dtype)) for i, (n, dtype, layout) in enumerate(description)
    ]


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
    start = [random((n,), dtype, seed=n) for n in sizes]
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


# What parameters may be


def test_what_is_listed_may_come_in_any_form():
    """A tensor, a list, a generator, named pairs; what has no gradient is passed over."""
    forms = [
        lambda params: params,
        lambda params: (p for p in params),
        lambda params: [("a", params[0]), ("b", params[1]), ("c", params[2])],
        lambda params: iter([torch.nn.Parameter(torch.zeros(3)), *params]),
    ]
    for form in forms:
        params = [*with_grads([torch.full((4,), 2.0), torch.full((5,), 3.0)]), torch.nn.Parameter(torch.zeros(2))]
        assert float(clip_grad_norm_(form(params), 1.0)) == pytest.approx(math.sqrt(4 * 4 + 5 * 9))
        assert float(get_total_norm([p.grad for p in params[:2]])) == pytest.approx(1.0)
        clip_grad_value_(form(params), 0.01)
        assert [p.grad.tolist() for p in params[:2]] == [[pytest.approx(0.01)] * n for n in (4, 5)]
    (p,) = with_grads([torch.full((4,), 2.0)])
    assert float(get_total_norm(p.grad)) == 4
    assert float(clip_grad_norm_(p, 2.0)) == 4
    clip_grads_with_norm_(p, 1.0, torch.tensor(2.0))
    clip_grad_value_(p, 0.25)
    unscale_(p.grad, 2.0, torch.zeros(()))
    torch.testing.assert_close(p.grad, torch.full((4,), 0.5))


def test_nothing_listed_has_norm_zero():
    """Empty lists and parameters without gradients: a 0-d 0; an empty generator is most likely a mistake."""
    for parameters in ([], [torch.nn.Parameter(torch.ones(2))]):
        assert torch.equal(clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True), torch.tensor(0.0))
        clip_grads_with_norm_(parameters, 1.0, torch.tensor(5.0))
        clip_grad_value_(parameters, 1.0)
    for order in (2.0, 3.0):
        assert torch.equal(get_total_norm([], order), torch.tensor(0.0))
    unscale_([], 0.5, torch.zeros(()))
    with pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_((p for p in ()), 1.0)


@pytest.mark.parametrize("shape", [(5,), (50_000,)], ids=str)
@pytest.mark.parametrize("dtype64", [torch.float32, torch.float64], ids=str)
def test_what_is_listed_twice_counts_twice(shape, dtype64):
    """A parameter listed twice, and gradients that share memory, are counted and multiplied twice, as in torch."""
    makers = [
        lambda x: [x, x],
        lambda x: [x, x.view(-1, 5)],
        lambda x: [x[: x.numel() // 5 * 3], x[x.numel() // 5 * 2 :]],
    ]
    for make in makers:
        results = []
        for clip in (clip_grad_norm_, torch_clip_grad_norm_):
            memory = random(shape).to(dtype64)
            results.append((clip(with_grads(make(memory)), 0.1), memory))
        (norm, got), (want_norm, want) = results
        torch.testing.assert_close(norm, want_norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(got, want, rtol=4e-5, atol=0)
        memory = random(shape).to(dtype64)
        unscale_(make(memory), 0.5, torch.zeros(()))
        theirs = random(shape).to(dtype64)
        torch._amp_foreach_non_finite_check_and_unscale_(make(theirs), torch.zeros(()), torch.tensor(0.5))
        assert torch.equal(memory, theirs)


@pytest.mark.parametrize("tool", ["unscale", "map", "clip"])
def test_threads_do_not_meet_in_shared_memory(tool):
    """What is listed 60001 times changes its sign 60001 times, also with threads that could write it at once.

    In bfloat16, where a tile of 512 is read, multiplied and written back: threads that meet there lose a product. The
    list is so long that the system lets all threads run at some time.
    """
    grad = torch.ones(2048, dtype=torch.bfloat16)
    grads = _core.GradList(_core.isas()[0], torch.Tensor)
    grads.extend([grad] * 60_001)
    minus_norm = -math.sqrt(60_001 * 2048)
    change_sign = {
        "unscale": lambda: grads.unscale(-1.0, 8),
        "map": lambda: grads.map("scale", [-1.0], 8),
        "clip": lambda: grads.clip("sum_squares", minus_norm, False, 8),
    }
    for sign in (-1, 1, -1, 1):
        change_sign[tool]()
        assert (grad == sign).all()


def test_an_expanded_gradient_is_refused_when_it_would_be_written():
    """It has a norm; writing it is an error that names it and changes nothing."""
    params = with_grads([torch.ones(3), torch.ones(1).expand(4), torch.ones(2, dtype=torch.float64)])
    grads = [p.grad for p in params]
    assert float(get_total_norm(grads)) == 3
    assert float(clip_grad_norm_(params, 5.0)) == 3
    match = "gradient of parameter 1 is an expanded view"
    for call in (
        lambda: clip_grad_norm_(params, 1.0),
        lambda: clip_grads_with_norm_(params, 1.0, torch.tensor(2.0)),
        lambda: clip_grad_value_(params, 0.5),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(ValueError, match="tensor 1 is an expanded view"):
        unscale_(grads, 0.5, torch.zeros(()))
    assert all((grad == 1).all() for grad in grads)


def test_what_is_no_dense_floating_point_tensor_is_refused():
    """Sparse and integer tensors, and what is no tensor: one sentence with the index and the name; nothing changed."""
    good = torch.ones(3)
    sparse = torch.nn.Parameter(torch.zeros(3))
    sparse.grad = torch.ones(3).to_sparse()
    (first,) = with_grads([good])
    with pytest.raises(TypeError, match=r"gradient of parameter 1 \('embedding'\) has .* layout torch.sparse_coo; it"):
        clip_grad_norm_([("first", first), ("embedding", sparse)], 0.1)
    with pytest.raises(TypeError, match=r"tensor 1 has dtype torch\.int64"):
        get_total_norm([good, torch.ones(3, dtype=torch.int64)])
    with pytest.raises(TypeError, match="tensor 1 is of type str; expected a tensor"):
        unscale_([good, "x"], 0.1, torch.zeros(()))
    for not_a_parameter in ("x", 3, (1, 2, 3), None):
        with pytest.raises(TypeError, match=f"parameter 1 is of type {type(not_a_parameter).__name__}; expected a ten"):
            clip_grad_value_([first, not_a_parameter], 0.1)
    assert (good == 1).all()


def test_complex_gradients_are_clipped_by_norm_only():
    """As in torch; by value and in AMP there is no meaning to it."""
    z = torch.tensor([3 + 4j, 0j])
    (p,) = with_grads([z.clone()])
    for order in (1.0, 2.0, math.inf, 3.0):
        assert float(get_total_norm([p.grad], order)) == 5
    assert float(clip_grad_norm_([p], 1.0)) == 5
    torch.testing.assert_close(p.grad, z / 5)
    before = p.grad.clone()
    with pytest.raises(TypeError, match=r"parameter 0 has dtype torch\.complex64; it must be real"):
        clip_grad_value_([p], 0.1)
    with pytest.raises(TypeError, match=r"tensor 0 has dtype torch\.complex64; it must be real"):
        unscale_([p.grad], 0.1, torch.zeros(()))
    assert torch.equal(p.grad, before)


@pytest.mark.parametrize("bad", [-1.0, math.nan, -math.inf])
def test_bad_bounds_are_refused(bad):
    """The message says what was given and what is allowed; gradients are as before."""
    (p,) = with_grads([torch.ones(3)])
    with pytest.raises(ValueError, match=r"max_norm=.*must be a number >= 0"):
        clip_grad_norm_([p], bad)
    with pytest.raises(ValueError, match=r"max_norm=.*must be a number >= 0"):
        clip_grads_with_norm_([p], bad, torch.tensor(5.0))
    with pytest.raises(ValueError, match=r"clip_value=.*must be a number >= 0"):
        clip_grad_value_([p], bad)
    with pytest.raises(ValueError, match=r"total_norm=-1\.0: a norm is a number >= 0"):
        clip_grads_with_norm_([p], 1.0, torch.tensor(-1.0))
    with pytest.raises(ValueError, match=r"total_norm has shape \(2,\): it must have one element"):
        clip_grads_with_norm_([p], 1.0, torch.ones(2))
    assert (p.grad == 1).all()


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


# Unscaling


@given(
    description=GRADS, inv_scale=st.sampled_from([1.0, 2.0**-16, 0.3, 0.0, 3e5]), special=st.sampled_from([0.0, 0.01])
)
def test_unscaling_is_torchs(description, inv_scale, special):
    """Gradients bit by bit, and found_inf, for every dtype and layout."""
    grads = [LAYOUTS[layout](random((n, 4), dtype, n, special)) for n, dtype, layout in description]
    theirs = copies(grads)
    found_inf, want = torch.zeros(()), torch.zeros(())
    torch._amp_foreach_non_finite_check_and_unscale_(theirs, want, torch.tensor(inv_scale))
    assert unscale_(grads, torch.tensor(inv_scale), found_inf) is None
    assert torch.equal(found_inf, want)
    assert_same(grads, theirs)


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("found_inf", [torch.zeros(()), torch.zeros(1, dtype=torch.float64)], ids=["0-d", "1-d"])
def test_found_inf_is_raised_and_never_cleared(where, value, found_inf):
    """One bad element anywhere sets it to 1; good ones leave whatever is there."""
    found_inf = found_inf.clone()
    grads = [random((70_000,)), random((9,), torch.float16), random((4, 6))[:, ::2]]
    unscale_(grads, 1.0, found_inf)
    assert float(found_inf) == 0
    grads[where][-1] = value
    unscale_(grads, 1.0, found_inf)
    assert float(found_inf) == 1
    found_inf.fill_(5.0)
    unscale_([torch.ones(3)], 0.5, found_inf)
    assert float(found_inf) == 5


def test_a_product_that_overflows_is_not_found():
    """As in torch: what counts is the value before the multiplication."""
    grads = [torch.full((3,), 1e30), torch.full((3,), 1e300, dtype=torch.float64)]
    found_inf = torch.zeros(())
    unscale_(grads, 1e20, found_inf)
    assert float(found_inf) == 0
    assert grads[0].isinf().all()


@pytest.mark.parametrize(
    ("inv_scale", "found_inf", "error", "match"),
    [
        (torch.ones(2), torch.zeros(()), ValueError, r"inv_scale has shape \(2,\): it must have one element"),
        (0.5, torch.zeros(3), ValueError, r"found_inf has shape \(3,\): it must have one element"),
        (0.5, torch.zeros((), dtype=torch.int32), TypeError, "found_inf .* floating-point .* got torch.int32"),
        (0.5, 0.0, TypeError, "found_inf .* floating-point tensor .* got float"),
    ],
)
def test_bad_scalars_are_refused(inv_scale, found_inf, error, match):
    """One sentence, and nothing changed."""
    x = torch.ones(3)
    with pytest.raises(error, match=match):
        unscale_([x], inv_scale, found_inf)
    assert (x == 1).all()
