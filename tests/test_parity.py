"""Every kernel against its definition, and every build, number of threads and way of cutting against every other."""

import functools
import itertools

import _problems
import pytest
import torch
from _cases import for_all
from _problems import DTYPES, LARGE_SIZES, MANY_SIZES, SPECIAL_VALUES, assert_same_bits, operand_names, problem, step
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core

THREADS = [1, 2, 3, 8]


# Against the definition


def test_step_is_the_definition(kernel, isa):
    """Several float32 steps stay within a few roundings of the definition, each far smaller than the step."""

    def check(size):
        _problems.check_against_reference(kernel, lambda this: step(isa, this), problem(kernel, [size]), n_steps=4)

    _problems.check_all([(size,) for size in _problems.SIZES], check)


def test_first_step_is_the_definition(kernel, isa):
    """The same from zero state, where bias correction is strongest and nothing hides an error in 1 - beta."""
    this = problem(kernel, [1000], t=0)
    for state in this.operands[2:]:
        state[0].zero_()
    _problems.check_against_reference(kernel, lambda this: step(isa, this), this, n_steps=3)


def test_nothing_comes_of_a_zero_gradient_from_zero_state(kernel, isa):
    """Where there was never a gradient only the parameter's own size counts: a sign of zero is no step."""
    this = problem(kernel, [5], t=0)
    for operand in this.operands[1:]:
        operand[0].zero_()
    _problems.check_against_reference(kernel, lambda this: step(isa, this), this)


def test_a_sign_is_open_at_a_tie_and_only_there(isa):
    """Half of the elements are ties to within a rounding, where Lion may step either way; the others are not."""
    n = 500
    this = problem("lion", [2 * n])
    lr, beta1, *_ = _problems.hyper_of("lion")
    (_, (grad,), (exp_avg,)) = this.operands
    grad[:n] = (exp_avg[:n].double() * (-beta1 / (1 - beta1))).float()
    _, (bound, *_) = _problems.bounds("lion", 4, [operand[0].double().numpy() for operand in this.operands])
    assert (bound[:n] > 1.99 * lr).all()
    assert (bound[n:] < 1e-3 * lr).all()
    _problems.check_against_reference("lion", lambda this: step(isa, this), this)


@for_all(t=[0, 1, 9, 999, 10**6, 2**24 - 2])
def test_step_number_reaches_the_formula(kernel, t):
    """Step numbers from the first to the last that float32 counts are honoured."""
    _problems.check_against_reference(kernel, lambda this: step("scalar", this), problem(kernel, [100], t=t))


@for_all(n=[_core.CHUNK - 1, _core.CHUNK, _core.CHUNK + 1, 2 * _core.CHUNK + 77])
def test_chunks_meet_without_gap_or_overlap(kernel, isa, n):
    """Lengths around the chunk size are stepped once everywhere."""
    _problems.check_against_reference(kernel, lambda this: step(isa, this, n_threads=2), problem(kernel, [n]))


@for_all(dtype=_problems.DTYPES)
def test_stored_dtypes_are_rounded_once(kernel, isa, dtype):
    """With all operands in one dtype the result is the definition of what was stored, rounded to the dtype."""
    this = problem(kernel, [700], dtypes=[dtype] * len(operand_names(kernel)))
    _problems.check_against_reference(kernel, lambda this: step(isa, this), this, n_steps=4)


def test_maximize_ascends(kernel, isa):
    """`maximize` is the step with the gradient's sign turned, bit by bit."""
    this = problem(kernel, [100, 600])
    turned = this.clone()
    for grad in turned.operands[1]:
        grad.neg_()
    step(isa, this, maximize=True)
    step(isa, turned)
    turned.operands[1] = this.operands[1]
    assert_same_bits(this, turned)


def test_grad_factor_multiplies_the_gradient(kernel, isa):
    """`grad_factor` is the step with gradients multiplied beforehand, and leaves the gradients as they are."""
    this = problem(kernel, [100, 600])
    scaled = this.clone()
    scaled.operands[1] = [grad * 0.37 for grad in scaled.operands[1]]
    step(isa, this, grad_factor=0.37)
    step(isa, scaled)
    scaled.operands[1] = problem(kernel, [100, 600]).operands[1]
    assert_same_bits(this, scaled)


# Equal bits


def place(tensor, offset):
    """A copy of a flat tensor at an offset in a larger buffer of NaN, and that buffer."""
    buffer = torch.full((offset + tensor.numel() + 17,), torch.nan, dtype=tensor.dtype)
    view = buffer[offset : offset + tensor.numel()]
    view.copy_(tensor)
    return view, buffer


