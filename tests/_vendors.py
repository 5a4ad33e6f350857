"""Training two optimizers on the same gradients, and how far apart they end, for the tests of the vendor's names."""

import torch

UNIT = 2.0**-24
SHAPES = [(9, 5), (33,), ()]


def parameters(seed=0, dtype=torch.float32, shapes=SHAPES):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def exact(params):
    """The same in float64, as plain tensors."""
    return [p.detach().double() for p in params]


def set_grads(seed, *lists, scale=1.0):
    """The same random gradients for each list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def train(params, optimizer, steps, first=0, scale=1.0):
    """Steps with random gradients that depend only on the step's number."""
    for step in range(first, first + steps):
        set_grads(step, params, scale=scale)
        optimizer.step()


def distance(ours, theirs):
    """Largest absolute difference over two lists of tensors."""
    return max(
        float((a.detach().double() - b.detach().double()).abs().max()) for a, b in zip(ours, theirs, strict=True)
    )
