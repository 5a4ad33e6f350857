"""Models and training loops for the tests of GradientReducer, and what their result has to be."""

import hashlib

import torch
import torch.distributed as dist

from gaudi3_rt.reduce import GradientReducer

N_SHARDS = 8


def network(dtype=torch.float32, seed=0):
    """A small network: a weight of several chunks, one that is not contiguous, odd lengths, a scalar."""
    generator = torch.Generator().manual_seed(seed)

    def parameter(*shape):
        return torch.nn.Parameter((torch.randn(shape, generator=generator) / 8).to(dtype))

    model = torch.nn.Module()
    model.wide = parameter(300, 500)  # three chunks of sums of squares
    model.bias = parameter(500)
    model.turned = torch.nn.Parameter(parameter(500, 7).data.t().contiguous().t())
    model.scale = parameter()
    model.spare = parameter(3, 5)  # only used where it is asked for
    return model


def loss_of(model, shard, step, *, spare=False):
    """The loss of one logical shard; batches are the same whoever computes them."""
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(1000 * step + shard)).to(model.wide.dtype)
    y = torch.tanh(x @ model.wide + model.bias) @ model.turned * model.scale
    loss = y.float().square().mean()
    return loss + (model.spare.float() * (shard + 1)).sum() if spare else loss


def mean_gradients(model, shards, step, **options):
    """The mean over shards in float64, of gradients as each shard has them; ``None`` where no shard has one."""
    params = list(model.parameters())
    sums = [None] * len(params)
    for shard in shards:
        loss = loss_of(model, shard, step, **options)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        for i, grad in enumerate(grads):
            if grad is not None:
                sums[i] = grad.double() if sums[i] is None else sums[i] + grad.double()
    return [None if total is None else total / len(shards) for total in sums]


def digest(tensors):
    """SHA-256 of the memory of tensors."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(b"none" if tensor is None else tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def gathered(value, group=None):
    """What every rank of a group has."""
    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values


def train(model, optimizer, reducer, steps, *, first=0, zero=True, before_backward=None):
    """Some steps with one backward pass for each logical shard of this rank."""
    for step in range(first, first + steps):
        optimizer.zero_grad(set_to_none=zero)
        for shard in reducer.shards:
            if before_backward:
                before_backward(step, shard)
            loss_of(model, shard, step, spare=(step + shard) % 3 == 0).backward()
        optimizer.step()


__all__ = ["N_SHARDS", "GradientReducer", "digest", "gathered", "loss_of", "mean_gradients", "network", "train"]
