"""How near moments in fewer bits stay to AdamW in float64, also where gradients of a block differ by decades."""

import functools

import pytest
import torch

from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.optim._storage import decode

N = 65_536


def gradients(kind, steps):
    """Gradients of one size, or of sizes that differ by up to three decades inside every block; bfloat16 numbers."""
    generator = torch.Generator().manual_seed(0)
    size = 10.0 ** (-3 * torch.rand(N, generator=generator)) if kind == "mixed" else 0.1
    for _ in range(steps):
        yield (torch.randn(N, generator=generator) * size).bfloat16().float()


@functools.cache
def error(kind, moments_dtype):
    """After 100 steps: the norm of the parameters' error relative to the norm of all that they were changed by."""
    start = torch.randn(N, generator=torch.Generator().manual_seed(1))
    p, q = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.double())
    ours, reference = FusedAdamW([p], lr=1e-3, moments_dtype=moments_dtype), torch.optim.AdamW([q], lr=1e-3)
    for grad in gradients(kind, 100):
        p.grad, q.grad = grad, grad.double()
        ours.step()
        reference.step()
    return float((p.detach() - q.detach()).norm() / (q.detach() - start).norm())


# What was measured, and half of that more: "mixed", "uniform".
ERRORS = {
    torch.float32: (2.4e-5, 2.4e-5),  # of the float32 parameters
    torch.bfloat16: (5.7e-3, 5.6e-3),
    torch.int8: (0.078, 0.029),
    torch.float8_e4m3fn: (0.113, 0.111),
    torch.float8_e5m2: (0.167, 0.166),
    (torch.float32, torch.int8): (0.037, 0.0054),
    (torch.bfloat16, torch.int8): (0.038, 0.0069),
}


@pytest.mark.parametrize("moments_dtype", ERRORS, ids=str)
def test_errors_are_bounded_and_do_not_explode_where_sizes_differ(moments_dtype):
    """Relative errors of the parameters after 100 steps, asserted to half as much again as was measured.

    Measured on "mixed" and "uniform" gradients: float32 2.4e-5 both; bfloat16 0.006 both; int8 0.078 and 0.029;
    e4m3fn 0.11 both; e5m2 0.17 both; an int8 second moment alone 0.037 and 0.005. So "mixed" is at most 3 times worse
    with each dtype for both moments: a second moment that is small in its block is never rounded to zero, which would
    blow up the update.
    """
    mixed, uniform = error("mixed", moments_dtype), error("uniform", moments_dtype)
    assert mixed <= 1.5 * ERRORS[moments_dtype][0]
    assert uniform <= 1.5 * ERRORS[moments_dtype][1]
    if not isinstance(moments_dtype, tuple):
        assert mixed <= 3 * uniform


def second_moment_after_a_drop(dtype, **options):
    """V relative to that of float64, when gradients of 0.1 have become gradients of 0.001 for 2800 steps."""
    n = 8192
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(n, dtype=dtype))
    optimizer = FusedAdamW([p], lr=1e-6, **options)
    want = torch.zeros(n, dtype=torch.float64)
    for step in range(3000):
        grad = (torch.randn(n, generator=generator) * (0.1 if step < 200 else 0.001)).bfloat16()
        p.grad = grad.to(dtype)
        want = 0.999 * want + 0.001 * grad.double().square()
        optimizer.step()
    own = optimizer.state[p]
    if "exp_avg_sq" in own:
        return own["exp_avg_sq"].double() / want
    return decode(own["exp_avg_sq_codes"], own["exp_avg_sq_scales"], positive=True).double() / want


DECAYS = {  # dtype of the parameter, options, bounds of the median
    "stochastic": (torch.bfloat16, {"rounding": "stochastic"}, (0.95, 1.05)),
    "bfloat16": (torch.float32, {"moments_dtype": torch.bfloat16}, (0.95, 1.05)),
    "int8": (torch.float32, {"moments_dtype": torch.int8}, (0.95, 1.05)),
    "e4m3fn": (torch.float32, {"moments_dtype": torch.float8_e4m3fn}, (0.7, 1.05)),
    "e5m2": (torch.float32, {"moments_dtype": torch.float8_e5m2}, (0.7, 1.05)),
}


@pytest.mark.parametrize("name", DECAYS)
def test_second_moments_decay(name):
    """By 0.1 % a step although numbers are 0.4 % (bfloat16) to 19 % (e5m2) apart: right on average.

    Measured: means within 0.6 %; medians within 0.7 %, but 0.76 for the two float8: where single steps of a code are
    that large, v wanders (by a factor of 10 for some elements), most of the time below its mean.
    """
    dtype, options, (least, most) = DECAYS[name]
    ratio = second_moment_after_a_drop(dtype, **options)
    assert least <= ratio.median() <= most
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert (ratio > 0).all()


def test_second_moments_rounded_to_nearest_do_not_decay():
    """What this is about: in bfloat16 with ties to even, v stays 16 times too large, and steps 4 times too small."""
    ratio = second_moment_after_a_drop(torch.bfloat16)
    assert ratio.min() > 10
