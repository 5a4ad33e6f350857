"""Every optimizer with every option that decides what it keeps, for plans."""

from functools import partial

import torch

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex

FUSED = (
    optim.FusedAdagrad,
    optim.FusedAdam,
    optim.FusedAdamW,
    optim.FusedLAMB,
    optim.FusedLARS,
    optim.FusedLion,
    partial(optim.FusedSGD, momentum=0.9),
)
STORAGES = (
    {},
    {"moments_dtype": torch.bfloat16},
    {"moments_dtype": torch.int8},
    {"moments_dtype": (torch.float8_e4m3fn, torch.float8_e5m2)},
    {"master": "float32"},
    {"master": "split", "moments_dtype": torch.int8},
    {"rounding": "stochastic", "ema_decay": 0.9},
    {"max_grad_norm": 1.0},
)
TORCH = (
    partial(torch.optim.ASGD, t0=0),  # averages from the first step on
    torch.optim.Adadelta,
    torch.optim.Adafactor,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)


def name(make):
    """Of a test."""
    if isinstance(make, partial):
        options = ",".join(f"{key}={str(value).replace('torch.', '')}" for key, value in make.keywords.items())
        return f"{make.func.__name__}({options})"
    return make.__name__


OURS = [
    *(partial(make, **storage) for make in FUSED for storage in STORAGES),
    partial(optim.FusedAdamW, amsgrad=True, moments_dtype=torch.int8),
    partial(optim.FusedAdagrad, initial_accumulator_value=0.1, moments_dtype=torch.int8),
    optim.FusedSGD,
    hpex.FusedLamb,
    hpex.FusedAdamW,
]
THEIRS = [
    *TORCH,
    *(partial(make, foreach=True) for make in TORCH),
    partial(torch.optim.Adam, amsgrad=True),
    partial(torch.optim.AdamW, fused=True),
    partial(torch.optim.Adagrad, fused=True),
    partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    partial(torch.optim.SGD, momentum=0.9, fused=True),
    partial(torch.optim.RMSprop, centered=True, momentum=0.9),
]
MUONS = [optim.FusedMuon, torch.optim.Muon]
