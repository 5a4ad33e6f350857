"""Sums, casts and accumulation on an HPU by its operators; what they do not take is left to torch's operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim._hpu import SUFFIXES, Rows, call
from gaudi3_rt.optim._hpu_grads import announce, one, reach
from gaudi3_rt.optim._sharding import is_dtensor
from gaudi3_rt.reduce._tree import leaf_merges


def reduce_nodes(out: Tensor, nodes: Sequence[Tensor], merges: Sequence[int], scale: float) -> bool:
    """Fills ``out`` with ``scale`` times the sum of the nodes, by one operator and casts besides; False: does nothing.

    The operator adds up whole trees of at most ``_core.TPC_MAX_SHARDS`` leaves of one dtype, which are the rows of one
    tensor: nodes that are not yet are copied next to one another.
    """
    if out.device.type != "hpu":
        return False
    dtypes = {node.dtype for node in nodes}
    if len(dtypes) > 1 or len(nodes) > _core.TPC_MAX_SHARDS or list(merges) != leaf_merges(len(nodes)):
        announce("sums of partial sums of shards")
        return False
    if not _reaches("sums of shards", [out, *nodes]):
        return False
    if out.numel() == 0:
        return True
    rows = Rows.of(out)
    shards = _as_rows([rows.read(node) for node in nodes])
    if shards.dtype is not out.dtype and out.dtype is torch.float32:
        shards = call("cast_bf16_to_f32", shards.view(-1))[0].view(shards.shape)
    (row,) = call(f"reduce_shards_{SUFFIXES[shards.dtype]}", shards, one(scale, out.device))
    rows.write(out, row if row.dtype is out.dtype else call("cast_f32_to_bf16", row)[0])
    return True


def transfer(name: str, pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> list[tuple[Tensor, Tensor]]:
    """Applies a transfer to pairs of source and target; returns those that are left."""
    left = []
    factors: dict[torch.device, Tensor] = {}
    for source, target in pairs:
        if target.device.type != "hpu":
            left.append((source, target))
        elif name == "cast" and scale == 1:
            target.copy_(source)  # an operation of the device already
        elif not _reaches({"cast": "casts", "accumulate": "accumulation"}[name], [source, target]):
            left.append((source, target))
        elif target.numel() > 0:
            if target.device not in factors:
                factors[target.device] = one(scale, target.device)
            rows = Rows.of(target)
            given = [rows.read(tensor) for tensor in ([source] if name == "cast" else [target, source])]
            rows.write(target, *call(_operator(name, source, target), *given, factors[target.device]))
    return left


def has_no(what: str, tensor: Tensor) -> None:
    """Says once that there is no operator for what is done to a tensor, if it is on an HPU."""
    if tensor.device.type == "hpu":
        announce(what)


def _operator(name: str, source: Tensor, target: Tensor) -> str:
    suffix = SUFFIXES[source.dtype]
    if name == "accumulate":
        return f"accumulate_{suffix}"
    return f"scale_{suffix}" if source.dtype is target.dtype else f"scale_{suffix}_to_{SUFFIXES[target.dtype]}"


def _reaches(what: str, tensors: Sequence[Tensor]) -> bool:
    if reach(tensors) and not any(is_dtensor(tensor) for tensor in tensors):
        return True
    odd = [tensor.dtype for tensor in tensors if tensor.dtype not in SUFFIXES]
    announce(f"{what} of {(odd or [tensors[-1].dtype])[0]} tensors")
    return False


def _as_rows(shards: Sequence[Tensor]) -> Tensor:
    """The matrix whose rows these are; a new one if they do not lie one after the other in one storage."""
    first, n = shards[0], shards[0].numel()
    storage, begin = first.untyped_storage()._cdata, first.storage_offset()
    places = [(shard.untyped_storage()._cdata, shard.storage_offset()) for shard in shards]
    if places == [(storage, begin + i * n) for i in range(len(shards))]:
        return first.as_strided((len(shards), n), (n, 1))
    return torch.stack(list(shards))
