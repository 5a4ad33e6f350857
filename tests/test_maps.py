"""Maps, which replace each element in place, over the registry: the definition, bit by bit, for every build and cut."""

import itertools
import math

import numpy as np
import pytest
import torch
from _problems import LARGE_SIZES, MANY_SIZES, SIZES, SPECIAL_VALUES, assert_same_tensors, bits, check_all, problem
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core

# A sensible value for every number that a map may take; floats, so that the definition is given what the map uses.
PARAMETERS = {"factor": float(np.float32(0.7)), "limit": float(np.float32(0.3))}


@pytest.fixture(scope="module", params=_core.maps())
def name(request):
    """Name of a map."""
    return request.param


def parameters_of(name):
    """A value for each number that the map takes."""
    unknown = [parameter for parameter in _core.map_parameters(name) if parameter not in PARAMETERS]
    assert not unknown, f"map {name!r} takes numbers without a value in tests/test_maps.py PARAMETERS: {unknown}"
    return [PARAMETERS[parameter] for parameter in _core.map_parameters(name)]


def apply(isa, name, tensors, n_threads=1, *, exchange=True):
    """Applies the map in place; all tensors must be taken."""
    grads = _core.GradList(isa, torch.Tensor, exchange)
    assert grads.extend(tensors) == []
    grads.map(name, parameters_of(name), n_threads)


def random(sizes, dtype=torch.float32, special=0.0):
    """Random tensors, some of their elements special."""
    return [x.to(dtype) for x in problem(_core.kernels()[0], sizes, special=special).operands[1]]


def defined(name, x):
    """What the map makes of a tensor by definition: in double, rounded to float, then to the dtype."""
    array = x.double().numpy().copy()
    with np.errstate(invalid="ignore", over="ignore"):
        _core.map_reference(name, parameters_of(name), array)
        return torch.from_numpy(array).float().to(x.dtype)


def test_map_is_the_definition(name, isa, dtype):
    """A product of two floats is exact in double, so there is one right result, NaN and infinity included."""

    def check(size, special):
        (x,) = random([size], dtype, special)
        want = defined(name, x)
        before = x.clone()
        apply(isa, name, [x])
        assert np.array_equal(bits(x), bits(want))
        assert size < 7 or special or not torch.equal(x, before), "there has to be something to see"

    check_all(itertools.product(SIZES, [0.0, 0.4]), check)


def test_references_are_what_their_names_say():
    """The definitions themselves."""
    x = np.array([2.0, -3.0, 0.5, math.inf, -math.inf, math.nan])
    scaled, clamped = x.copy(), x.copy()
    _core.map_reference("scale", [-0.5], scaled)
    _core.map_reference("clamp", [1.0], clamped)
    assert np.array_equal(scaled, [-1.0, 1.5, -0.25, -math.inf, math.inf, math.nan], equal_nan=True)
    assert np.array_equal(clamped, [1.0, -1.0, 0.5, 1.0, -1.0, math.nan], equal_nan=True)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("sizes", [LARGE_SIZES, MANY_SIZES])
def test_bits_do_not_depend_on_build_or_threads(name, dtype, sizes, exchange):
    """Each tensor of a list becomes what it becomes alone, on all builds, for all numbers of threads."""
    start = random(sizes, dtype, special=1e-3)
    want = [defined(name, x) for x in start]
    for isa, n_threads in itertools.product(_core.isas(), [1, 2, 8]):
        got = [x.clone() for x in start]
        apply(isa, name, got, n_threads, exchange=exchange)
        assert_same_tensors(got, want, f"{isa}, {n_threads} threads")


@given(data=st.data())
def test_nothing_around_a_tensor_is_written(name, dtype, data):
    """Wherever its memory begins and ends, a map writes the tensor and nothing beside it."""
    n = data.draw(st.integers(0, 1500))
    offset = data.draw(st.integers(0, 17))
    (x,) = random([n], dtype)
    buffer = torch.full((n + 34,), 5.0, dtype=dtype)
    inside = slice(offset, offset + n)
    want = buffer.clone()
    want[inside] = defined(name, x)
    buffer[inside] = x
    for isa in _core.isas():
        got = buffer.clone()
        apply(isa, name, [got[inside]])
        assert torch.equal(got, want), isa


def test_special_values_are_all_seen(name, isa, dtype):
    """Every special value in every place of a register."""
    x = torch.tensor(SPECIAL_VALUES * 17, dtype=torch.float32).to(dtype)
    want = defined(name, x)
    apply(isa, name, [x])
    assert np.array_equal(bits(x), bits(want))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_list_takes_what_is_dense(exchange):
    """Tensors that the kernels cannot write are left over, by their index; permuted dense ones are taken."""
    x = torch.ones(4, 6)
    odd = [x.double(), x.to(torch.int32), x.to_sparse(), x.to("meta"), x[:, ::2], x[:1].expand(4, 6)]
    odd.append(torch.view_as_complex(torch.ones(1, 2)).conj().imag)  # a single element, with the negation bit
    grads = _core.GradList("scalar", torch.Tensor, exchange)
    assert grads.extend([x.clone(), *odd, x.t()], 100) == list(range(101, 101 + len(odd)))
    assert grads.indices == [100, 101 + len(odd)]
    assert len(grads) == 2
    assert grads.tensors[1].shape == (6, 4)
    grads.map("scale", [3.0], 2)
    assert torch.equal(x, torch.full((4, 6), 3.0))


def test_unknown_names_and_wrong_counts_are_errors(name):
    """The message lists what there is."""
    grads = _core.GradList("scalar", torch.Tensor)
    with pytest.raises(ValueError, match=rf"unknown map 'nope'; known: {', '.join(_core.maps())}"):
        grads.map("nope", [], 1)
    wanted = ", ".join(_core.map_parameters(name))
    with pytest.raises(ValueError, match=rf"map '{name}' takes the parameters \({wanted}\), got 7 numbers"):
        grads.map(name, [1.0] * 7, 1)
    with pytest.raises(ValueError, match="isa 'mmx' cannot run here"):
        _core.GradList("mmx", torch.Tensor)
    assert grads.isa == "scalar"


def test_flushing_of_denormals_holds_in_all_threads(name, isa):
    """The caller's treatment of denormals is that of every thread."""
    for flush in (False, True):
        start = random(LARGE_SIZES)
        for x in start:
            x[::3] *= 1e-38
        results = []
        for n_threads in (1, 8):
            got = [x.clone() for x in start]
            torch.set_flush_denormal(flush)
            apply(isa, name, got, n_threads)
            torch.set_flush_denormal(False)
            results.append(got)
        for one, several in zip(*results, strict=True):
            assert np.array_equal(bits(one), bits(several))
