"""Matrices to train with Muon, and its definition."""

import math

import torch

STEPS = 30
SHAPES = [(33, 17), (16, 48), (8, 8), (1, 5), (40, 1)]
UNIT = 2.0**-24

OPTIONS = {
    "defaults": {},
    "no nesterov": {"nesterov": False},
    "no momentum": {"momentum": 0.0},
    "little momentum": {"momentum": 0.3, "nesterov": False},
    "no weight decay": {"weight_decay": 0.0},
    "large weight decay": {"weight_decay": 5.0},
    "match_rms_adamw": {"adjust_lr_fn": "match_rms_adamw"},
    "original": {"adjust_lr_fn": "original"},
    "three iterations": {"ns_steps": 3},
    "no iteration": {"ns_steps": 0},
    "coefficients": {"ns_coefficients": (2.0, -1.5, 0.5)},
    "large eps": {"eps": 30.0},
    "tensor lr": {"lr": torch.tensor(3e-2)},
}


def parameters(seed=0, dtype=torch.float32, shapes=SHAPES):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def set_grads(seed, *lists, scale=1.0):
    """The same random gradients for each list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def buffers(optimizer):
    """The momentum of every parameter, in order."""
    return [optimizer.state[p]["momentum_buffer"] for group in optimizer.param_groups for p in group["params"]]


def largest(*lists):
    """Largest absolute difference over two lists of tensors."""
    return max(float((a.detach().double() - b.detach().double()).abs().max()) for a, b in zip(*lists, strict=True))


def total(*lists):
    """L2 norm of the difference of two lists of tensors."""
    return math.sqrt(
        sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in zip(*lists, strict=True))
    )


def ratio(name, shape):
    """How torch's two rules adjust lr to a shape."""
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if name == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def exact_newton_schulz(matrix, group):
    """The iteration in double: what bfloat16 approximates."""
    a, b, c = group["ns_coefficients"]
    x = matrix / max(float(matrix.norm()), group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def train(params, optimizer, steps, first=0):
    """Steps with random gradients that depend only on the step's number."""
    for step in range(first, first + steps):
        set_grads(step, params)
        optimizer.step()
