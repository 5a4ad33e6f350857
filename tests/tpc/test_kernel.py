"""What runs a kernel: its main, scalars, boxes and threads, local memory, printf, random numbers, bad arguments."""

import math

import numpy as np
import pytest
import torch

from gaudi3_rt import tpc

ALL_SCALARS = """
void main(float f, tensor to, int i, unsigned u, bf16 y, half e, short h, unsigned short uh, char b, unsigned char ub,
          bool q, tensor bits) {
  int5 c = {0};
  s_f32_st_tnsr_s(c, to, f); c[0]++;
  s_f32_st_tnsr_s(c, to, y); c[0]++;
  s_f32_st_tnsr_s(c, to, e); c[0]++;
  int5 d = {0};
  int all[] = {i, (int)u, h, uh, b, ub, q, as_int(f)};
  for (int k = 0; k < 8; k++) { d[0] = k; s_i32_st_tnsr_s(d, bits, all[k]); }
}
"""
SCALARS = [0.1, -5, 2**32 - 1, 1.01171875, 0.1, -300, 65535, -128, 255, True]


def test_any_order_of_parameters(kernel):
    """Tensors and scalars are counted apart; every scalar type arrives with its bits, floats rounded to it."""
    k = kernel(ALL_SCALARS)
    assert [p.type for p in k.parameters][:4] == ["float", "tensor", "int", "unsigned"]
    assert [p.name for p in k.parameters][-2:] == ["q", "bits"]
    to, bits = np.zeros(3, np.float32), np.zeros(8, np.int32)
    k.run([], [to, bits], SCALARS, index_space=(1,))
    assert to.tolist() == [np.float32(0.1), 1.015625, np.float32(np.float16(0.1))]  # a tie of bf16 goes to even
    assert bits.tolist() == [-5, -1, -300, 65535, -128, 255, 1, int(np.float32(0.1).view(np.int32))]


@pytest.mark.parametrize("bits", [0x7FC12345, 0x80000001, 0x80000000, 0x7F800000])
def test_floats_are_copied_bit_by_bit(kernel, bits):
    """NaN payloads, denormals, signs of zero."""
    value = float(np.array(bits, np.uint32).view(np.float32))
    to, out = np.zeros(3, np.float32), np.zeros(8, np.int32)
    kernel(ALL_SCALARS).run([], [to, out], [value, *SCALARS[1:]], index_space=(1,))
    assert int(out.view(np.uint32)[7]) == bits


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, "1", TypeError, "scalar f .* is '1'; give a number for float"),
        (1, 1.0, TypeError, r"scalar i .* is 1.0; give an int for int"),
        (1, 2**31, ValueError, "int has -2147483648 to 2147483647"),
        (2, -1, ValueError, "unsigned has 0 to 4294967295"),
        (5, 2**15, ValueError, "short has -32768 to 32767"),
        (9, 1, TypeError, "scalar q .* is 1; a bool is True or False"),
    ],
)
def test_scalars_that_do_not_fit(kernel, place, value, error, message):
    """Named, with what is allowed."""
    scalars = list(SCALARS)
    scalars[place] = value
    with pytest.raises(error, match=message):
        kernel(ALL_SCALARS).run([], [np.zeros(3, np.float32), np.zeros(8, np.int32)], scalars, index_space=(1,))


SCALE = """
void main(tensor from, tensor to, float factor) {
  const int5 first = get_index_space_offset();
  const int5 last = first + get_index_space_size();
  for (int k = first[2]; k < last[2]; ++k)
    for (int j = first[1]; j < last[1]; ++j)
      for (int i = first[0]; i < last[0]; ++i) {
        int5 c = {64 * i, j, k};
        v_f32_st_tnsr(c, to, v_f32_ld_tnsr_b(c, from) * factor);
      }
}
"""


