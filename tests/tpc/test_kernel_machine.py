"""What a kernel finds in the machine: local memory, printf, registers, random numbers."""

import numpy as np
import pytest

from gaudi3_rt import tpc

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
