"""Fused optimizers: torch.optim's signatures, numerics and state_dict, with gradient clipping and AMP in the step."""

from gaudi3_rt.optim.adamw import FusedAdamW

__all__ = ["FusedAdamW"]
