"""Where the elements of a DTensor are, and how a sum over them is completed."""

from __future__ import annotations

import math
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

    def complete(self, local_sums: Sequence[float]) -> list[float]:
        """Sums over all shards; a collective call, so every rank of the mesh must make it."""
        totals = torch.tensor(local_sums, dtype=torch.float64, device=self.mesh.device_type)
        self.complete_(totals)
        completed: list[float] = totals.tolist()
        return completed

    def complete_(self, local_sums: Tensor) -> None:
        """The same, in place, of numbers that stay on the device."""
        for dim in self.dims:
            torch.distributed.all_reduce(local_sums, group=self.mesh.get_group(dim))

    def complete_max(self, local_max: float) -> float:
        """The largest of all shards, NaN if one is; a collective call like ``complete``."""
        # NaN travels as a number of its own, because not every backend's maximum keeps it.
        is_nan = math.isnan(local_max)
        pair = [0.0 if is_nan else local_max, float(is_nan)]
        largest = torch.tensor(pair, dtype=torch.float64, device=self.mesh.device_type)
        for dim in self.dims:
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, self.mesh.get_group(dim))
        value, any_nan = largest.tolist()
        return math.nan if any_nan else float(value)


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


def shard_elements(param: Any) -> tuple[int, int, int]:
    """Which elements of the whole parameter a tensor holds: base, run and stride of ``Elements`` in csrc/table.h.

    Raises:
        NotImplementedError: the rows of the shard are not at equal distances in the parameter.
    """
    whole = (0, max(param.numel(), 1), 0)
    if not is_dtensor(param):
        return whole
    (chunk,) = param.__create_chunk_list__()
    shape, offsets, sizes = param.shape, chunk.offsets, chunk.sizes
    divided = [d for d in range(param.ndim) if sizes[d] != shape[d]]
    if not divided or 0 in sizes:
        return whole
    last = divided[-1]
    if any(math.prod(sizes[:d]) > 1 for d in divided[:-1]):
        msg = (
            f"a parameter of shape {tuple(shape)} is divided along the dimensions {divided}; stochastic rounding and "
            "moments in blocks need shards whose rows are at equal distances: divide the first dimension, or one alone"
        )
        raise NotImplementedError(msg)
    inner = math.prod(shape[last + 1 :])
    base = sum(offsets[d] * math.prod(shape[d + 1 :]) for d in range(param.ndim))
    return base, sizes[last] * inner, shape[last] * inner


def sharded_zeros(param: Any, shape: tuple[int, ...], block: int) -> Tensor:
    """Float32 zeros of a shape, divided among ranks as the parameter is: the scales of its blocks.

    Raises:
        ValueError: a shard of the parameter does not consist of whole blocks.
    """
    if not is_dtensor(param):
        return torch.zeros(shape, dtype=torch.float32, device=param.device)
    from torch.distributed.tensor import zeros  # noqa: PLC0415 (only for those who use DTensor)

    made: Any = zeros(shape, dtype=torch.float32, device_mesh=param.device_mesh, placements=param.placements)
    local = param.to_local().shape
    fitting = (*local[:-1], local[-1] // block)
    fits = len(shape) == param.ndim + 1 and tuple(made.to_local().shape[:-1]) == fitting
    is_divided = local != param.shape
    if is_divided and (not fits or local[-1] % block != 0):
        msg = (
            f"a parameter of shape {tuple(param.shape)} has a shard of shape {tuple(local)}, but moments in blocks of "
            f"{block} elements need shards whose last dimension is a multiple of {block}; use torch.bfloat16 moments"
        )
        raise ValueError(msg)
    result: Tensor = made
    return result


def local_shard(tensor: Any, where: str) -> tuple[Tensor, Sharding]:
    """The local memory of one DTensor.

    Args:
        tensor: a DTensor.
        where: how to call it in an error.

    Raises:
        TypeError: it is a partial sum.
    """
    from torch.distributed.tensor import Partial, Replicate  # noqa: PLC0415 (only for those who use DTensor)

    if any(isinstance(p, Partial) for p in tensor.placements):
        msg = (
            f"{where} is a partial sum (placements {tensor.placements}), whose elements no rank has; "
            "redistribute() it to Shard or Replicate first"
        )
        raise TypeError(msg)
    dims = tuple(d for d, p in enumerate(tensor.placements) if not isinstance(p, Replicate))
    return tensor.to_local(), Sharding(tensor.device_mesh, dims)


def gather(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, by a collective call; any other tensor itself."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_dtensor(tensor) else tensor


def scatter_(tensor: Tensor, whole: Tensor) -> None:
    """Writes a tensor in place; to a DTensor, of the whole, which every rank has, this rank's part."""
    if not is_dtensor(tensor):
        tensor.copy_(whole)
        return
    from torch.distributed.tensor import DTensor, Replicate  # noqa: PLC0415 (only for those who use DTensor)

    target: Any = tensor
    everywhere = [Replicate()] * target.device_mesh.ndim
    replicated = DTensor.from_local(whole, target.device_mesh, everywhere, run_check=False)
    target.to_local().copy_(replicated.redistribute(placements=target.placements).to_local())
