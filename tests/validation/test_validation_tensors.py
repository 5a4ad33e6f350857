"""Tensors and batches: shape, dtype, device, finite values; which key, which element, how many."""

import math

import numpy as np
import pytest
import torch
from _fuzz import examples
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.validation import TensorSpec, _tensors, validate_batch, validate_tensor


def fault(tensor, **options):
    """The message of the refusal, None if the tensor itself came back."""
    try:
        assert validate_tensor(tensor, "x", **options) is tensor
    except DataValidationError as error:
        return error.message
    return None


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ((2, 3), (2, 3), None),
        ((2, 3), ("batch", None), None),
        ((3, 3), ("n", "n"), None),
        ((), (), None),
        ((0, 5), (0, "n"), None),
        ((2, 3), (2, 4), "x: has the shape (2, 3); allowed: (2, 4)"),
        ((2, 3), ("batch", 3, None), "x: has the shape (2, 3); allowed: (batch, 3, any)"),
        ((2,), (), "x: has the shape (2,); allowed: ()"),
        ((2, 3), (3,), "x: has the shape (2, 3); allowed: (3,)"),
        ((2, 3), ("n", "n"), "x: has the shape (2, 3); dimension 1 (n) must be 2, as of x dimension 0"),
    ],
)
def test_shape(shape, wanted, message):
    """Sizes, any size, sizes by name."""
    assert fault(torch.zeros(shape), shape=wanted) == message


def test_dtype_and_device():
    """One or several; a device with or without its number."""
    x = torch.zeros(2, dtype=torch.bfloat16)
    assert fault(x, dtype=torch.bfloat16, device="cpu") is None
    assert fault(x, dtype=[torch.float32, torch.bfloat16], device=torch.device("cpu")) is None
    assert fault(x, dtype=torch.float32) == "x: seen torch.bfloat16; allowed: torch.float32"
    assert fault(x, dtype=(torch.int8, torch.int16)) == "x: seen torch.bfloat16; allowed: torch.int8, torch.int16"
    assert fault(x, device="meta") == "x: is on cpu; allowed: meta"
    assert fault(torch.zeros(2, device="meta"), device="meta", finite=False) is None
    assert fault([1.0]) == "x: seen an object of type list; allowed: a tensor"


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_finite(dtype):
    """The first element that is not, in the order of indices, and how many there are."""
    x = torch.zeros(3, 5)
    assert fault(x.to(dtype)) is None
    x[1, 4] = x[2, 0] = math.nan
    assert fault(x.to(dtype)) == "x: 2 of 15 elements are not finite; the first is nan at (1, 4)"
    assert fault(x.to(dtype), finite=False) is None
    assert fault(x.to(dtype).t()) == "x: 2 of 15 elements are not finite; the first is nan at (0, 2)"
    assert fault(torch.tensor(math.nan).to(dtype)) == "x: 1 of 1 elements are not finite; the first is nan at ()"
    if dtype is not torch.float8_e4m3fn:  # it has no infinity
        x[0, 0] = -math.inf
        assert fault(x.to(dtype)) == "x: 3 of 15 elements are not finite; the first is -inf at (0, 0)"


def test_values_that_cannot_be_infinite_or_cannot_be_read():
    """Integers are not read; what has no plain memory is refused rather than waved through."""
    assert fault(torch.tensor([1, 2])) is None
    assert fault(torch.tensor([True])) is None
    assert fault(torch.zeros(0)) is None
    assert fault(torch.zeros(2, requires_grad=True)) is None
    assert "cannot be read (device meta" in fault(torch.zeros(2, device="meta"))
    assert "layout torch.sparse_coo" in fault(torch.eye(2).to_sparse())
    nested = torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    assert fault(nested) == "x: its values cannot be read (device cpu, nested)"
    assert "is a nested tensor, which has no shape" in fault(nested, shape=(2, None))
    assert fault(nested, finite=False) is None
    z = torch.tensor([1 + 1j, complex(0, math.inf), complex(math.nan, math.inf)])
    assert fault(z) == "x: 2 of 3 elements are not finite; the first is infj at (1,)"
    assert fault(z[:1].conj()) is None


