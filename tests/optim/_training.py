"""What the tests of storage share: parameters to train, gradients that depend on the step's number, every byte."""

import numpy as np
import torch

from gaudi3_rt.optim import FusedAdamW, FusedLAMB, FusedLARS

OPTIMIZERS = {
    "AdamW": lambda params, **options: FusedAdamW(params, lr=1e-2, **options),
    "AdamW amsgrad": lambda params, **options: FusedAdamW(params, lr=1e-2, amsgrad=True, **options),
    "LAMB": lambda params, **options: FusedLAMB(params, lr=1e-2, **options),
    "LARS": lambda params, **options: FusedLARS(params, lr=0.5, momentum=0.9, weight_decay=0.1, **options),
}

# Name: dtype of the parameters, options.
STORAGES = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "stochastic": (torch.bfloat16, {"rounding": "stochastic", "seed": 3}),
    "split": (torch.bfloat16, {"master": "split"}),
    "master": (torch.bfloat16, {"master": "float32", "ema_decay": 0.9}),
    "bfloat16 moments": (torch.float32, {"moments_dtype": torch.bfloat16}),
    "int8": (torch.float32, {"moments_dtype": torch.int8, "ema_decay": 0.9}),
    "e4m3fn": (torch.float32, {"moments_dtype": torch.float8_e4m3fn, "seed": 2**64 - 1}),
    "e5m2": (torch.float32, {"moments_dtype": torch.float8_e5m2}),
    "pair": (torch.float32, {"moments_dtype": (torch.bfloat16, torch.int8)}),
    "all stochastic": (torch.bfloat16, {"rounding": "stochastic", "moments_dtype": torch.int8, "ema_decay": 0.9}),
    "split and e4m3fn": (torch.bfloat16, {"master": "split", "moments_dtype": torch.float8_e4m3fn}),
}

SHAPES = [(130, 256), (5000,), (7,), ()]  # two with blocks, of which one has a last block that is not full


def parameters(dtype=torch.float32, shapes=SHAPES, seed=0):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def train(optimizer, steps, first=0):
    """Steps with random gradients that depend only on the step's number; bfloat16 numbers whatever their dtype."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator).bfloat16().to(p.dtype)
        optimizer.step()


def raw(tensor):
    """The bytes of a tensor."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def everything(optimizer):
    """Every byte that training goes on from, by parameter and key."""
    result = {}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in enumerate(params):
        result[i, "param"] = raw(p)
        result.update({(i, key): raw(value) for key, value in optimizer.state.get(p, {}).items()})
    return result


def assert_same(one, other):
    """Two results of ``everything`` are equal."""
    assert list(one) == list(other)
    differ = [key for key in one if not np.array_equal(one[key], other[key])]
    assert not differ, f"bytes differ of {differ}"
