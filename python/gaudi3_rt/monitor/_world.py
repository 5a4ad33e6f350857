"""Which rank of which run this process is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gaudi3_rt import _config


@dataclass(frozen=True)
class World:
    """Numbers of this process, and how many there are."""

    rank: int
    local_rank: int
    size: int


def find_world() -> World:
    """From ``torch.distributed`` if that is initialized, else from the environment of torchrun or Slurm, else alone.

    Raises:
        ValueError: a variable of the environment is no number.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), _config.local_rank(), distributed.get_world_size())
    return World(_config.rank(), _config.local_rank(), _config.world_size())


def find_run_id(given: str | None, run_dir: Path | None, now: float) -> str:
    """What was given, else torchrun's or Slurm's, else the name of the run's folder, else the second of now."""
    return given or _config.run_id() or (run_dir.absolute().name if run_dir is not None else f"run-{now:.0f}")
