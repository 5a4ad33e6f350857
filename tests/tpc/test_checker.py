"""The access checker finds what a member may not do, and names kernel, member, tensor and coordinates."""

import numpy as np
import pytest

from gaudi3_rt import tpc
from gaudi3_rt.tpc import Access

# Copies rows of 64 elements: member (i, j) has columns 64 i to 64 i + 63 of row j. SHIFT moves the loads.
COPY = """
#ifndef SHIFT
#define SHIFT 0
#endif
void main(tensor from, tensor to) {
  const int5 first = get_index_space_offset();
  const int5 last = first + get_index_space_size();
  int5 c = {0};
  for (int j = first[1]; j < last[1]; ++j) {
    for (int i = first[0]; i < last[0]; ++i) {
      int5 f = {64 * i + SHIFT, j};
      int5 t = {64 * i, j};
      v_f32_st_tnsr(t, to, v_f32_ld_tnsr_b(f, from));
    }
  }
}
"""
RIGHT = [Access(0, 64, 0, 63), Access(1, 1, 0, 0)]


def run(kernel, from_access, to_access, **defines):
    """Copies a (3, 200) array, whose last vector of a row is partial."""
    from_ = np.random.default_rng(0).standard_normal((3, 200), np.float32)
    to = np.full_like(from_, 9)
    try:
        report = kernel(COPY, **defines).run([from_], [to], index_space=(4, 3), access=[from_access, to_access])
    except tpc.KernelError:
        assert (to == 9).all()  # nothing of a run with a finding is written
        raise
    np.testing.assert_array_equal(from_, to)
    return report


def test_right_patterns_pass(kernel):
    """Also patterns that allow more, all of a dimension or all of a tensor."""
    for pattern in (
        RIGHT,
        [Access(0, 64, -5, 70), Access(1, 1, 0, 1)],
        [tpc.WHOLE, tpc.WHOLE],
        [Access(0, 0, 0, 199), Access(1, 1, 0, 0)],
        None,
    ):
        report = run(kernel, pattern, RIGHT)
        assert report.dropped == {"from": 0, "to": 3 * 56}
        assert report.padded == {"from": 3 * 56, "to": 0}


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ([Access(0, 63, 0, 63), Access(1, 1, 0, 0)], r"at \((?:127|190), \d\).*63 \* i \+ 0 to 63 \* i \+ 63"),
        ([Access(0, 64, 0, 62), Access(1, 1, 0, 0)], r"at \((?:63|127|191), \d\).*dimension 0"),
        ([Access(0, 64, 1, 63), Access(1, 1, 0, 0)], r"at \((?:0|64|128|192), \d\).*dimension 0"),
        ([Access(0, 64, 0, 63)], r"at \(\d+, [12]\).*dimension 1, 0 \* i \+ 0.*allows elements 0 to 0"),
        ([Access(0, 64, 0, 63), Access(0, 1, 0, 0)], r"dimension 1.*of index-space dimension 0"),
        ([Access(1, 64, 0, 63), Access(1, 1, 0, 0)], r"dimension 0.*of index-space dimension 1"),
        ([Access(0, -64, 0, 63), Access(1, 1, 0, 0)], r"-64 \* i"),
    ],
    ids=["a", "end", "start", "missing dimension", "wrong index_dim", "swapped", "sign"],
)
@pytest.mark.parametrize("tensor", ["from", "to"])
def test_wrong_patterns(kernel, pattern, what, tensor):
    """Of inputs and outputs."""
    patterns = (pattern, RIGHT) if tensor == "from" else (RIGHT, pattern)
    verb = "loads" if tensor == "from" else "stores to"
    with pytest.raises(tpc.KernelError, match=rf"kernel \w+, member \(\d, \d\): It {verb} {tensor} .*{what}"):
        run(kernel, *patterns)


def test_a_member_is_blamed_by_itself(kernel):
    """A kernel that reads into the next member's elements is found, though most boxes have several members."""
    with pytest.raises(tpc.KernelError, match=r"member \((\d), \d\).*loads from .*at \((?:64|128|192|199), \d\)"):
        run(kernel, RIGHT, RIGHT, SHIFT=1)