@given(data=st.data())
def test_bits_depend_on_the_elements_alone(elementwise_kernel, data):
    """Builds, cuts, calls, alignment and neighbours change no bit, for any mix of dtypes and any values."""
    kernel = elementwise_kernel
    names = operand_names(kernel)
    lengths = data.draw(st.lists(st.integers(0, 1100), min_size=1, max_size=4), label="lengths")
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=len(names), max_size=len(names)), label="dtypes")
    special = data.draw(st.sampled_from([0.0, 0.1, 0.9]), label="special")
    whole = problem(kernel, lengths, dtypes=dtypes, seed=data.draw(st.integers(0, 999)), special=special)
    want = whole.clone()
    step("scalar", want)

    for isa in _core.isas():
        pieces, buffers = _problems.Problem(kernel, [[] for _ in names], []), []
        ends = []
        for i, length in enumerate(lengths):
            cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=3), label="cuts")})
            ends.append(len(cuts) - 1)
            for begin, end in itertools.pairwise(cuts):
                for j, operand in enumerate(whole.operands):
                    view, buffer = place(operand[i][begin:end], data.draw(st.integers(0, 17), label="offset"))
                    pieces.operands[j].append(view)
                    buffers.append((buffer, view.storage_offset(), end - begin))
                pieces.steps.append(whole.steps[i].clone())

        # Some calls have the list to themselves, some share one.
        tensor_list = _core.TensorList(isa, torch.Tensor)
        calls = sorted({0, len(pieces.steps), *data.draw(st.lists(st.integers(0, len(pieces.steps)), max_size=3))})
        for begin, end in itertools.pairwise(calls):
            assert pieces.extend(tensor_list, slice(begin, end)) == []
            if data.draw(st.booleans(), label="step now"):
                tensor_list.step(data.draw(st.sampled_from(THREADS), label="threads"))
                tensor_list.clear()
        tensor_list.step(1)

        got = _problems.Problem(kernel, [[] for _ in names], want.steps)
        first = 0
        for n_pieces in ends:
            for j in range(len(names)):
                own = pieces.operands[j][first : first + n_pieces]
                got.operands[j].append(torch.cat(own) if own else torch.empty(0, dtype=dtypes[j]))
            first += n_pieces
        assert_same_bits(got, want, isa)
        for buffer, begin, n in buffers:
            assert buffer[:begin].isnan().all(), "written before the tensor"
            assert buffer[begin + n :].isnan().all(), "written behind the tensor"


@functools.lru_cache(maxsize=2)
def stepped(kernel, sizes):
    """A problem before and after its step on one thread, for all builds that are compared with it."""
    start = problem(kernel, sizes, special=0.05)
    want = start.clone()
    step("scalar", want)
    return start, want


@pytest.mark.parametrize("sizes", [LARGE_SIZES, MANY_SIZES], ids=["large", "many"])
def test_bits_do_not_depend_on_threads(kernel, isa, sizes):
    """With 1, 2, 3 and 8 threads that all have work, every tensor of a list gets the same bits."""
    start, want = stepped(kernel, tuple(sizes))
    for n_threads in THREADS:
        got = start.clone()
        step(isa, got, n_threads=n_threads)
        assert {float(t) for t in got.steps} == {4}
        assert_same_bits(got, want, f"{n_threads} threads")


@pytest.mark.parametrize("sizes", [LARGE_SIZES, MANY_SIZES], ids=["large", "many"])
def test_a_list_gets_the_bits_of_one_flat_tensor(elementwise_kernel, isa, sizes):
    """Into how many tensors the elements are divided changes nothing."""
    kernel = elementwise_kernel
    flat = problem(kernel, [sum(sizes)], special=0.05)
    operands = [list(operand[0].clone().split(sizes)) for operand in flat.operands]
    got = _problems.Problem(kernel, operands, [flat.steps[0].clone() for _ in sizes])
    step("scalar", flat)
    step(isa, got, n_threads=2)
    joined = _problems.Problem(kernel, [[torch.cat(operand)] for operand in got.operands], flat.steps)
    assert_same_bits(joined, flat)


def test_bits_do_not_depend_on_misalignment(kernel, isa):
    """Operands that begin 0 to 17 elements into their memory, each elsewhere, give the same bits."""
    this = problem(kernel, [600], special=0.05)
    want = this.clone()
    step("scalar", want)
    for offset in range(18):
        got = this.clone()
        got.operands = [[place(x[0], (offset * (j + 1)) % 18)[0]] for j, x in enumerate(got.operands)]
        step(isa, got)
        assert_same_bits(got, want, f"offset {offset}")


