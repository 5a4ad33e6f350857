"""What may be listed as parameters or tensors, and what is refused."""

import math

import pytest
import torch
from _gradients import random, with_grads
from torch.nn.utils import clip_grad_norm_ as torch_clip_grad_norm_

from gaudi3_rt import _core
from gaudi3_rt.grads import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm, unscale_

# What parameters may be


def test_what_is_listed_may_come_in_any_form():
    """A tensor, a list, a generator, named pairs; what has no gradient is passed over."""
    forms = [
        lambda params: params,
        lambda params: (p for p in params),
        lambda params: [("a", params[0]), ("b", params[1]), ("c", params[2])],
        lambda params: iter([torch.nn.Parameter(torch.zeros(3)), *params]),
    ]
    for form in forms:
        params = [*with_grads([torch.full((4,), 2.0), torch.full((5,), 3.0)]), torch.nn.Parameter(torch.zeros(2))]
        assert float(clip_grad_norm_(form(params), 1.0)) == pytest.approx(math.sqrt(4 * 4 + 5 * 9))
        assert float(get_total_norm([p.grad for p in params[:2]])) == pytest.approx(1.0)
        clip_grad_value_(form(params), 0.01)
        assert [p.grad.tolist() for p in params[:2]] == [[pytest.approx(0.01)] * n for n in (4, 5)]
    (p,) = with_grads([torch.full((4,), 2.0)])
    assert float(get_total_norm(p.grad)) == 4
    assert float(clip_grad_norm_(p, 2.0)) == 4
    clip_grads_with_norm_(p, 1.0, torch.tensor(2.0))
    clip_grad_value_(p, 0.25)
    unscale_(p.grad, 2.0, torch.zeros(()))
    torch.testing.assert_close(p.grad, torch.full((4,), 0.5))


def test_nothing_listed_has_norm_zero():
    """Empty lists and parameters without gradients: a 0-d 0; an empty generator is most likely a mistake."""
    for parameters in ([], [torch.nn.Parameter(torch.ones(2))]):
        assert torch.equal(clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True), torch.tensor(0.0))
        clip_grads_with_norm_(parameters, 1.0, torch.tensor(5.0))
        clip_grad_value_(parameters, 1.0)
    for order in (2.0, 3.0):
        assert torch.equal(get_total_norm([], order), torch.tensor(0.0))
    unscale_([], 0.5, torch.zeros(()))
    with pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_((p for p in ()), 1.0)


