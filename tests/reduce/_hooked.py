"""Models, definitions and DDP for the tests of the communication hooks."""

import copy

import torch
from _ranks import tensors
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gaudi3_rt.reduce import hooks

WORLD = 3
TINY_BUCKETS = {"bucket_cap_mb": 1e-3}


class Network(nn.Module):
    """Layers of odd sizes, registered in another order than they run in, so that DDP rebuilds its buckets."""

    def __init__(self, *, unused=False):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(19, 3)
        self.first = nn.Linear(7, 37)
        self.unused = nn.Linear(5, 5) if unused else None
        self.only_on_rank_0 = nn.Linear(19, 3) if unused else None
        self.middle = nn.Sequential(nn.Linear(37, 41), nn.Tanh(), nn.Linear(41, 19))

    def forward(self, x, rank):
        """The extra layer is used by rank 0 alone."""
        hidden = self.middle(self.first(x).tanh())
        out = self.last(hidden)
        return out if self.only_on_rank_0 is None or rank != 0 else out + self.only_on_rank_0(hidden)


def batch(seed, rank):
    """What one rank sees."""
    return 3 * tensors(1000 * seed + rank, (5, 7))[0]


def loss_of(model, seed, rank):
    """Of one rank's batch."""
    x = batch(seed, rank).to(next(model.parameters()).dtype)
    return model(x, rank).float().square().mean()


def local_gradients(model, seed):
    """For each parameter the gradients of all ranks; None where a rank has none."""
    parameters = list(model.parameters())
    losses = [loss_of(model, seed, rank) for rank in range(WORLD)]
    return list(zip(*(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses), strict=True))


def summed(shards):
    """The tree over two or three shards, in float32."""
    total = shards[0].float() + shards[1].float()
    return total if len(shards) == 2 else total + shards[2].float()


def third(value, world=WORLD):
    """The mean's factor, rounded to float32 once."""
    return value * torch.tensor(1 / world)


DEFINITIONS = {
    "tree": lambda shards: third(summed(shards), len(shards)),
    "bf16": lambda shards: third(summed([s.bfloat16() for s in shards]), len(shards)).bfloat16().float(),
    "fp16": lambda shards: summed([third(s, len(shards)).half() for s in shards]).half().float(),
}
HOOKS = {
    "tree": hooks.tree_hook,
    "bf16": hooks.bf16_compress_hook,
    "fp16": hooks.fp16_compress_hook,
}


def distributed(model, hook, state=None, **options):
    """The model under DDP with a hook, which has to be called."""
    wrapped = DistributedDataParallel(copy.deepcopy(model), **options)
    if hook is not None:
        wrapped.register_comm_hook(state, hook)
    return wrapped


def gradients(wrapped):
    """As they are after backward."""
    return [None if p.grad is None else p.grad.clone() for p in wrapped.module.parameters()]


def assert_equal(got, expected, what):
    """To the bit."""
    for i, (mine, other) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(mine, other), f"{what}: gradient {i}: {(mine - other).abs().max()}"
