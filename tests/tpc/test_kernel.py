"""What runs a kernel: its main, scalars, boxes and threads, tensors and arrays, bad arguments."""

import math
import threading

import numpy as np
import pytest
import torch

from gaudi3_rt import tpc
from gaudi3_rt.tpc._library import Engine

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


def test_an_interrupt_waits_for_the_boxes_that_run(kernel, monkeypatch):
    """Engines and tensors are theirs until then; no further box begins."""
    x = np.zeros((5, 4, 300), np.float32)
    begun, go_on, workers, interrupts = threading.Semaphore(0), threading.Event(), [], []
    run, join = Engine.run, threading.Thread.join

    def wait(engine, *given):
        workers.append(threading.current_thread())
        begun.release()
        assert go_on.wait(60)
        return run(engine, *given)

    def interrupted(thread, timeout=None):
        if not interrupts:
            assert all(begun.acquire(timeout=60) for _ in range(2))
        if len(interrupts) < 2:
            interrupts.append(1)
            raise KeyboardInterrupt
        go_on.set()
        join(thread, timeout)

    k = kernel(SCALE)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", wait)
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            k.run([x], [x.copy()], [1.0], index_space=(5, 4, 5), check=False, threads=2)
    still_there = [worker for worker in workers if worker.is_alive()]
    go_on.set()
    for worker in workers:
        worker.join()
    assert (still_there, len(workers)) == ([], 2)


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