@pytest.mark.parametrize("shape", [(5,), (50_000,)], ids=str)
@pytest.mark.parametrize("dtype64", [torch.float32, torch.float64], ids=str)
def test_what_is_listed_twice_counts_twice(shape, dtype64):
    """A parameter listed twice, and gradients that share memory, are counted and multiplied twice, as in torch."""
    makers = [
        lambda x: [x, x],
        lambda x: [x, x.view(-1, 5)],
        lambda x: [x[: x.numel() // 5 * 3], x[x.numel() // 5 * 2 :]],
    ]
    for make in makers:
        results = []
        for clip in (clip_grad_norm_, torch_clip_grad_norm_):
            memory = random(shape).to(dtype64)
            results.append((clip(with_grads(make(memory)), 0.1), memory))
        (norm, got), (want_norm, want) = results
        torch.testing.assert_close(norm, want_norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(got, want, rtol=4e-5, atol=0)
        memory = random(shape).to(dtype64)
        unscale_(make(memory), 0.5, torch.zeros(()))
        theirs = random(shape).to(dtype64)
        torch._amp_foreach_non_finite_check_and_unscale_(make(theirs), torch.zeros(()), torch.tensor(0.5))
        assert torch.equal(memory, theirs)


@pytest.mark.parametrize("tool", ["unscale", "map", "clip"])
def test_threads_do_not_meet_in_shared_memory(tool):
    """What is listed 60001 times changes its sign 60001 times, also with threads that could write it at once.

    In bfloat16, where a tile of 512 is read, multiplied and written back: threads that meet there lose a product. The
    list is so long that the system lets all threads run at some time.
    """
    grad = torch.ones(2048, dtype=torch.bfloat16)
    grads = _core.GradList(_core.isas()[0], torch.Tensor)
    grads.extend([grad] * 60_001)
    minus_norm = -math.sqrt(60_001 * 2048)
    change_sign = {
        "unscale": lambda: grads.unscale(-1.0, 8),
        "map": lambda: grads.map("scale", [-1.0], 8),
        "clip": lambda: grads.clip("sum_squares", minus_norm, False, 8),
    }
    for sign in (-1, 1, -1, 1):
        change_sign[tool]()
        assert (grad == sign).all()


def test_an_expanded_gradient_is_refused_when_it_would_be_written():
    """It has a norm; writing it is an error that names it and changes nothing."""
    params = with_grads([torch.ones(3), torch.ones(1).expand(4), torch.ones(2, dtype=torch.float64)])
    grads = [p.grad for p in params]
    assert float(get_total_norm(grads)) == 3
    assert float(clip_grad_norm_(params, 5.0)) == 3
    match = "gradient of parameter 1 is an expanded view"
    for call in (
        lambda: clip_grad_norm_(params, 1.0),
        lambda: clip_grads_with_norm_(params, 1.0, torch.tensor(2.0)),
        lambda: clip_grad_value_(params, 0.5),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(ValueError, match="tensor 1 is an expanded view"):
        unscale_(grads, 0.5, torch.zeros(()))
    assert all((grad == 1).all() for grad in grads)


def test_what_is_no_dense_floating_point_tensor_is_refused():
    """Sparse and integer tensors, and what is no tensor: one sentence with the index and the name; nothing changed."""
    good = torch.ones(3)
    sparse = torch.nn.Parameter(torch.zeros(3))
    sparse.grad = torch.ones(3).to_sparse()
    (first,) = with_grads([good])
    with pytest.raises(TypeError, match=r"gradient of parameter 1 \('embedding'\) has .* layout torch.sparse_coo; it"):
        clip_grad_norm_([("first", first), ("embedding", sparse)], 0.1)
    with pytest.raises(TypeError, match=r"tensor 1 has dtype torch\.int64"):
        get_total_norm([good, torch.ones(3, dtype=torch.int64)])
    with pytest.raises(TypeError, match="tensor 1 is of type str; expected a tensor"):
        unscale_([good, "x"], 0.1, torch.zeros(()))
    for not_a_parameter in ("x", 3, (1, 2, 3), None):
        with pytest.raises(TypeError, match=f"parameter 1 is of type {type(not_a_parameter).__name__}; expected a ten"):
            clip_grad_value_([first, not_a_parameter], 0.1)
    assert (good == 1).all()


def test_complex_gradients_are_clipped_by_norm_only():
    """As in torch; by value and in AMP there is no meaning to it."""
    z = torch.tensor([3 + 4j, 0j])
    (p,) = with_grads([z.clone()])
    for order in (1.0, 2.0, math.inf, 3.0):
        assert float(get_total_norm([p.grad], order)) == 5
    assert float(clip_grad_norm_([p], 1.0)) == 5
    torch.testing.assert_close(p.grad, z / 5)
    before = p.grad.clone()
    with pytest.raises(TypeError, match=r"parameter 0 has dtype torch\.complex64; it must be real"):
        clip_grad_value_([p], 0.1)
    with pytest.raises(TypeError, match=r"tensor 0 has dtype torch\.complex64; it must be real"):
        unscale_([p.grad], 0.1, torch.zeros(()))
    assert torch.equal(p.grad, before)


@pytest.mark.parametrize("bad", [-1.0, math.nan, -math.inf])
def test_bad_bounds_are_refused(bad):
    """The message says what was given and what is allowed; gradients are as before."""
    (p,) = with_grads([torch.ones(3)])
    with pytest.raises(ValueError, match=r"max_norm=.*must be a number >= 0"):
        clip_grad_norm_([p], bad)
    with pytest.raises(ValueError, match=r"max_norm=.*must be a number >= 0"):
        clip_grads_with_norm_([p], bad, torch.tensor(5.0))
    with pytest.raises(ValueError, match=r"clip_value=.*must be a number >= 0"):
        clip_grad_value_([p], bad)
    with pytest.raises(ValueError, match=r"total_norm=-1\.0: a norm is a number >= 0"):
        clip_grads_with_norm_([p], 1.0, torch.tensor(-1.0))
    with pytest.raises(ValueError, match=r"total_norm has shape \(2,\): it must have one element"):
        clip_grads_with_norm_([p], 1.0, torch.ones(2))
    assert (p.grad == 1).all()
