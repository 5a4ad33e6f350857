"""Loads and stores do to each lane what is documented, for every element type, inside and outside of tensors."""

import numpy as np
import pytest

from gaudi3_rt import tpc
from gaudi3_rt.tpc._arrays import BITS, ELEMENTS

VECTORS = dict(
    zip(
        ELEMENTS,
        ("float64", "bfloat128", "half128", "int64", "uint64", "short128", "ushort128", "char256", "uchar256"),
        strict=True,
    )
)
SCALARS = dict(
    zip(
        ELEMENTS,
        ("float", "bf16", "half", "int", "unsigned", "short", "unsigned short", "char", "unsigned char"),
        strict=True,
    )
)
SEVEN = {"f32": 0x40E00000, "bf16": 0x40E0, "f16": 0x4700}
MODES = ("full", "low", "high", "partial", "masked", "broadcast")

LOADS = """
#define JOIN(a, b, c) a##b##c
#define NAME(a, b, c) JOIN(a, b, c)
void main(tensor from, tensor mask, tensor to, int mode, int x, int y) {
  int5 c = {x, y};
  int5 zero = {0};
  VECTOR seven = 7, v = seven;
  if (mode == 0) v = NAME(v_, TYPE, _ld_tnsr_b)(c, from);
  if (mode == 1) v = NAME(v_, TYPE, _ld_tnsr_low_b)(c, from, 0, seven);
  if (mode == 2) v = NAME(v_, TYPE, _ld_tnsr_high_b)(c, from, 0, seven, 1, 0);
  if (mode == 3) v = NAME(v_, TYPE, _ld_tnsr_partial_b)(c, from, 4, 0, 0, seven);
  if (mode == 4) {
    VECTOR m = NAME(v_, TYPE, _ld_tnsr_b)(zero, mask);
    v = NAME(v_, TYPE, _ld_tnsr_vb)(c, from, 0, seven, NAME(v_, TYPE, _cmp_eq_b)(m, seven), 1);
  }
  if (mode == 5) v = NAME(v_, TYPE, _ld_g)(gen_addr(c, from));
  if (mode == 6) v = NAME(v_, TYPE, _ld_tnsr_b)(c, from, 0, seven, 0);
  NAME(v_, TYPE, _st_tnsr)(zero, to, v);
}
"""

STORES = """
#define JOIN(a, b, c) a##b##c
#define NAME(a, b, c) JOIN(a, b, c)
void main(tensor from, tensor to, int mode, int x, int y) {
  int5 c = {x, y};
  int5 zero = {0};
  VECTOR v = NAME(v_, TYPE, _ld_tnsr_b)(zero, from);
  if (mode == 0) NAME(v_, TYPE, _st_tnsr)(c, to, v);
  if (mode == 1) NAME(v_, TYPE, _st_tnsr_low)(c, to, v);
  if (mode == 2) NAME(v_, TYPE, _st_tnsr_high)(c, to, v);
  if (mode == 3) NAME(v_, TYPE, _st_tnsr_partial)(c, to, v, 4, 0);
  if (mode == 4) NAME(s_, TYPE, _st_tnsr_s)(c, to, NAME(s_, TYPE, _ld_g)(gen_addr(zero, from)));
  if (mode == 5) NAME(s_, TYPE, _st_g)(gen_addr(c, to), NAME(s_, TYPE, _ld_g)(gen_addr(zero, from)));
  if (mode == 6) NAME(v_, TYPE, _st_tnsr)(c, to, v, 0, 1, 1);
}
"""
PLACES = [(0, 0), (5, 1), (-3, 0), (40, 2), (0, 3), (0, -1), (-1000, 0), (1000, 0)]


@pytest.fixture(scope="module", params=ELEMENTS)
def element(request):
    """An element type."""
    return request.param


def lanes_of(element):
    """Lanes of a vector of the type."""
    return 256 // np.dtype(BITS[element]).itemsize


