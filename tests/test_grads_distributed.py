"""``gaudi3_rt.grads`` on two processes over gloo: norms of DTensors are those of all shards."""

import math
from unittest.mock import patch

import pytest
import torch
from _ranks import WORLD, run_on_ranks, tensors
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh

from gaudi3_rt.grads import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm, unscale_
from gaudi3_rt.optim._sharding import Sharding

ORDERS = [1.0, 2.0, math.inf, 3.0]
# Uneven shards, an empty shard (one row over two ranks), replicated, sharded by columns, 0-d; the last is no DTensor.
SHAPES = [(5, 3), (1, 4), (7,), (6, 2), (), (3,)]
PLACEMENTS = [Shard(0), Shard(0), Replicate(), Shard(1), Replicate(), None]
FLOATS = [torch.float32] * len(SHAPES)
DTYPES = [torch.float32, torch.bfloat16, torch.float32, torch.float64, torch.float16, torch.float32]


def parameters(seed, dtypes):
    """The same parameters twice, with gradients: sharded, and whole on every rank."""
    mesh = init_device_mesh("cpu", (WORLD,))
    sharded, whole = [], []
    for grad, placement, dtype in zip(tensors(seed, *SHAPES), PLACEMENTS, dtypes, strict=True):
        own = grad.to(dtype)
        whole.append(torch.nn.Parameter(torch.zeros_like(own)))
        whole[-1].grad = own.clone()
        placed = own if placement is None else distribute_tensor(own, mesh, [placement])
        sharded.append(torch.nn.Parameter(torch.zeros_like(placed)))
        sharded[-1].grad = placed
    return sharded, whole


def full(tensor):
    """All elements on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal(sharded, whole, rtol=0.0):
    """Gradients agree."""
    for p, q in zip(sharded, whole, strict=True):
        torch.testing.assert_close(full(p.grad), q.grad, rtol=rtol, atol=0, equal_nan=True)


def norms(_rank):
    """Norms and clipped gradients are those of the whole tensors, in every order; the norm is a plain tensor."""
    for order in ORDERS:
        for dtypes in (FLOATS, DTYPES):
            for max_norm in (0.1, 1e9):
                sharded, whole = parameters(0, dtypes)
                want = clip_grad_norm_(whole, max_norm, order)
                norm = get_total_norm([p.grad for p in sharded], order)
                versions = [p.grad._version for p in sharded]
                got = clip_grad_norm_(sharded, max_norm, order)
                assert all((p.grad._version > v) == (max_norm < 1) for p, v in zip(sharded, versions, strict=True))
                for result in (norm, got):
                    assert type(result) is torch.Tensor
                    torch.testing.assert_close(result, want, rtol=1e-6, atol=0)
                assert all(isinstance(p.grad, DTensor) for p in sharded[:-1])
                assert_equal(sharded, whole, rtol=0.01 if dtypes is DTYPES else 1e-6)
    sharded, whole = parameters(0, DTYPES)
    clip_grads_with_norm_(sharded, 1.0, torch.tensor(4.0))
    clip_grads_with_norm_(whole, 1.0, torch.tensor(4.0))
    assert_equal(sharded, whole)


def torchs(_rank):
    """Norm and clipped gradients are torch's own for DTensors, where it takes them: no plain ones, no empty shards."""
    for order in ORDERS:
        ours, theirs = ([sharded[i] for i in (0, 2, 3, 4)] for sharded, _ in (parameters(0, FLOATS) for _ in range(2)))
        want = torch.nn.utils.clip_grad_norm_(theirs, 0.1, order).full_tensor()
        torch.testing.assert_close(clip_grad_norm_(ours, 0.1, order), want, rtol=1e-5, atol=0)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p.grad.full_tensor(), q.grad.full_tensor(), rtol=1e-5, atol=0)


def values(_rank):
    """Clipping by value and unscaling are those of the whole tensors."""
    sharded, whole = parameters(1, DTYPES)
    clip_grad_value_(sharded, 0.3)
    clip_grad_value_(whole, 0.3)
    assert_equal(sharded, whole)
    found_inf = torch.zeros(())
    unscale_([p.grad for p in sharded], 0.3, found_inf)
    unscale_([p.grad for p in whole], 0.3, found_inf)
    assert_equal(sharded, whole)
    assert float(found_inf) == 0


