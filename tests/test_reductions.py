"""Reductions, and what the step does with one: the gradient norm, clipping, and the search for values not finite."""

import itertools
import math
import mmap
import operator

import _problems
import numpy as np
import pytest
import torch
from _cases import for_all
from _problems import LARGE_SIZES, MANY_SIZES, SPECIAL_VALUES, assert_same_bits, check_all, problem, step
from hypothesis import given
from hypothesis import strategies as st

import gaudi3_rt
from gaudi3_rt import _core

CHUNK = _core.CHUNK
THREADS = [1, 2, 3, 8]


def reduce_all(isa, reduction, tensors, n_threads=1, *, exchange=True):
    """One number per tensor."""
    return _core.reduce(isa, torch.Tensor, reduction, tensors, n_threads, exchange)


def same(a, b):
    """Equal numbers, NaN equal to NaN."""
    return np.array_equal(np.array(a, dtype=np.float64), np.array(b, dtype=np.float64), equal_nan=True)


def random(size, dtype=torch.float32, seed=0, special=0.0):
    """Random values, some of them special."""
    return problem(_core.kernels()[0], [size], seed=seed, special=special).operands[1][0].to(dtype)


# The reductions


@for_all(n=[*_problems.SIZES, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 515])
def test_reduction_is_the_definition(reduction, isa, dtype, n):
    """The result is that of the definition to within the roundings of one lane's sum.

    A maximum has none. A square or a magnitude of a float is exact in double and all terms are positive, so every
    addition changes the result by 2^-53 of it at most; a lane makes one per 32 elements of a chunk, its lanes are added
    up by 10 more, and chunks by one each.
    """
    x = random(n, dtype)
    (got,) = reduce_all(isa, reduction, [x])
    want = _core.reduce_reference(reduction, x.double().numpy())
    additions = 0 if reduction == "max_abs" else min(n, CHUNK) // 32 + 10 + n // CHUNK
    if reduction == "sum_squares":
        want = math.fsum(map(operator.mul, x.tolist(), x.tolist()))
    elif reduction == "sum_abs":
        want = math.fsum(map(abs, x.tolist()))
    assert abs(got - want) <= additions * 2.0**-53 * want
    assert want > 0 or n == 0, "there has to be something to see"


def test_reference_is_the_definition():
    """The reference in double of each reduction is what its name says."""
    x = np.array([3.0, 4.0, 1e200])
    assert _core.reduce_reference("sum_squares", x[:2]) == 25
    assert _core.reduce_reference("sum_squares", x) == math.inf
    assert _core.reduce_reference("sum_squares", x[:0]) == 0
    assert _core.reduce_reference("sum_abs", -x[:2]) == 7
    assert _core.reduce_reference("max_abs", -x[:2]) == 4
    assert math.isnan(_core.reduce_reference("max_abs", np.array([math.nan, math.inf])))
    assert [_core.reduce_reference("all_finite", np.array(x)) for x in ([], [1.0], [1.0, math.nan], [-math.inf])] == [
        *(1, 1, 0, 0)
    ]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(("sizes", "special"), [(LARGE_SIZES, 0.0), (LARGE_SIZES, 1e-6), (MANY_SIZES, 1e-3)])
def test_bits_do_not_depend_on_build_or_threads(reduction, dtype, sizes, special, exchange):
    """Each tensor of a list has the bits it has alone, on all builds, for all threads, however it is described."""
    flat = random(sum(sizes), dtype, special=special)
    tensors = list(flat.split(sizes))
    want = [reduce_all("scalar", reduction, [tensor])[0] for tensor in tensors]
    for isa, n_threads in itertools.product(_core.isas(), THREADS):
        assert same(reduce_all(isa, reduction, tensors, n_threads, exchange=exchange), want), f"{isa}, {n_threads}"


@given(data=st.data())
def test_bits_depend_on_the_elements_alone(reduction, dtype, data):
    """A tensor's result is the same in any list, on any build, wherever its memory begins."""
    lengths = data.draw(st.lists(st.integers(0, 1500), min_size=1, max_size=5))
    special = data.draw(st.sampled_from([0.0, 0.01]))
    tensors = [random(n, dtype, i, special) for i, n in enumerate(lengths)]
    want = [reduce_all("scalar", reduction, [x])[0] for x in tensors]
    moved = []
    for x in tensors:
        offset = data.draw(st.integers(0, 17))
        buffer = torch.full((x.numel() + offset + 17,), torch.nan, dtype=dtype)
        moved.append(buffer[offset : offset + x.numel()].copy_(x))
    cut = data.draw(st.integers(0, len(moved)))
    for isa in _core.isas():
        got = [*reduce_all(isa, reduction, moved[:cut], 2), *reduce_all(isa, reduction, moved[cut:], 3)]
        assert same(got, want), isa