def random_bits(rng, shape, element):
    """Any bits: loads and stores look at none."""
    dtype = np.dtype(BITS[element])
    return rng.integers(0, 2 ** (8 * dtype.itemsize), shape, dtype)


def argument(bits, element):
    """An array that the kernel takes for the element type."""
    types = {"f32": "f4", "f16": "f2", "i32": "i4", "i16": "i2", "i8": "i1"}
    return (bits, "bf16") if element == "bf16" else bits.view(types.get(element, BITS[element]))


def row(bits, x, y, count, pad=0):
    """The elements that a load of `count` at (x, y) finds."""
    return [bits[y, i] if 0 <= y < bits.shape[0] and 0 <= i < bits.shape[1] else pad for i in range(x, x + count)]


@pytest.mark.parametrize("check", [True, False])
def test_loads(kernel, element, check):
    """Every form, at places inside, across each edge, and outside."""
    loads = kernel(LOADS, TYPE=element, VECTOR=VECTORS[element])
    lanes = lanes_of(element)
    rng = np.random.default_rng(1)
    from_ = random_bits(rng, (3, lanes + 37), element)
    seven = SEVEN.get(element, 7)
    mask = np.where(rng.integers(0, 2, lanes), seven, 0).astype(from_.dtype)
    for x, y in PLACES:
        inside = 0 <= x < from_.shape[1] and 0 <= y < 3
        full, half = row(from_, x, y, lanes), row(from_, x, y, lanes // 2)
        expected = {
            "full": full,
            "low": half + [seven] * (lanes // 2),
            "high": [seven] * (lanes // 2) + half,
            "partial": full[:5] + [seven] * (lanes - 5),
            "masked": [seven if m == seven else f for m, f in zip(mask, full, strict=True)],
            "broadcast": full[:1] * lanes,
            "never": [seven] * lanes,
        }
        for mode, (name, lane) in enumerate(expected.items()):
            to = np.zeros(lanes, from_.dtype)
            arguments = [argument(from_, element), argument(mask, element)], [argument(to, element)], [mode, x, y]
            if name == "broadcast" and not inside:
                with pytest.raises(
                    tpc.KernelError,
                    match=r"loads through an address of from .*which is outside: the sizes of the tensor are \(",
                ):
                    loads.run(*arguments, index_space=(1,), check=check)
                continue
            report = loads.run(*arguments, index_space=(1,), check=check)
            np.testing.assert_array_equal(to, np.array(lane, to.dtype), err_msg=f"{name} at {x, y}")
            if name == "full":
                padded = sum(not 0 <= x + i < from_.shape[1] or not 0 <= y < 3 for i in range(lanes))
                assert report.padded["from"] == padded


@pytest.mark.parametrize("check", [True, False])
def test_stores(kernel, element, check):
    """Lanes outside are dropped and counted; nothing else in the tensor changes."""
    stores = kernel(STORES, TYPE=element, VECTOR=VECTORS[element])
    lanes = lanes_of(element)
    rng = np.random.default_rng(2)
    from_ = random_bits(rng, lanes, element)
    before = random_bits(rng, (3, lanes + 37), element)
    for x, y in PLACES:
        inside = 0 <= x < before.shape[1] and 0 <= y < 3
        for mode, lane in enumerate(
            (from_, from_[: lanes // 2], from_[lanes // 2 :], from_[:5], from_[:1], from_[:1], from_[:0])
        ):
            expected, to = before.copy(), before.copy()
            stored = [i for i in range(len(lane)) if 0 <= y < 3 and 0 <= x + i < before.shape[1]]
            for i in stored:
                expected[y, x + i] = lane[i]
            arguments = [argument(from_, element)], [argument(to, element)], [mode, x, y]
            if mode == 5 and not inside:
                with pytest.raises(
                    tpc.KernelError,
                    match=r"stores through an address of to .*which is outside: the sizes of the tensor are \(",
                ):
                    stores.run(*arguments, index_space=(1,), check=check)
                continue
            report = stores.run(*arguments, index_space=(1,), check=check)
            np.testing.assert_array_equal(to, expected, err_msg=f"mode {mode} at {x, y}")
            assert report.dropped["to"] == len(lane) - len(stored)


def test_strides(kernel):
    """Arrays of any strides are read and written where they lie."""
    loads = kernel(LOADS, TYPE="f32", VECTOR="float64")
    base = np.arange(2000, dtype=np.float32)
    mask, to = np.zeros(64, np.float32), np.zeros(300, np.float32)
    for check in (True, False):
        for view in (base[:400].reshape(4, 100).T, base[::7][:200].reshape(2, 100), base[::3][None, :300]):
            to[:] = -1
            loads.run([view, mask], [to[1:129:2]], [0, 3, 1], index_space=(1,), check=check)
            expected = row(view, 3, 1, 64)
            np.testing.assert_array_equal(to[1:129:2], expected)
            assert (np.delete(to, np.arange(1, 129, 2)) == -1).all()


PAD = """
void main(tensor from, tensor to, int set) {
  int5 c = {0};
  if (set) set_pad_value_float(from, get_pad_value_float(from) + 1.f);
  c[0] = get_dim_size(from, 0);
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  for (int i = first; i < last; ++i) {
    int5 o = {64 * i};
    v_f32_st_tnsr(o, to, v_f32_ld_tnsr_b(c, from));
  }
}
"""


def test_pad_values(kernel):
    """The caller gives them, the kernel may read and change them, and the next member finds them as they were."""
    pad = kernel(PAD)
    from_, to = np.zeros(10, np.float32), np.zeros(128, np.float32)
    for given, is_set in ((0.0, 0), (3.5, 0), (3.5, 1)):
        pad.run([from_], [to], [is_set], index_space=(2,), pad_values=[given, 0.0])
        np.testing.assert_array_equal(to, np.float32(given + is_set))


DESCRIPTORS = """
void main(tensor from, tensor to, int mode) {
  int5 c = {0}, o = {0};
  if (mode == 0) {
    for (int d = 0; d < 5; ++d) {
      o[0] = 2 * d;
      s_i32_st_tnsr_s(o, to, get_dim_size(from, d));
      o[0] = 2 * d + 1;
      s_i32_st_tnsr_s(o, to, get_dim_stride(from, d));
    }
  } else {
    set_dim_size(from, 0, mode);
    v_i32_st_tnsr(o, to, v_i32_ld_tnsr_b(c, from));
  }
}
"""


def test_descriptors(kernel):
    """Sizes and strides are in elements, dimension 0 is the last axis, and a kernel may make a tensor smaller."""
    descriptors = kernel(DESCRIPTORS)
    from_, to = np.arange(2 * 3 * 40, dtype=np.int32).reshape(2, 3, 40), np.zeros(64, np.int32)
    descriptors.run([from_], [to], [0], index_space=(1,))
    np.testing.assert_array_equal(to[:10], [40, 1, 3, 40, 2, 120, 1, 0, 1, 0])
    descriptors.run([from_], [to], [20], index_space=(1,))
    np.testing.assert_array_equal(to, [*range(20)] + [0] * 44)
    with pytest.raises(tpc.KernelError, match="reaches past its memory"):
        descriptors.run([from_[1:, 2:]], [to], [64], index_space=(1,), check=False)


UNDOCUMENTED = """
void main(tensor from, tensor to) {
  int5 c = {0};
  float64 v = v_f32_ld_tnsr_b(c, from);
  STATEMENT;
  v_f32_st_tnsr(c, to, v);
}
"""


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("v = v_f32_ld_tnsr_partial_b(c, from, 3, 1)", "offset 1 is not documented"),
        ("v_f32_st_tnsr_partial(c, to, v, 3, 2)", "offset 2 is not documented"),
        ("v_f32_st_tnsr_partial(c, to, v, 64, 0)", "65 elements does not fit into 64 lanes"),
        ("v = v_f32_ld_tnsr_b(c, from, SW_UNPACK | SW_UNPCK_16_TO_32)", "switches 0x10 of a load or store"),
        ("v_f32_st_tnsr(c, to, v, SW_PACK)", "switches 0x4 of a load or store"),
        ("gen_addr(c, from, SW_DT_OVERRIDE)", "switches 0x10"),
        (
            "v_f32_st_tnsr(c, from, v)",
            r"stores to from \(tensor 0\), which is an input; outputs are the tensors of main after",
        ),
        ("v_f32_ld_tnsr_b(c, 2)", "no tensor 2: main has 2"),
        ("get_dim_size(from, 5)", "no dimension 5"),
        ("s_f32_ld_g((float*)gen_addr(c, from) + 1)", "an address that gen_addr has not made"),
        (
            "v_bf16_ld_tnsr_b(c, from)",
            r"for bf16 elements was given from \(tensor 0\), whose elements are f32: use that of f32",
        ),
    ],
)
def test_what_is_not_documented_is_refused(kernel, statement, message):
    """Rather than guessed; the error says what it was."""
    from_, to = np.ones(64, np.float32), np.full(64, 5, np.float32)
    with pytest.raises(tpc.KernelError, match=message):
        kernel(UNDOCUMENTED, STATEMENT=statement).run([from_], [to], index_space=(1,))
    assert (to == 5).all()


RMW = """
void main(tensor from, tensor to, int operation, int layout) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  int5 c = {0}, zero = {0};
  for (int i = first; i < last; ++i) {
    c[0] = 64 * i;
    int64 v = v_i32_ld_tnsr_b(c, from);
    v_i32_st_tnsr_rmw(zero, to, v, MkRMW(RMW_DT_INT32, operation, 1, layout), 0, 1, 0);
  }
}
"""


@pytest.mark.parametrize(("operation", "function"), [(0, np.add), (2, np.minimum), (3, np.maximum)])
def test_read_modify_write(kernel, operation, function):
    """Members change the same elements, in any order and on several threads."""
    rng = np.random.default_rng(3)
    from_ = rng.integers(-1000, 1000, 64 * 20, np.int32)
    for check, threads in ((True, 1), (False, 4)):
        for layout in (0, 1):
            to = np.arange(64, dtype=np.int32)
            kernel(RMW).run([from_], [to], [operation, layout], index_space=(20,), check=check, threads=threads)
            expected = function.reduce(np.vstack([np.arange(64, dtype=np.int32), from_.reshape(20, 64)]))
            np.testing.assert_array_equal(to, expected)


def test_read_modify_write_saturates_and_refuses(kernel):
    """Integers stop at their limits; which operand is subtracted from which is not documented."""
    to = np.full(64, 2**31 - 5, np.int32)
    kernel(RMW).run([np.full(64, 100, np.int32)], [to], [0, 0], index_space=(1,))
    assert (to == 2**31 - 1).all()
    with pytest.raises(tpc.KernelError, match="Which of memory and vector"):
        kernel(RMW).run([to.copy()], [to], [1, 0], index_space=(1,))


FLOAT_RMW = """
void main(tensor from, tensor to) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  int5 c = {0}, zero = {0}, one = {1};
  for (int i = first; i < last; ++i) {
    c[0] = i;
    v_f32_st_tnsr_partial_rmw(zero, to, v_f32_ld_g(gen_addr(c, from)),
                              MkRMW(e_rmw_fp32, e_rmw_add, e_rmw_atomic, e_tnsr_dt_srf), 0, 0);
    s_f32_st_tnsr_s_rmw(one, to, 1.f, MkRMW(e_rmw_fp32, e_rmw_add, e_rmw_atomic, e_tnsr_dt_srf));
  }
}
"""


def test_float_sums_in_memory_depend_on_order(kernel):
    """So a run says it, and does not compare its passes."""
    from_ = np.array([1e8, 1, -1e8, 1, 3], np.float32)
    to = np.zeros(2, np.float32)
    report = kernel(FLOAT_RMW).run([from_], [to], index_space=(5,))
    assert report.order_matters
    assert 0 <= to[0] <= 10
    assert to[1] == 5