def test_boxes_are_a_partition_of_the_space(kernel):
    """Of every member once; another seed cuts and orders otherwise, the same seed the same."""
    x = np.random.default_rng(0).standard_normal((5, 4, 300), np.float32)
    cuts = set()
    for seed in range(8):
        y = np.zeros_like(x)
        report = kernel(SCALE).run([x], [y], [3.0], index_space=(5, 4, 5), seed=seed)
        np.testing.assert_array_equal(y, x * 3)
        covered = np.zeros((5, 4, 5), int)
        for offset, size in report.boxes:
            covered[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))] += 1
        assert (covered == 1).all()
        assert report.members == 100
        cuts.add(report.boxes)
        assert kernel(SCALE).run([x], [y], [3.0], index_space=(5, 4, 5), seed=seed).boxes == report.boxes
    assert len(cuts) == 8
    assert len({len(c) for c in cuts}) > 2


@pytest.mark.parametrize("check", [True, False])
def test_threads_give_equal_bits(kernel, check):
    """And each has local memory of its own."""
    x = np.random.default_rng(0).standard_normal((5, 4, 300), np.float32)
    expected, y = np.zeros_like(x), np.zeros_like(x)
    kernel(SCALE).run([x], [expected], [0.3], index_space=(5, 4, 5), check=check)
    for threads in (2, 5):
        y[:] = 0
        kernel(SCALE).run([x], [y], [0.3], index_space=(5, 4, 5), check=check, threads=threads, seed=threads)
        np.testing.assert_array_equal(y, expected)


def test_tensors_and_arrays(kernel):
    """Tensors of torch, in place and with gradients, and 0-d arrays; an empty index space runs nothing."""
    x = torch.randn(4, 300, requires_grad=True)
    before = x.detach().clone()
    kernel(SCALE).run([x], [x], [2.0], index_space=(5, 4, 1))
    assert torch.equal(x.detach(), 2 * before)
    y = np.array(3, np.float32)
    kernel(SCALE).run([y], [y], [2.0], index_space=(1, 1, 1))
    assert y == 6
    report = kernel(SCALE).run([np.zeros(0, np.float32)], [np.zeros(0, np.float32)], [2.0], index_space=(0, 1, 1))
    assert (report.members, report.boxes) == (0, ())


def test_bf16(kernel):
    """As a torch tensor, or a uint16 array that is said to be bf16."""
    k = kernel(SCALE.replace("f32", "bf16").replace("64 *", "128 *").replace("* factor", "* (bf16)factor"))
    x = torch.randn(300).to(torch.bfloat16)
    y = torch.zeros_like(x)
    k.run([x], [y], [2.0], index_space=(3, 1, 1))
    assert torch.equal(y, 2 * x)
    bits = np.zeros(300, np.uint16)
    k.run([(x.view(torch.uint16).numpy(), "bf16")], [(bits, "bf16")], [2.0], index_space=(3, 1, 1))
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": []}, ValueError, r"has 2 tensors \(from, to\); 0 inputs and 1 outputs were given"),
        ({"scalars": []}, ValueError, r"has 1 scalars \(factor\); 0 were given"),
        ({"inputs": [np.zeros(8)]}, TypeError, "tensor from .* has dtype float64; a TPC tensor has one of float32,"),
        ({"inputs": [[1.0]]}, TypeError, "tensor from .* is list; give a NumPy array"),
        ({"inputs": [(np.zeros(3, np.uint16), "f32")]}, TypeError, r"the one that is understood is \(uint16 array"),
        ({"inputs": [np.zeros((1,) * 6, np.float32)]}, ValueError, "has 6 dimensions; a TPC tensor has at most 5"),
        ({"inputs": [np.zeros(8, np.float32)[::-1]]}, ValueError, "forwards: give a copy"),
        ({"inputs": np.zeros(8, np.float32)}, TypeError, r"inputs is one array of shape \(8,\); give a list"),
        ({"outputs": torch.zeros(8)}, TypeError, r"outputs is one array of shape \(8,\); give a list"),
        ({"index_space": 8}, TypeError, r"index_space is 8; give a sequence of 1 to 5 sizes, as \(8,\)"),
        ({"index_space": ()}, ValueError, r"index_space is \(\); give 1 to 5 sizes"),
        ({"index_space": (2, -1)}, ValueError, "none negative"),
        ({"index_space": (2**20, 2**20)}, ValueError, "can be run"),
        ({"special_ulps": (2.0, -1.0)}, ValueError, "give two numbers from 0 to 1048576"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"pad_values": [1.0]}, ValueError, "pad_values has 1 values; .* has 2 tensors"),
        ({"access": [None]}, ValueError, "access has 1 patterns; there are 2"),
        ({"access": [None, [tpc.Access()] * 2]}, ValueError, "2 dimensions for to, which has 1"),
        ({"access": [None, tpc.Access()]}, TypeError, "access of to is one Access; give a list of one for each"),
        ({"access": [None, ["all"]]}, TypeError, "give one Access for each dimension"),
        ({"inputs": [torch.zeros(8, device="meta")]}, ValueError, "is on meta; an emulated kernel runs on CPU"),
    ],
)
def test_bad_arguments(kernel, change, error, message):
    """Say what was seen and what is allowed."""
    arguments = {
        "inputs": [np.zeros(8, np.float32)],
        "outputs": [np.full(8, 5, np.float32)],
        "scalars": [1.0],
        "index_space": (1, 1, 1),
    }
    with pytest.raises(error, match=message):
        kernel(SCALE).run(**(arguments | change))
    assert (arguments["outputs"][0] == 5).all()


