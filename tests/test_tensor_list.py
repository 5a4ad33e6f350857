"""What a list of tensors takes, what it leaves over, and what it refuses."""

import itertools
import re

import _problems
import numpy as np
import pytest
import torch
from _cases import for_all
from _problems import assert_same_bits, operand_names, problem, step
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core
from gaudi3_rt.optim._rule import Rule

THREADS = [1, 2, 3, 8]


# What the list takes


def permuted(this, order):
    """The problem with every operand laid out in another order of dimensions."""
    memory = [[x.permute(order).contiguous() for x in operand] for operand in this.operands]
    back = [order.index(d) for d in range(len(order))]
    return _problems.Problem(this.kernel, [[x.permute(back) for x in operand] for operand in memory], this.steps)


@for_all(exchange=[True, False], order=[(0, 2, 3, 1), (3, 1, 0, 2), (0, 1, 3, 2)])
def test_dense_layouts_are_taken(kernel, isa, order, exchange):
    """Permuted dense tensors (channels_last and others) are stepped in place if all operands are laid out alike."""
    this = problem(kernel, [(2, 3, 5, 7), (1, 4, 1, 6)])
    got = permuted(this.clone(), order)
    assert not got.operands[0][0].is_contiguous()
    step(isa, got, exchange=exchange)
    step(isa, this)
    got.operands = [[x.contiguous() for x in operand] for operand in got.operands]
    assert_same_bits(got, this)


def change(this, operand, make):
    """Replaces one operand of tensor 1."""
    this.operands[operand][1] = make(this.operands[operand][1])


