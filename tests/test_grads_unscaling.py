"""Unscaling is torch's: one product, and found_inf is raised and never cleared."""

import math

import pytest
import torch
from _gradients import GRADS, LAYOUTS, assert_same, copies, random
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.grads import unscale_

# Unscaling


@given(
    description=GRADS, inv_scale=st.sampled_from([1.0, 2.0**-16, 0.3, 0.0, 3e5]), special=st.sampled_from([0.0, 0.01])
)
def test_unscaling_is_torchs(description, inv_scale, special):
    """Gradients bit by bit, and found_inf, for every dtype and layout."""
    grads = [LAYOUTS[layout](random((n, 4), dtype, n, special)) for n, dtype, layout in description]
    theirs = copies(grads)
    found_inf, want = torch.zeros(()), torch.zeros(())
    torch._amp_foreach_non_finite_check_and_unscale_(theirs, want, torch.tensor(inv_scale))
    assert unscale_(grads, torch.tensor(inv_scale), found_inf) is None
    assert torch.equal(found_inf, want)
    assert_same(grads, theirs)


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("found_inf", [torch.zeros(()), torch.zeros(1, dtype=torch.float64)], ids=["0-d", "1-d"])
def test_found_inf_is_raised_and_never_cleared(where, value, found_inf):
    """One bad element anywhere sets it to 1; good ones leave whatever is there."""
    found_inf = found_inf.clone()
    grads = [random((70_000,)), random((9,), torch.float16), random((4, 6))[:, ::2]]
    unscale_(grads, 1.0, found_inf)
    assert float(found_inf) == 0
    grads[where][-1] = value
    unscale_(grads, 1.0, found_inf)
    assert float(found_inf) == 1
    found_inf.fill_(5.0)
    unscale_([torch.ones(3)], 0.5, found_inf)
    assert float(found_inf) == 5


def test_a_product_that_overflows_is_not_found():
    """As in torch: what counts is the value before the multiplication."""
    grads = [torch.full((3,), 1e30), torch.full((3,), 1e300, dtype=torch.float64)]
    found_inf = torch.zeros(())
    unscale_(grads, 1e20, found_inf)
    assert float(found_inf) == 0
    assert grads[0].isinf().all()


@pytest.mark.parametrize(
    ("inv_scale", "found_inf", "error", "match"),
    [
        (torch.ones(2), torch.zeros(()), ValueError, r"inv_scale has shape \(2,\): it must have one element"),
        (0.5, torch.zeros(3), ValueError, r"found_inf has shape \(3,\): it must have one element"),
        (0.5, torch.zeros((), dtype=torch.int32), TypeError, "found_inf .* floating-point .* got torch.int32"),
        (0.5, 0.0, TypeError, "found_inf .* floating-point tensor .* got float"),
    ],
)
def test_bad_scalars_are_refused(inv_scale, found_inf, error, match):
    """One sentence, and nothing changed."""
    x = torch.ones(3)
    with pytest.raises(error, match=match):
        unscale_([x], inv_scale, found_inf)
    assert (x == 1).all()
