"""Files of DeepSpeed's ZeRO stages 1 and 2: one for each rank, in each a part of every group, as one flat tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert._names import Named
from gaudi3_rt.numerics.convert._values import Values, concatenated

_STATE = "base_optimizer_state"
_FRAGMENTS = "param_slice_mappings"


class Inert:
    """What a file has of an object of DeepSpeed: its attributes or arguments, and nothing that it could do."""

    def __init__(self, *args: Any) -> None:
        self.args = args


CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""Full names of the classes whose objects are in such files."""


def is_rank(state_dict: Mapping[str, Any]) -> bool:
    """Whether it is the part of one rank."""
    return _STATE in state_dict


def joined(
    ranks: Sequence[Mapping[str, Any]], named: tuple[tuple[Named, ...], ...] | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The ``state_dict`` of the optimizer inside, as if it had never been cut, and notes.

    Args:
        ranks: the parts of all ranks, in order.
        named: names and shapes of all parameters.

    Raises:
        DataValidationError: parts are missing or do not fit together, or shapes are not known.
    """
    expected = {count for rank in ranks if (count := _count(rank.get("partition_count"))) is not None}
    if expected and expected != {len(ranks)}:
        message = f"{len(ranks)} parts of ZeRO were given, but the state was cut into {sorted(expected)}"
        raise DataValidationError(message, suggestions=("Give the files of all data-parallel ranks, in order",))
    first = ranks[0][_STATE]
    if not isinstance(first, Mapping) or "param_groups" not in first:
        message = "the parts of ZeRO were saved with elastic_checkpoint, which drops lr, betas and the other options"
        raise DataValidationError(message, suggestions=("Save with elastic_checkpoint=false",))
    if any(_FRAGMENTS not in rank for rank in ranks):
        message = f"the parts of ZeRO have no {_FRAGMENTS}, which says where each parameter is"
        raise DataValidationError(
            message, suggestions=("Load and save them with DeepSpeed 0.8 or later, stage 1 or 2",)
        )
    shapes = {name: shape for group in named or () for name, shape in group if name is not None}
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for number, group in enumerate(first["param_groups"]):
        parts = [rank[_STATE]["state"].get(rank[_STATE]["param_groups"][number]["params"][0], {}) for rank in ranks]
        where = _fragments([rank[_FRAGMENTS][number] for rank in ranks])
        keys = list(range(len(state), len(state) + len(where)))
        for key, (name, pieces) in zip(keys, where.items(), strict=True):
            state[key] = {
                kind: _whole(kind, name, [part[kind] for part in parts], pieces, shapes.get(name))
                if isinstance(value, Tensor) and value.dim()
                else value
                for kind, value in parts[0].items()
            }
        groups.append({**group, "params": keys, "param_names": list(where)})
    notes = (
        f"{len(ranks)} parts of ZeRO joined; its float32 copies of the parameters belong to the model, not to this",
    )
    return {"state": state, "param_groups": groups}, notes


def _count(value: Any) -> int | None:
    """``partition_count`` is a number, or a list with one for each group."""
    counts = value if isinstance(value, list) else [value]
    return max((count for count in counts if isinstance(count, int)), default=None)


def _fragments(ranks: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, int, int]]]:
    """By name: rank, first element in the part of that rank, number of elements."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for rank, fragments in enumerate(ranks):
        for name, address in fragments.items():
            found.setdefault(name, []).append((rank, int(address.start), int(address.numel)))
    return found


def _whole(
    kind: str,
    name: str,
    parts: Sequence[Tensor],
    pieces: Sequence[tuple[int, int, int]],
    shape: tuple[int, ...] | None,
) -> Values:
    size = sum(numel for _, _, numel in pieces)
    if shape is None:
        message = f"ZeRO does not save shapes, and params has none for {name!r} ({size} elements)"
        raise DataValidationError(message, suggestions=("Give params=, e.g. model.named_parameters()",))
    if size != math.prod(shape):
        message = f"{kind} of {name!r} has {size} elements on all ranks together, its parameter has the shape {shape}"
        raise DataValidationError(message)
    if any(start + numel > parts[rank].numel() for rank, start, numel in pieces):
        message = f"{kind} of {name!r}: a rank has fewer elements than {_FRAGMENTS} says"
        raise DataValidationError(message, suggestions=("Give the files of all ranks in order, of one checkpoint",))
    return concatenated([Values.of(parts[rank]).window(start, (numel,)) for rank, start, numel in pieces], shape)