NOT_TAKEN = {
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "complex64": lambda x: x.to(torch.complex64),
    "float64": lambda x: x.double(),
    "int32": lambda x: x.to(torch.int32),
    "transposed": lambda x: x.t().contiguous().t(),
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@for_all(exchange=[True, False], what=NOT_TAKEN)
def test_other_memory_is_left_over(kernel, what, exchange):
    """What is not plain dense memory of a stored dtype, laid out like its parameter, is returned and not touched."""
    for operand in range(len(operand_names(kernel))):
        this = problem(kernel, [(4, 6)] * 3)
        change(this, operand, NOT_TAKEN[what])
        before = this.clone()
        tensor_list = _core.TensorList("scalar", torch.Tensor, exchange)
        assert this.extend(tensor_list) == [1], f"as {operand_names(kernel)[operand]}"
        assert len(tensor_list) == 2
        tensor_list.step(1)
        assert [float(t) for t in this.steps] == [4, 3, 4]
        for x, y in zip(this.operands, before.operands, strict=True):
            if x[1].layout is torch.strided and x[1].device.type == "cpu":
                assert torch.equal(x[1], y[1])


@for_all(exchange=[True, False], shape=[(), (1,), (1, 1)])
def test_a_negated_element_is_left_over(kernel, exchange, shape):
    """The imaginary part of a conjugate holds the negative in memory; where it is one element, it looks dense."""
    for operand in range(len(operand_names(kernel))):
        this = problem(kernel, [shape] * 2)
        negated = torch.complex(torch.ones(shape), torch.ones(shape)).conj().imag
        assert negated.is_neg()
        this.operands[operand][1] = negated
        assert this.extend(_core.TensorList("scalar", torch.Tensor, exchange)) == [1], operand_names(kernel)[operand]


@for_all(exchange=[True, False], what=["storage freed", "zeros without storage"])
def test_tensors_without_memory_are_left_over(kernel, what, exchange):
    """A tensor whose elements are nowhere, as between the steps of a sharded model, is not read."""
    freed = torch.ones(4)
    freed.untyped_storage().resize_(0)
    for operand in range(len(operand_names(kernel))):
        this = problem(kernel, [4, 4])
        this.operands[operand][1] = freed if what == "storage freed" else torch._efficientzerotensor((4,))
        left_over = this.extend(_core.TensorList("scalar", torch.Tensor, exchange))
        assert left_over == [1], operand_names(kernel)[operand]


@for_all(
    exchange=[True, False],
    counter=[
        torch.tensor(1),
        torch.ones(2),
        torch.ones(0),
        torch.tensor(1.0, dtype=torch.float16),
        torch.ones((), device="meta"),
    ],
)
def test_other_counters_are_left_over(kernel, counter, exchange):
    """A counter that is not one float32 or float64 in CPU memory leaves its tensor over."""
    this = problem(kernel, [5, 5, 5])
    this.steps[2] = counter
    assert this.extend(_core.TensorList("scalar", torch.Tensor, exchange)) == [2]


@given(data=st.data())
def test_the_exchange_table_changes_nothing(kernel, data):
    """Asked through DLPack's table or through Python attributes, the same tensors are taken and get the same bits."""
    shapes = data.draw(st.lists(st.sampled_from([(2, 3), (1, 5), (4, 1), (0, 3), (6, 6)]), min_size=1, max_size=6))
    odd = data.draw(st.lists(st.sampled_from([*NOT_TAKEN, *[None] * 20]), min_size=len(shapes), max_size=len(shapes)))
    operand = data.draw(st.integers(0, len(operand_names(kernel)) - 1))
    made = []
    for exchange in (True, False):
        this = problem(kernel, shapes)
        for i, what in enumerate(odd):
            if what is not None and min(shapes[i]) > 0:
                this.operands[operand][i] = NOT_TAKEN[what](this.operands[operand][i])
        tensor_list = _core.TensorList("scalar", torch.Tensor, exchange)
        left_over = this.extend(tensor_list)
        tensor_list.step(1)
        made.append((left_over, this))
    assert made[0][0] == made[1][0]
    for x, y in zip(*(itertools.chain(*this.operands) for _, this in made), strict=True):
        if x.layout is torch.strided and x.device.type == "cpu":
            assert torch.equal(x, y)


# Errors


@pytest.mark.parametrize("exchange", [True, False])
def test_other_shapes_are_refused(kernel, exchange):
    """An operand with another shape than its parameter is an error that names it, its place and both shapes."""
    for j, name in list(enumerate(operand_names(kernel)))[1:]:
        this = problem(kernel, [(2, 3)] * 4)
        this.operands[j][2] = torch.ones(6)
        with pytest.raises(ValueError, match=rf"{name} of \w+ 2 .*\(6,\).*\(2, 3\)"):
            this.extend(_core.TensorList("scalar", torch.Tensor, exchange))


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_overlapping_tensors_are_refused(kernel, shift):
    """Memory that would be written twice is an error that names both tensors, and nothing is written."""
    written = [j for j in range(len(operand_names(kernel))) if j != 1][:2]
    for a, b in itertools.product(written, repeat=2):
        this = problem(kernel, [5, 5, 5])
        buffer = torch.ones(5 + shift)
        this.operands[a][0], this.operands[b][2] = buffer[:5], buffer[shift:]
        before = this.clone()
        if a == b or shift < 5:
            with pytest.raises(ValueError, match=r"\b[02] .*\b[02] .*overlap"):
                step("scalar", this)
            assert_same_bits(this, before)


@pytest.mark.parametrize("other", [False, True])
def test_a_gradient_in_written_memory_is_refused(kernel, other):
    """A gradient that shares memory with a parameter, shifted or of another tensor, would be read while it changes."""
    this = problem(kernel, [64, 64])
    if other:
        this.operands[1][0] = this.operands[0][1]
    else:
        buffer = torch.ones(65)
        this.operands[0][0], this.operands[1][0] = buffer[1:], buffer[:-1]
    with pytest.raises(ValueError, match="overlap"):
        step("scalar", this)


def test_neighbours_do_not_overlap(kernel):
    """Tensors that touch, as views of one flat buffer do, are no overlap; nor are empty ones."""
    this = problem(kernel, [5, 0, 5])
    for operand in this.operands:
        flat = torch.cat(operand)
        operand[:] = [flat[:5], flat[3:3], flat[5:]]
    step("scalar", this)


def test_unknown_names_are_refused():
    """Errors of an unknown kernel, build or reduction list what there is."""
    listed = {name: ", ".join(names()) for name, names in [("kernel", _core.kernels), ("reduction", _core.reductions)]}
    tensor_list = _core.TensorList("scalar", torch.Tensor)
    with pytest.raises(ValueError, match=f"kernel 'nope'.*{listed['kernel']}"):
        tensor_list.extend(Rule("nope", []), [], [], [], [])
    with pytest.raises(ValueError, match=f"kernel 'nope'.*{listed['kernel']}"):
        _core.describe_kernel("nope")
    with pytest.raises(ValueError, match=f"kernel 'nope'.*{listed['kernel']}"):
        _core.reference("nope", [], 1, [np.zeros(1)])
    with pytest.raises(ValueError, match=f"reduction 'nope'.*{listed['reduction']}"):
        tensor_list.reduce_grads("nope", 1)
    with pytest.raises(ValueError, match=f"reduction 'nope'.*{listed['reduction']}"):
        _core.reduce("scalar", torch.Tensor, "nope", [], 1)
    with pytest.raises(ValueError, match=f"'nope'.*{', '.join(_core.isas())}"):
        _core.TensorList("nope", torch.Tensor)
    with pytest.raises(ValueError, match=f"'nope'.*{', '.join(_core.isas())}"):
        _core.reduce("nope", torch.Tensor, "sum_squares", [], 1)


def test_wrong_numbers_of_things_are_refused(kernel):
    """Errors of too few hyper-parameters, operands or tensors say what the kernel takes."""
    names = operand_names(kernel)
    hyper = _problems.hyper_of(kernel)
    rule, keys = Rule(kernel, hyper), names[2:]
    this = problem(kernel, [5, 5])
    tensor_list = _core.TensorList("scalar", torch.Tensor)
    with pytest.raises(ValueError, match=re.escape(", ".join(_core.describe_kernel(kernel)["hyper"]))):
        tensor_list.extend(Rule(kernel, hyper[1:]), keys, this.operands, this.steps, [0, 1])
    with pytest.raises(ValueError, match=rf"{re.escape(', '.join(keys))}.* as many lists, got {len(names) - 1}"):
        tensor_list.extend(rule, keys, this.operands[:-1], this.steps, [0, 1])
    if keys:
        with pytest.raises(ValueError, match=f"needs a list of {names[-1]}"):
            tensor_list.extend(rule, keys[:-1], this.operands[:-1], this.steps, [0, 1])
        with pytest.raises(ValueError, match=f"no use for a list of '{keys[0]}'"):
            tensor_list.extend(rule, [*keys, keys[0]], [*this.operands, this.operands[0]], this.steps, [0, 1])
    with pytest.raises(ValueError, match="no use for a list of 'nope'"):
        tensor_list.extend(rule, [*keys, "nope"], [*this.operands, this.operands[0]], this.steps, [0, 1])
    with pytest.raises(ValueError, match="every tensor needs a number"):
        tensor_list.extend(rule, keys, this.operands, this.steps, [0])
    with pytest.raises(ValueError, match=f"list of {names[-1]} has 1 tensors.* steps 2"):
        tensor_list.extend(rule, keys, [*this.operands[:-1], this.operands[-1][:1]], this.steps, [0, 1])
    assert len(tensor_list) == 0
    with pytest.raises(ValueError, match=re.escape(", ".join(_core.describe_kernel(kernel)["hyper"]))):
        _core.reference(kernel, hyper[1:], 1, [np.zeros(1)] * len(names))
    with pytest.raises(ValueError, match=f"takes {len(names)} arrays, got {len(names) - 1}"):
        _core.reference(kernel, hyper, 1, [np.zeros(1)] * (len(names) - 1))
    with pytest.raises(ValueError, match="same length"):
        _core.reference(kernel, hyper, 1, [*([np.zeros(2)] * (len(names) - 1)), np.zeros(3)])
