"""One function from tensors to tensors over a whole list: the kernel where it reaches them, torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.reduce import _hpu
from gaudi3_rt.reduce._checks import check_read, check_written, count_versions, float32
from gaudi3_rt.reduce._overlap import check_apart


def _accumulate(into: Tensor, product: Tensor) -> None:
    into.copy_(into.to(torch.float32) + product)


COMPOSITES: dict[str, Callable[[Tensor, Tensor], object]] = {"cast": Tensor.copy_, "accumulate": _accumulate}


def transfer(name: Literal["cast", "accumulate"], sources: list[Tensor], targets: list[Tensor], scale: float) -> None:
    """Applies a transfer to pairs of tensors of one shape, all that the kernels reach in one parallel region.

    Raises:
        TypeError: something is no tensor.
        ValueError: an expanded view as a target, a dtype other than float32, bfloat16 and float16, pairs of different
            shapes or devices, or a target that shares memory with another tensor. Nothing has been written then.
    """
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        check_read(f"tensor {i}", source)
        check_written(f"tensor {i}", target)
        if (source.shape, source.device) != (target.shape, target.device):
            msg = (
                f"tensor {i} has shape {tuple(source.shape)} on {source.device}, where it goes {tuple(target.shape)} "
                f"on {target.device}: they have to be alike"
            )
            raise ValueError(msg)
    check_apart(targets, [[source] for source in sources])
    threads, scale = torch.get_num_threads(), float(scale)
    left = _core.transfer(_config.isa(), torch.Tensor, name, sources, targets, scale, threads)
    for source, target in _hpu.transfer(name, [(sources[i], targets[i]) for i in left], scale):
        COMPOSITES[name](target, source.to(torch.float32) * float32(scale))
    count_versions(targets)