@pytest.mark.parametrize("flush", [False, True])
def test_flushing_of_denormals_holds_in_all_threads(kernel, flush):
    """The caller's treatment of denormals is that of every thread and every build: equal bits with it on and off."""
    this = problem(kernel, LARGE_SIZES)
    for operand in this.operands:
        for tensor in operand:
            tensor[::3] *= 1e-39
    usual = this.clone()
    step("scalar", usual)
    want = this.clone()
    torch.set_flush_denormal(flush)
    step("scalar", want)
    pairs = zip(usual.operands, want.operands, strict=True)
    same = all((_problems.bits(a[0]) == _problems.bits(b[0])).all() for a, b in pairs)
    assert same != flush, "flushing has to show in these values"
    for isa, n_threads in itertools.product(_core.isas(), THREADS):
        got = this.clone()
        step(isa, got, n_threads=n_threads)
        assert_same_bits(got, want, f"{isa}, {n_threads} threads")


def test_bad_elements_stay_in_their_lane(elementwise_kernel, isa):
    """A NaN, infinity, denormal or huge number at i, in any operand, changes the results at i only."""
    kernel = elementwise_kernel
    clean = problem(kernel, [77])
    want = clean.clone()
    step(isa, want)
    names = operand_names(kernel)

    def check(value, name, i):
        dirty = clean.clone()
        dirty.operands[names.index(name)][0][i] = value
        step(isa, dirty)
        for got, expected in zip(dirty.operands, want.operands, strict=True):
            got[0][i] = expected[0][i]
        assert_same_bits(dirty, want)

    _problems.check_all(itertools.product([*SPECIAL_VALUES[2:], -1.0], names, [0, 5, 63, 64, 72, 76]), check)


@for_all(value=[torch.nan, torch.inf])
def test_bad_gradients_reach_the_result(kernel, isa, value):
    """A gradient that is not finite is not swallowed: some output of its element is not finite."""
    this = problem(kernel, [77])
    this.operands[1][0][50] = value
    step(isa, this)
    assert not all(operand[0][50].isfinite() for operand in (this.operands[0], *this.operands[2:]))


# Counters and lists


@pytest.mark.parametrize("counter", [torch.float32, torch.float64], ids=str)
def test_counters_advance_by_one(kernel, counter):
    """Step counters, float32 and float64, 0-d or of one element, go up by exactly 1."""
    this = problem(kernel, [3, 0, 5])
    this.steps = [torch.tensor(4, dtype=counter), torch.tensor(9, dtype=counter), torch.tensor([6], dtype=counter)]
    for taken in range(1, 4):
        step("scalar", this)
        assert [float(t) for t in this.steps] == [4 + taken, 9 + taken, 6 + taken]


def test_each_tensor_has_its_own_step_number(kernel, isa):
    """Different counters in one call give each tensor the step it would have had alone."""
    this = problem(kernel, [65] * 5)
    this.steps = [torch.tensor(t) for t in (0.0, 9.0, 9.0, 0.0, 1234.0)]
    alone = this.clone()
    step(isa, this)
    for i in range(5):
        one = _problems.Problem(kernel, [operand[i : i + 1] for operand in alone.operands], alone.steps[i : i + 1])
        step("scalar", one)
    assert_same_bits(this, alone)


def test_kernels_and_hyper_parameters_share_a_list(isa):
    """Groups with kernels, hyper-parameters and signs of their own go into one step."""
    groups = [problem(kernel, [65, 600], seed=i) for i, kernel in enumerate([*_core.kernels(), _core.kernels()[0]])]
    alone = [group.clone() for group in groups]
    tensor_list = _core.TensorList(isa, torch.Tensor)
    for i, group in enumerate(groups):
        group.extend(tensor_list, maximize=bool(i % 2))
    assert len(tensor_list) == 2 * len(groups)
    tensor_list.step(2)
    for i, (group, one) in enumerate(zip(groups, alone, strict=True)):
        step(isa, one, maximize=bool(i % 2))
        assert_same_bits(group, one, f"group {i}")


@for_all(sizes=[[0], [], [0, 0, 9], [9, 0], [0, 9, 0, 0, 600, 0]])
def test_empty_tensors_are_passed_over(kernel, isa, sizes):
    """Empty tensors anywhere change nothing about the others; only their counter advances."""
    this = problem(kernel, sizes)
    full = [i for i, n in enumerate(sizes) if n]
    others = _problems.Problem(kernel, [[x[i].clone() for i in full] for x in this.operands], [])
    others.steps = [this.steps[i].clone() for i in full]
    for _ in range(2):
        step(isa, this, n_threads=2, max_norm=0.5)
        step(isa, others, max_norm=0.5)
    kept = _problems.Problem(kernel, [[x[i] for i in full] for x in this.operands], [this.steps[i] for i in full])
    assert_same_bits(kept, others)
    assert all(t == 5 for t in this.steps)


def test_scalars_are_stepped(kernel, isa):
    """0-d tensors are stepped like tensors of one element."""
    flat = problem(kernel, [1, 1])
    scalars = flat.clone()
    scalars.operands = [[x.reshape(()) for x in operand] for operand in scalars.operands]
    step(isa, scalars)
    step(isa, flat)
    assert_same_bits(scalars, flat)