def test_shared_memory(kernel):
    """An output may be all of an input; a part of one, another output or read-only memory it may not be."""
    x = np.zeros(100, np.float32)
    k = kernel(SCALE)
    with pytest.raises(ValueError, match="to shares memory with from"):
        k.run([x[:80]], [x[20:]], [1.0], index_space=(1, 1, 1))
    k.run([x[::2]], [x[1::2]], [1.0], index_space=(1, 1, 1))
    fixed = np.zeros(8, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="to is an output, but its array is read-only"):
        k.run([x], [fixed], [1.0], index_space=(1, 1, 1))
    with pytest.raises(ValueError, match="bits shares memory with to"):
        kernel(ALL_SCALARS).run([], [x, x.view(np.int32)], SCALARS, index_space=(1,))


LOCAL = """
__local__ float64 scratch[2];
__local__ float64 started[1] = {{3.f}};
static int counts[3];
static int start = 7;
void main(tensor to, tensor ints, int store_first) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  if (store_first) scratch[1] = 1.f;
  if (store_first) counts[1] = 2;
  for (int i = first; i < last; ++i) {
    int5 c = {64 * i}, d = {2 * i}, e = {2 * i + 1};
    v_f32_st_tnsr(c, to, scratch[1] + started[0]);
    s_i32_st_tnsr_s(d, ints, counts[1]);
    s_i32_st_tnsr_s(e, ints, start);
  }
  started[0] = 100.f;
  start = 100;
  scratch[1] = 50.f;
}
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_local_memory(kernel, threads):
    """It has its initial values for every box, and is NaN where it has none: nothing stays from box to box."""
    k = kernel(LOCAL)
    to, ints = np.zeros(64 * 9, np.float32), np.zeros(18, np.int32)
    report = k.run([], [to, ints], [1], index_space=(9,), threads=threads)
    assert (to == 4).all()
    assert ints.tolist() == [2, 7] * 9
    assert (report.vector_memory, report.scalar_memory) == (3 * 256, 16)
    k.run([], [to, ints], [0], index_space=(9,), threads=threads)
    assert np.isnan(to).all()
    assert ints.tolist() == [-1, 7] * 9


def test_limits_of_local_memory(kernel):
    """80 KiB of vectors, 16 KiB if functions with tables are used, 16 KiB of scalars."""
    text = """
    DECLARATION;
    void main(tensor from, tensor to) {
      int5 c = {0};
      for (int i = 0; i < (int)(sizeof(a) / sizeof(a[0])); ++i) a[i] = 1;
      float64 v = v_f32_ld_tnsr_b(c, from) + a[get_dim_size(from, 0)];
      v_f32_st_tnsr(c, to, FUNCTION(v));
    }
    """
    kernel(text, DECLARATION="__local__ float64 a[320]", FUNCTION="")
    with pytest.raises(tpc.CompileError, match=r"has 82176 bytes in vector local memory \(a 82176\); there are 81920$"):
        kernel(text, DECLARATION="__local__ float64 a[321]", FUNCTION="")
    kernel(text, DECLARATION="__local__ float64 a[64]", FUNCTION="v_exp_f32")
    with pytest.raises(tpc.CompileError, match="there are 16384 for a kernel that uses functions with tables"):
        kernel(text, DECLARATION="__local__ float64 a[65]", FUNCTION="v_exp_f32")
    with pytest.raises(tpc.CompileError, match=r"bytes in scalar local memory .*; gaudi3 has 16384"):
        kernel(text, DECLARATION="__local__ float a[4097]", FUNCTION="")


PRINTS = r"""
#pragma tpc_printf (enable)
void main(tensor from) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  for (int i = first; i < last; ++i) {
    int5 c = {i};
    float x = s_f32_ld_g(gen_addr(c, from));
    printf("member %d:", i); printf(" %.2f", x); printf(" %hd", (short)(-i)); printf(" %x", 255u);
    printf_i(" [%3d]", i); printf_f(" %g", 0.5f); printf_bf(" %f", (bf16)1.5f); printf_uc(" %u", 200);
    printf(" 100%%\n");
    float64 v = x;
    printf(FORMAT, v[3]);
  }
}
"""


def test_printf(kernel):
    """What is printed comes with the report, box after box."""
    x = np.array([1.25, -2, 3], np.float32)
    printed = kernel(PRINTS, FORMAT='"%f;"').run([x], [], index_space=(3,)).printed
    texts = [f"member {i}: {n:.2f} {-i} ff [{i:3}] 0.5 1.500000 200 100%\n{n:f};" for i, n in enumerate(x)]
    assert all(text in printed for text in texts)
    assert len(printed) == len("".join(texts))


@pytest.mark.parametrize(
    ("text", "message"),
    [('"none"', "no place"), ('"%f %f"', "places for more"), ('"%d"', "was given a float")],
)
def test_wrong_formats(kernel, text, message):
    """One call of printf takes one value a call, of the kind that the format says."""
    with pytest.raises(tpc.KernelError, match=message):
        kernel(PRINTS, FORMAT=text).run([np.zeros(1, np.float32)], [], index_space=(1,))


REGISTERS = """
void main(tensor to) {
  int5 c = {0};
  set_csr_value(0);
  set_convert_csr_value(SW_RZ >> 16);
  s_u32_st_l(0xca8, s_u32_ld_l(0xca8, SW_MMIO) + 1, SW_MMIO);
  s_i32_st_tnsr_s(c, to, get_convert_csr_value()); c[0]++;
  set_semaphore_value(4);
  aso(SW_INC | SW_VPU); aso(SW_DEC | SW_SPU); cache_flush(); cache_invalidate();
  cache_flush_addr(gen_addr(c, to)); event(3); thread_sync();
  prefetch(gen_addr(c, to));
  s_i32_st_tnsr_s(c, to, get_semaphore_value()); c[0]++;
  s_i32_st_l(8, 17);
  s_i32_st_tnsr_s(c, to, s_i32_ld_l(8)); c[0]++;
  v_i32_st_l_v(256, (int64)9);
  int64 v = v_i32_ld_l_v_b(256);
  s_i32_st_tnsr_s(c, to, v[63]); c[0]++;
  c = i_i32_add(1, c, 1, 0, c, 1);
  int5 m = i_i32_max(set_indx(-3, c, 6, 0), 0, 4, 0, c);
  s_i32_st_tnsr_s(i_i32_sub(c, 1, 1, 0, c), to, mov_irf_dim(m, 2, 0) + 10 * m[1] + i_i32_cmp_grt(c, m, 1, 0)); c[0]++;
}
"""


def test_registers_and_coordinates(kernel):
    """Rounding registers, also by address; semaphores; local memory by address; index registers."""
    to = np.zeros(5, np.int32)
    kernel(REGISTERS).run([], [to], index_space=(1,))
    assert to.tolist() == [2, 4, 17, 9, 0]


HALVES = """
void main(tensor lanes, tensor to) {
  int5 c = {0};
  v_T_st_l_v(256, ONES);
  v_T_st_l_v_low(384, v_T_add_b(ONES, ONES));
  v_T_st_l_v_high(512, v_T_add_b(v_T_add_b(ONES, ONES), ONES));
  v_T_st_tnsr(c, to, v_T_ld_l_v_b(256)); c[1] = 1;
  v_T_st_tnsr(c, to, v_T_ld_l_v_low_b(512, 0, ONES)); c[1] = 2;
  v_T_st_tnsr(c, to, v_T_ld_l_v_high_b(384, 0, ONES, 1, 0)); c[1] = 3;
  v_T_st_tnsr(c, to, v_T_ld_l_v_high_b(384, 0, ONES, 1, 1)); c[1] = 4;
  MASK odd = v_T_cmp_eq_b(v_T_ld_tnsr_b(c, lanes), ONES);
  v_T_st_tnsr(c, to, v_T_ld_l_v_vb(256, 0, v_T_add_b(ONES, ONES), odd, 1)); c[1] = 5;
  v_T_st_tnsr(c, to, v_T_ld_l_v_low_vb(512, 0, ONES, odd)); c[1] = 6;
}
"""


@pytest.mark.parametrize(
    ("name", "vector", "mask", "dtype"),
    [("f32", "float64", "bool64", np.float32), ("i16", "short128", "bool128", np.int16)],
)
def test_halves_of_local_vectors(kernel, name, vector, mask, dtype):
    """Are at the address that is given, and are the lanes of their half; the others are the income."""
    lanes = 256 // np.dtype(dtype).itemsize
    to, odd = np.zeros((6, lanes), dtype), np.tile(np.arange(lanes) % 2, (6, 1)).astype(dtype)
    kernel(HALVES.replace("v_T", f"v_{name}").replace("ONES", f"(({vector})1)").replace("MASK", mask)).run(
        [odd], [to], index_space=(1,)
    )
    half = lanes // 2
    low, high = np.arange(lanes) < half, np.arange(lanes) >= half
    want = [np.where(low, 1, 2), np.where(low, 3, 1), np.where(high, 2, 1), np.ones(lanes)]
    np.testing.assert_array_equal(to[:4], want)
    np.testing.assert_array_equal(to[4], np.where(odd[0] == 0, want[0], 2))
    np.testing.assert_array_equal(to[5], np.where(low & (odd[0] == 1), 3, 1))


RANDOM = """
void main(tensor to, int seed) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  for (int i = first; i < last; ++i) {
    int5 c = {64 * i};
    if (seed) write_lfsr_b((char256)(int64)(V_LANE_ID_32 + (uint64)seed));
    read_lfsr_b(SW_READ_ONLY);
    LFSR;
    v_i32_st_tnsr(c, to, as_int64(LFSR_NO_CHANGE));
  }
}
"""


def lfsr(x):
    """One step of the register."""
    return (x >> 1) ^ (0x800002CC if x & 1 else 0)


def test_random_numbers(kernel):
    """A register that the kernel seeds goes the way of hardware's; else the run's seed decides."""
    k = kernel(RANDOM)
    to = np.zeros(128, np.int32)
    report = k.run([], [to], [5], index_space=(2,))
    assert report.order_matters
    np.testing.assert_array_equal(to.view(np.uint32), [lfsr(i + 5) for i in range(64)] * 2)
    runs = []
    for seed in (1, 1, 2):
        k.run([], [to], [0], index_space=(2,), seed=seed)
        runs.append(to.copy())
        assert len(set(to.tolist())) > 120
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_special_functions_are_perturbed_within_bounds(kernel):
    """By the seed, the same for the same number, and not at all if so asked."""
    text = SCALE.replace("v_f32_ld_tnsr_b(c, from) * factor", "v_exp_f32(v_f32_ld_tnsr_b(c, from) * factor)")
    x = np.random.default_rng(0).standard_normal(6400).astype(np.float32)
    exact = np.array([math.exp(v) for v in x.astype(np.float64)]).astype(np.float32)
    y = np.zeros_like(x)

    def distance(seed, ulps):
        kernel(text).run([x], [y], [1.0], index_space=(100, 1, 1), seed=seed, special_ulps=(ulps, ulps))
        return np.abs(y.view(np.int32).astype(np.int64) - exact.view(np.int32))

    assert distance(0, 0.0).max() == 0
    assert 2 <= distance(0, 3.0).max() <= 3
    first = y.copy()
    distance(0, 3.0)
    np.testing.assert_array_equal(y, first)
    distance(1, 3.0)
    assert (y != first).any()
