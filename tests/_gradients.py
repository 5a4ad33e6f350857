"""Gradients for the tests of ``gaudi3_rt.grads``: drawn ones of any dtype and layout, and what is exact."""

import math

import torch
from _problems import DTYPES, assert_same_tensors, problem
from hypothesis import strategies as st

from gaudi3_rt import _core

ORDERS = [1.0, 2.0, math.inf]
OTHER_ORDERS = [3.0, 0.5, 0.0, -1.0, -math.inf]
ALL_DTYPES = [*DTYPES, torch.float64]
REDUCTIONS = {1.0: "sum_abs", 2.0: "sum_squares", math.inf: "max_abs"}

# How a gradient may lie in memory, made from dense numbers of shape (n, 4).
LAYOUTS = {
    "dense": lambda x: x.clone(),
    "permuted": lambda x: x.t().contiguous().t(),
    "gaps": lambda x: torch.stack([x, x], dim=-1)[..., 1],
    "part of a row": lambda x: torch.cat([x, x], dim=1)[:, 2:6],
}


def random(shape, dtype=torch.float32, seed=0, special=0.0):
    """Random values, some of them special."""
    return problem(_core.kernels()[0], [shape], seed=seed, special=special).operands[1][0].to(dtype)


def with_grads(grads):
    """Parameters that have these gradients."""
    params = []
    for grad in grads:
        params.append(torch.nn.Parameter(torch.zeros_like(grad)))
        params[-1].grad = grad
    return params


def copies(grads):
    """The same numbers in memory of their own, laid out alike."""
    return [torch.empty_strided(g.shape, g.stride(), dtype=g.dtype).copy_(g) for g in grads]


def exact_norm(grads, order):
    """The norm of all elements by its definition, correctly rounded sums in float64."""
    values = [abs(v) for grad in grads for v in grad.reshape(-1).tolist()]
    if order == math.inf:
        return max(values, default=0.0)
    return math.fsum(v**order for v in values) ** (1 / order)


def assert_same(got, want):
    """Equal bits."""
    assert_same_tensors(got, want, "gradient")


GRADS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from(ALL_DTYPES), st.sampled_from(list(LAYOUTS))), min_size=1, max_size=6
)


def drawn(description, scale=1.0):
    """Gradients of the drawn lengths, dtypes and layouts."""
    return [
        LAYOUTS[layout](random((n, 4), seed=i).mul(scale).to(dtype)) for i, (n, dtype, layout) in enumerate(description)
    ]