def bad_elements(rank):
    """What is not finite in one rank's shard is known to all; the rank that has it says where, and nothing changes."""
    for order in ORDERS:
        for index, dtypes in ((0, DTYPES), (3, DTYPES), (3, FLOATS)):
            for value in (math.nan, math.inf):
                sharded, whole = parameters(2, dtypes)
                sharded[index].grad.to_local()[rank - 1 :][:1] = value if rank == 1 else 1.0
                for p, q in zip(sharded, whole, strict=True):
                    q.grad.copy_(full(p.grad))
                names = [(f"p{i}", p) for i, p in enumerate(sharded)]
                with pytest.raises(RuntimeError, match="is non-finite") as error:
                    clip_grad_norm_(names, 1.0, order, error_if_nonfinite=True)
                shape = tuple(sharded[index].shape)
                blame = f"the gradient of parameter {index} ('p{index}'), of shape {shape}, is the first"
                assert (blame if rank == 1 else "or the element is in another rank's shard") in str(error.value)
                assert_equal(sharded, whole)
                found_inf = torch.zeros(())
                unscale_([p.grad for p in sharded], 1.0, found_inf)
                assert float(found_inf) == 1
                norm = clip_grad_norm_(sharded, 1.0, order)
                torch.testing.assert_close(norm, clip_grad_norm_(whole, 1.0, order), equal_nan=True)
                assert not math.isfinite(float(norm))
                assert_equal(sharded, whole)


def two_dimensions(_rank):
    """On a mesh of two dimensions the sum goes over those that divide the elements, and over no other."""
    mesh = init_device_mesh("cpu", (WORLD, 1))
    (grad,) = tensors(3, (6, 4))
    for placements in ([Shard(0), Shard(1)], [Replicate(), Shard(0)], [Shard(1), Replicate()]):
        for order in ORDERS:
            placed = distribute_tensor(grad, mesh, placements)
            torch.testing.assert_close(get_total_norm([placed], order), get_total_norm([grad], order))


def layouts_differ(rank):
    """Ranks agree on the order of their collective calls also where only one has gaps in the memory of its shard."""
    line, grid = init_device_mesh("cpu", (WORLD,)), init_device_mesh("cpu", (WORLD, 1))
    (values,) = tensors(4, (2, 2 * WORLD))
    local = values[:, ::2] if rank == 0 else values[:, 1::2].contiguous()
    first = DTensor.from_local(local, line, [Shard(0)], run_check=False)
    second = DTensor.from_local(torch.full((3,), rank + 1.0), grid, [Shard(0), Replicate()], run_check=False)
    whole = [values, torch.tensor([1.0, 2.0]).repeat(3)]
    called = []

    def complete(sharding, local_sum, *, original=Sharding.complete):
        called.append(sharding.mesh.ndim)
        return original(sharding, local_sum)

    with patch.object(Sharding, "complete", complete):
        for order in ORDERS:
            torch.testing.assert_close(get_total_norm([first, second], order), get_total_norm(whole, order))
    assert called == [1, 2, 1, 2]  # for the orders 1 and 2


def refusals(_rank):
    """A partial sum is refused with one sentence that names it, and nothing is changed."""
    mesh = init_device_mesh("cpu", (WORLD,))
    first, second = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    first.grad = torch.ones(3)
    second = torch.nn.Parameter(DTensor.from_local(torch.zeros(3), mesh, [Partial()]))
    second.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    for call in (lambda p: clip_grad_norm_(p, 0.1), lambda p: clip_grad_value_(p, 0.1)):
        with pytest.raises(TypeError, match=r"the gradient of parameter 1 is a partial sum .* redistribute\(\) it"):
            call([first, second])
    with pytest.raises(TypeError, match="tensor 1 is a partial sum"):
        unscale_([first.grad, second.grad], 0.1, torch.zeros(()))
    assert (first.grad == 1).all()
    assert (second.grad.to_local() == 1).all()


def test_two_processes(tmp_path):
    """Every scenario above, on two ranks."""
    run_on_ranks([norms, torchs, values, bad_elements, two_dimensions, layouts_differ, refusals], tmp_path)