@examples(60)
@given(st.lists(st.floats(width=32), max_size=40), st.integers(1, 3), st.sampled_from(FLOATS[:4]))
def test_finite_as_python_has_it(values, stride, dtype):
    """Any values, any stride."""
    x = torch.tensor(values, dtype=dtype)[::stride]
    bad = [i for i, value in enumerate(x.tolist()) if not math.isfinite(value)]
    found = fault(x)
    assert (found is None) == (not bad)
    if bad:
        assert found.startswith(f"x: {len(bad)} of {x.numel()} elements are not finite")
        assert found.endswith(f" at ({bad[0]},)")


def test_dense_memory_is_read_without_a_temporary(monkeypatch):
    """All tensors of a batch in one call of the kernel; torch looks only where it found something."""
    calls = []
    all_finite = _tensors.all_finite
    monkeypatch.setattr(_tensors, "all_finite", lambda tensors: calls.append(list(tensors)) or all_finite(calls[-1]))
    monkeypatch.setattr(torch, "isfinite", lambda _: pytest.fail("a temporary"))
    specs = {"x": TensorSpec(), "y": TensorSpec(), "z": TensorSpec(finite=False)}
    batch = {"x": torch.zeros(3), "y": torch.zeros(4, dtype=torch.bfloat16), "z": torch.zeros(5)}
    assert validate_batch(batch, specs) is batch
    assert [tensor.data_ptr() for tensor in calls[0]] == [batch["x"].data_ptr(), batch["y"].data_ptr()]
    assert len(calls) == 1


SPECS = {
    "tokens": TensorSpec(shape=("batch", "length"), dtype=torch.int64),
    "mask": TensorSpec(shape=("batch", "length"), dtype=torch.bool),
    "weights": TensorSpec(shape=("batch",), dtype=torch.float32),
}


def batch(n=2, length=3, **other):
    """A batch of SPECS."""
    tokens, mask = torch.zeros(n, length, dtype=torch.int64), torch.ones(n, length, dtype=torch.bool)
    return {"tokens": tokens, "mask": mask, "weights": torch.ones(n), **other}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("shape", 3), ("shape", "batch"), ("shape", (2.5,)), ("dtype", "float32"), ("dtype", [torch.int8, "int8"]),
     ("device", "gpu"), ("device", "hpu:x")],
)  # fmt: skip
def test_what_no_tensor_can_be(field, wrong):
    """Is a mistake of who describes it, not of the tensor."""
    with pytest.raises(ParameterValidationError, match=rf"{field}=.*: must be (a|one) ") as excinfo:
        validate_tensor(torch.zeros(2), "x", **{field: wrong})
    assert excinfo.value.context == {"field": field}
    assert fault(torch.zeros(2, 3), shape=torch.zeros(2, 3).shape, device=torch.device("cpu")) is None
    assert fault(torch.zeros(2), shape=[np.int64(2)], dtype={torch.float32}) is None


def test_batch():
    """Names of dimensions hold for the whole batch, and for this batch only."""
    for good in (batch(), batch(5, 7), batch(0, 0)):
        assert validate_batch(good, SPECS) is good
    extra = batch(more=1)
    assert validate_batch(extra, SPECS, extra=True) is extra


def test_all_faults_of_a_batch():
    """Each with its key, in the message and in the context."""
    bad = batch(mask=torch.ones(2, 4, dtype=torch.bool), weights=torch.ones(3, dtype=torch.float64), more=1)
    del bad["tokens"]
    with pytest.raises(DataValidationError) as excinfo:
        validate_batch(bad, SPECS)
    assert excinfo.value.context["problems"] == excinfo.value.message.split("\n")
    assert excinfo.value.message.split("\n") == [
        "tokens: is missing; there are mask, weights, more",
        "more: unknown key; known are tokens, mask, weights",
        "weights: seen torch.float64; allowed: torch.float32",
        "weights: has the shape (3,); dimension 0 (batch) must be 2, as of mask dimension 0",
    ]
    with pytest.raises(
        DataValidationError, match=r"weights: 1 of 2 elements are not finite; the first is inf at \(1,\)"
    ):
        validate_batch(batch(weights=torch.tensor([1.0, math.inf])), SPECS)
    with pytest.raises(DataValidationError, match="seen an object of type list; allowed: a mapping"):
        validate_batch([], SPECS)
