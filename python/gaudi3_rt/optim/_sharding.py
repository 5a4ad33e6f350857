"""Where the elements of a DTensor are, and how a sum over them is completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sharding:
    """The mesh of a DTensor and the mesh dimensions over which its elements are divided."""

    mesh: Any
    dims: tuple[int, ...]

    def complete(self, local_sum: float) -> float:
        """The sum over all shards; a collective call, so every rank of the mesh must make it."""
        total = torch.tensor(local_sum, dtype=torch.float64, device=self.mesh.device_type)
        for dim in self.dims:
            torch.distributed.all_reduce(total, group=self.mesh.get_group(dim))
        return float(total)


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without importing torch.distributed.tensor for those who use none."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local_shards(tensors: Sequence[Tensor], where: str) -> tuple[list[Tensor], Sharding]:
    """The local memory of a DTensor parameter and of all that belongs to it.

    Args:
        tensors: parameter, gradient, states; the gradient is redistributed if it is placed unlike the parameter.
        where: how to call the parameter in an error.

    Raises:
        TypeError: some are DTensors and some are not, or a parameter or state is a partial sum.
    """
    from torch.distributed.tensor import Partial, Replicate  # noqa: PLC0415 (only for those who use DTensor)

    param: Any = tensors[0]
    local = []
    for index, tensor in enumerate(tensors):
        dtensor: Any = tensor
        if not is_dtensor(tensor):
            msg = f"{where}: the parameter is a DTensor, but its gradient or state is a {type(tensor).__name__}"
            raise TypeError(msg)
        if index == 1 and dtensor.placements != param.placements:
            dtensor = dtensor.redistribute(param.device_mesh, param.placements)
        if dtensor.placements != param.placements or any(isinstance(p, Partial) for p in dtensor.placements):
            msg = (
                f"{where}: cannot step with placements {dtensor.placements} (the parameter has {param.placements}); "
                "state must be placed like its parameter, and neither may be a partial sum"
            )
            raise TypeError(msg)
        local.append(dtensor.to_local())
    dims = tuple(d for d, p in enumerate(param.placements) if not isinstance(p, Replicate))
    return local, Sharding(param.device_mesh, dims)