TWO_WRITERS = """
void main(tensor from, tensor to) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  for (int i = first; i < last; ++i) {
    int5 c = {STEP * i};
    v_f32_st_tnsr(c, to, v_f32_ld_tnsr_b(c, from));
  }
}
"""


def test_two_writers(kernel):
    """Both members are named, even if they write the same value; no pattern has to be given."""
    from_ = np.zeros(256, np.float32)
    with pytest.raises(tpc.KernelError, match=r"member \((\d)\): It stores to to .*and so does member \((\d)\)"):
        kernel(TWO_WRITERS, STEP=60).run([from_], [np.zeros(300, np.float32)], index_space=(4,))
    kernel(TWO_WRITERS, STEP=64).run([from_], [np.zeros(300, np.float32)], index_space=(4,))


def finding(kernel, x, seed):
    """What a step in place on x is blamed for."""
    try:
        kernel.run([x], [x], index_space=(4,), seed=seed)
    except tpc.KernelError as error:
        return str(error)
    return ""


def test_load_of_what_another_member_stored(kernel):
    """Of a step in place that reads its neighbour; members run in any order."""
    text = TWO_WRITERS.replace("v_f32_ld_tnsr_b(c, from)", "v_f32_ld_tnsr_b(n, from)")
    text = text.replace("int5 c = {STEP * i};", "int5 c = {STEP * i}, n = {STEP * i + 1};")
    x = np.arange(300, dtype=np.float32)
    findings = [finding(kernel(text, STEP=64), x, seed) for seed in range(4)]
    assert sum("has stored: members run in any order" in f for f in findings) >= 3
    assert x[0] == 0


READS_OUTPUT = """
void main(tensor from, tensor to) {
  int5 c = {0};
  if (STORE_FIRST) v_f32_st_tnsr(c, to, v_f32_ld_tnsr_b(c, from));
  v_f32_st_tnsr(c, to, v_f32_ld_tnsr_b(c, to) + 1.f);
}
"""


def test_output_read_before_it_is_stored(kernel):
    """An output has no values before; its own stores a member may read, which is counted."""
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    with pytest.raises(
        tpc.KernelError, match=r"loads to \(tensor 1\) at \(0\), an output that nothing has been stored"
    ):
        kernel(READS_OUTPUT, STORE_FIRST=0).run([x], [y], index_space=(1,))
    report = kernel(READS_OUTPUT, STORE_FIRST=1).run([x], [y], index_space=(1,))
    assert report.reread == {"from": 0, "to": 64}
    assert (y == 2).all()


IGNORES_SIZE = """
void main(tensor to) {
  int5 c = {64 * get_index_space_offset()[0]};
  float64 v = 1.f;
  v_f32_st_tnsr(c, to, v);
}
"""


def test_dependence_on_boxes(kernel):
    """A kernel that does only the first member of its box is right member by member, and found all the same."""
    with pytest.raises(tpc.KernelError, match=r"to at \(\d+,\) depends on how the index space is cut"):
        kernel(IGNORES_SIZE).run([], [np.zeros(64 * 50, np.float32)], index_space=(50,))


def test_scalar_accesses_are_checked(kernel):
    """Those through addresses, too."""
    text = """
    void main(tensor from, tensor to) {
      const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
      for (int i = first; i < last; ++i) {
        int5 c = {i};
        s_f32_st_g(gen_addr(c, to), s_f32_ld_g(gen_addr(c, from)));
      }
    }
    """
    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    one = [Access(0, 1, 0, 0)]
    kernel(text).run([x], [y], index_space=(5,), access=[one, one])
    np.testing.assert_array_equal(x, y)
    for wrong, verb in (([[Access(0, 2, 0, 0)], one], "loads from"), ([one, [Access(0, 0, 0, 3)]], "stores to")):
        with pytest.raises(tpc.KernelError, match=verb):
            kernel(text).run([x], [y], index_space=(5,), access=wrong)


def test_arguments():
    """A dimension that an index space cannot have."""
    with pytest.raises(ValueError, match="index_dim is 5"):
        Access(5)
