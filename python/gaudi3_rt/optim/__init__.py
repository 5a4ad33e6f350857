"""Fused optimizers: torch.optim's signatures, numerics and state_dict, with gradient clipping and AMP in the step."""

import torch

from gaudi3_rt.optim import functional
from gaudi3_rt.optim._options import Options
from gaudi3_rt.optim.adagrad import FusedAdagrad
from gaudi3_rt.optim.adam import FusedAdam
from gaudi3_rt.optim.adamw import FusedAdamW
from gaudi3_rt.optim.ema import FusedEMA
from gaudi3_rt.optim.lamb import FusedLAMB
from gaudi3_rt.optim.lars import FusedLARS
from gaudi3_rt.optim.lion import FusedLion
from gaudi3_rt.optim.sgd import FusedSGD

__all__ = [
    "FusedAdagrad",
    "FusedAdam",
    "FusedAdamW",
    "FusedEMA",
    "FusedLAMB",
    "FusedLARS",
    "FusedLion",
    "FusedSGD",
    "Options",
    "functional",
]

if hasattr(torch.optim, "Muon"):
    from gaudi3_rt.optim.muon import FusedMuon

    __all__ += ["FusedMuon"]
else:

    def __getattr__(name: str) -> object:
        if name == "FusedMuon":
            msg = f"FusedMuon needs PyTorch 2.9 or newer, which has torch.optim.Muon; this is {torch.__version__}"
            raise AttributeError(msg)
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