@pytest.mark.parametrize("flush", [False, True])
def test_flushing_of_denormals_holds_in_all_threads(flush):
    """The caller's treatment of denormals is that of every thread and build: off, their squares count; on, not."""
    tensors = [torch.full((size,), 1e-40) for size in LARGE_SIZES]
    torch.set_flush_denormal(flush)
    want = [0.0 if flush else size * 9.99994610111476e-41**2 for size in LARGE_SIZES]
    for isa, n_threads in itertools.product(_core.isas(), THREADS):
        got = reduce_all(isa, "sum_squares", tensors, n_threads)
        assert np.allclose(got, want, rtol=1e-12, atol=0), f"{isa}, {n_threads} threads"


@for_all(value=[math.nan, math.inf, -math.inf], n=[1, 9, 63, 513, CHUNK, CHUNK + 7])
def test_one_bad_element_anywhere_is_found(isa, dtype, value, n):
    """A single NaN or infinity is seen by all reductions in every stream, lane and ragged end, first to last."""
    x = random(n, dtype)
    quarter = CHUNK // 4
    places = {0, 1, 7, 8, 15, 511, 512, n // 2, quarter - 1, quarter, 2 * quarter, 3 * quarter + 3, n - 8, n - 2, n - 1}
    for i in sorted(place for place in places if 0 <= place < n):
        bad = x.clone()
        bad[i] = value
        assert reduce_all(isa, "all_finite", [bad, x]) == [0, 1], f"at {i}"
        total, clean = reduce_all(isa, "sum_squares", [bad, x])
        assert not math.isfinite(total), f"at {i}"
        assert math.isfinite(clean)
        for reduction in ("sum_abs", "max_abs"):
            got, clean = reduce_all(isa, reduction, [bad, x])
            assert same(got, abs(value)), f"{reduction} at {i}"
            assert math.isfinite(clean)


def test_no_finite_number_is_called_infinite(isa, dtype):
    """The largest and the smallest numbers of a dtype are finite, and so is the sum of their squares."""
    info = torch.finfo(dtype)
    values = torch.tensor([info.max, -info.max, info.tiny, info.smallest_normal, 0.0, -0.0, -info.eps], dtype=dtype)
    values = values.repeat(1000)
    assert reduce_all(isa, "all_finite", [values]) == [1]
    (total,) = reduce_all(isa, "sum_squares", [values])
    assert math.isclose(total, math.fsum(x * x for x in values.tolist()), rel_tol=1e-13)


def test_squares_neither_overflow_nor_vanish(isa):
    """Floats of 1e30 and float denormals have squares that float does not hold; the sum of a few is exact."""
    huge = torch.tensor([1e30, -3e38, 2.0])
    assert reduce_all(isa, "sum_squares", [huge]) == [math.fsum(x * x for x in huge.tolist())]
    tiny = torch.tensor([1e-45, 1e-40, -3e-39])
    assert reduce_all(isa, "sum_squares", [tiny]) == [math.fsum(x * x for x in tiny.tolist())]


@pytest.mark.parametrize("n", [1, 9, 63, 513, CHUNK + 7])
def test_the_largest_element_anywhere_is_found(isa, dtype, n):
    """The maximum of magnitudes sees every stream, lane and ragged end; the sign does not matter, and NaN wins."""
    x = random(n, dtype)
    largest = float(x.abs().max())
    for i in sorted({0, n // 3, n // 2, n - 1, min(n - 1, CHUNK // 4), min(n - 1, CHUNK)}):
        spiked = x.clone()
        spiked[i] = -8 * largest
        assert reduce_all(isa, "max_abs", [spiked]) == [8 * float(torch.tensor(largest, dtype=dtype))]
        spiked[i] = math.nan
        spiked[(i + 1) % n] = math.inf if n > 1 else math.nan
        assert math.isnan(reduce_all(isa, "max_abs", [spiked])[0])


@pytest.mark.parametrize("exchange", [True, False])
def test_unreadable_tensors_give_none(reduction, exchange):
    """Tensors that the kernels cannot read are None, in their place; dense permuted ones are read."""
    x = random((4, 6))
    odd = [x.double(), x.to(torch.int32), x.to(torch.complex64), x.to_sparse(), x.to("meta")]
    odd += [x[:, ::2], x[:1].expand(4, 6), x[:, 1:]]
    plain = reduce_all("scalar", reduction, [x])[0]
    for other in odd:
        assert reduce_all("scalar", reduction, [x, other, x], exchange=exchange) == [plain, None, plain]
    (permuted,) = reduce_all("scalar", reduction, [x.t()], exchange=exchange)
    assert permuted == plain
    assert reduce_all("scalar", reduction, [torch.empty(0), torch.tensor(2.0)], exchange=exchange) == [
        _core.reduce_reference(reduction, np.empty(0)),
        _core.reduce_reference(reduction, np.array([2.0])),
    ]


def test_public_functions_take_any_tensor():
    """`gaudi3_rt.reduce` sums what the kernels read and what they do not: float64, views, empty, gradients."""
    x = random(1000)
    tensors = [
        *(x, x.to(torch.bfloat16), x.to(torch.float16), x.double() * 1e100, torch.empty(0), torch.tensor(3.0)),
        *(x.reshape(10, 100)[:, ::3], x.reshape(10, 100).t(), x[:1].expand(50), torch.nn.Parameter(x)),
    ]
    want = math.fsum(v * v for tensor in tensors for v in tensor.reshape(-1).tolist())
    assert math.isclose(gaudi3_rt.reduce.sum_squares(iter(tensors)), want, rel_tol=1e-13)
    assert gaudi3_rt.reduce.all_finite(iter(tensors)) is True
    assert gaudi3_rt.reduce.sum_squares([]) == 0
    assert gaudi3_rt.reduce.all_finite([]) is True


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype64", [torch.float32, torch.float64], ids=str)
def test_public_functions_see_bad_values(value, dtype64):
    """A value that is not finite is seen in the last tensor, and in a view of which only a part is bad."""
    bad = torch.ones(10, dtype=dtype64)
    bad[6] = value
    for view, finite in [(bad, False), (bad[::2], False), (bad[1::2], True), (bad[:6], True)]:
        assert gaudi3_rt.reduce.all_finite([torch.ones(3), view]) is finite
        assert math.isfinite(gaudi3_rt.reduce.sum_squares([torch.ones(3), view])) is finite


# The norm inside the step


def numpy_norm(this, factor=1.0):
    """The norm of all gradients together, by numpy in float64."""
    return math.sqrt(math.fsum(float(np.square(g.double().numpy()).sum()) for g in this.operands[1])) * abs(factor)


def test_step_clips_by_the_norm_of_all_gradients(kernel, isa):
    """The norm is that of the factored gradients, and the step that with torch's clip coefficient, bit by bit."""
    dtypes = [_problems.DTYPES[i % len(_problems.DTYPES)] for i in range(len(_problems.operand_names(kernel)))]
    start = problem(kernel, [700, 0, 33, 20_000], dtypes=dtypes)

    def check(max_norm, grad_factor):
        this, want = start.clone(), start.clone()
        norm, stepped = step(isa, this, n_threads=2, max_norm=max_norm, grad_factor=grad_factor)
        assert stepped
        assert math.isclose(norm, numpy_norm(want, grad_factor), rel_tol=1e-12)
        coefficient = min(1.0, max_norm / (norm + 1e-6))
        step("scalar", want, grad_factor=grad_factor * coefficient)
        assert_same_bits(this, want)

    check_all(itertools.product([0.0, 1e-3, 0.5, 3.0, 1e4, math.inf], [1.0, -0.25, 1 / 65536]), check)


def test_clip_coefficient_is_torchs(isa):
    """After `torch.nn.utils.clip_grad_norm_` gradients are ours times the coefficient, to within float rounding."""
    for scale in (1e-3, 1.0, 1e3):
        this = problem("adamw", [700, 33])
        params = []
        for grad in this.operands[1]:
            grad.mul_(scale)
            params.append(torch.nn.Parameter(torch.zeros_like(grad)))
            params[-1].grad = grad.clone()
        total = torch.nn.utils.clip_grad_norm_(params, 2.0)
        norm, _ = step(isa, this, max_norm=2.0)
        assert math.isclose(norm, float(total), rel_tol=1e-6)
        clipped = [grad * min(1.0, 2.0 / (norm + 1e-6)) for grad in this.operands[1]]
        for ours, theirs in zip(clipped, params, strict=True):
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-6, atol=0)


def test_norm_bits_do_not_depend_on_threads(kernel):
    """The clipped step has equal bits and an equal norm for every build and number of threads."""
    want = problem(kernel, LARGE_SIZES)
    start = want.clone()
    norm, _ = step("scalar", want, max_norm=1.0)
    for isa, n_threads in itertools.product(_core.isas(), THREADS):
        got = start.clone()
        assert step(isa, got, n_threads=n_threads, max_norm=1.0) == (norm, True)
        assert_same_bits(got, want, f"{isa}, {n_threads} threads")


def test_skipped_steps_change_nothing(kernel, isa):
    """With `skip_nonfinite` a gradient that is not finite leaves every byte, also of counters and gradients."""
    start = problem(kernel, [20_000, 50, 60_000])

    def check(value, n_threads, place):
        this = start.clone()
        this.operands[1][2][place] = value
        before = this.clone()
        norm, stepped = step(isa, this, n_threads=n_threads, max_norm=math.inf, skip_nonfinite=True)
        assert not stepped
        assert not math.isfinite(norm)
        assert_same_bits(this, before)

    values = [value for value in SPECIAL_VALUES if not math.isfinite(value)]
    check_all(itertools.product(values, [1, 3], [0, 33, -1]), check)


@for_all(value=[math.nan, math.inf])
def test_a_bad_norm_reaches_the_step(kernel, isa, value):
    """Without `skip_nonfinite` the step is taken as with torch: clipping by a NaN norm makes everything NaN."""
    this = problem(kernel, [20, 50])
    this.operands[1][0][7] = value
    want = this.clone()
    norm, stepped = step(isa, this, max_norm=1.0)
    assert stepped
    assert all(t == 4 for t in this.steps)
    step(isa, want, grad_factor=1.0 / (norm + 1e-6))
    assert_same_bits(this, want)
    assert this.operands[0][1].isnan().all() == math.isnan(value)


def test_finite_steps_are_not_skipped(kernel, isa):
    """With `skip_nonfinite` and `max_norm=inf` gradients whose squares leave float's range are no reason to skip."""
    this = problem(kernel, [100])
    this.operands[1][0].mul_(1e30)
    want = this.clone()
    norm, stepped = step(isa, this, max_norm=math.inf, skip_nonfinite=True)
    assert stepped
    assert math.isclose(norm, numpy_norm(want), rel_tol=1e-12)
    step(isa, want)
    assert_same_bits(this, want)


def test_without_max_norm_there_is_no_norm(kernel):
    """`step` returns None for a norm that nobody asked for, and does not look at gradients beforehand."""
    this = problem(kernel, [10])
    this.operands[1][0][0] = math.nan
    assert step("scalar", this, skip_nonfinite=True) == (None, True)


@for_all(reduction=_core.reductions())
def test_reduce_grads_reads_the_gradients(kernel, reduction, isa):
    """The list's own reduction is that of the gradients, one number per tensor; nothing else is read or written."""
    dtypes = [_problems.DTYPES[i % len(_problems.DTYPES)] for i in range(len(_problems.operand_names(kernel)))]
    this = problem(kernel, [700, 0, 33], dtypes=dtypes)
    before = this.clone()
    tensor_list = _core.TensorList(isa, torch.Tensor)
    this.extend(tensor_list)
    assert tensor_list.reduce_grads(reduction, 2) == reduce_all("scalar", reduction, this.operands[1])
    assert_same_bits(this, before)


def test_lengths_beyond_32_bits():
    """More than 2^32 elements: the last ones are counted, once. Pages that were never written take no memory."""
    n = 2**32 + 12_345
    with mmap.mmap(-1, 2 * n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        x = torch.frombuffer(memory, dtype=torch.bfloat16)
        x[2**31 - 1 : 2**31 + 2] = 3
        x[-1] = 4
        (value,) = _core.reduce(_core.isas()[0], torch.Tensor, "sum_squares", [x], 2)
        x[-1] = torch.nan
        (finite,) = _core.reduce(_core.isas()[0], torch.Tensor, "all_finite", [x], 2)
        del x
    assert value == 3 * 9 + 16
    assert finite == 0
