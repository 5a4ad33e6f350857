"""The layout of ``gaudi3_rt.optim``: torch's, with blocks of codes, masters and averages beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt import __version__, optim
from gaudi3_rt._core import BLOCK
from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import _reading, _torch, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, with_class
from gaudi3_rt.numerics.convert._scheme import Entry, Scheme, keys_of, same_names
from gaudi3_rt.numerics.convert._values import Values
from gaudi3_rt.optim._storage import decode

_POSITIVE = {"exp_avg_sq", "max_exp_avg_sq", "sum"}
_NAMES = same_names("adam", "sgd", "lion", "adagrad")
_CODES = frozenset(f"{name}_{part}" for names in _NAMES.values() for name in names for part in ("codes", "scales"))
_BESIDE = frozenset({"param_low", "param_master", "ema"})

SCHEME = Scheme(
    library="gaudi3_rt.optim",
    moments=_NAMES,
    options={**_torch.OPTIONS, "lion": {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0, "maximize": False}},
    step="tensor",
    uncounted=frozenset({"sgd"}),
    decoupled="option",
    beside=_CODES,
)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not, or if it is torch's as well."""
    group_keys, state_keys = keys_of(state_dict)
    if own := state_keys & (_CODES | _BESIDE):
        return (f"states have {', '.join(sorted(own))}",)
    lion = {"lr", "betas", "weight_decay", "maximize"}
    if lion <= group_keys and not group_keys & {"eps", "amsgrad"} and state_keys in ({"step", "exp_avg"}, set()):
        return (f"groups have {', '.join(sorted(lion))} and no eps: Lion, which torch does not have",)
    return ()


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups, counts and moments; blocks become float32."""
    named = {
        key: {name.removesuffix("_codes"): value for name, value in entry.items()}
        if any(str(name) in _CODES for name in entry)
        else entry
        for key, entry in state_dict["state"].items()
    }
    return _reading.read(SCHEME, {**state_dict, "state": named}, request, _moment)


def _moment(name: str, entry: Entry, where: str) -> Values | None:
    scales = entry.get(f"{name}_scales")
    if scales is None:
        return _reading.plain_moment(name, entry, where)
    codes = entry[name]
    if not isinstance(codes, Tensor) or codes.element_size() != 1 or not isinstance(scales, Tensor):
        message = f"{name} of {where} is not in codes of 8 bits with scales"
        raise DataValidationError(message)
    return _decoded(codes, scales, positive=name in _POSITIVE)


def _decoded(codes: Tensor, scales: Tensor, *, positive: bool) -> Values:
    """Blocks are counted in the order of the codes' memory, which that of their indices need not be (channels_last)."""
    rows = codes.view(-1) if codes.is_contiguous() else codes
    memory, by_block = codes.as_strided((codes.numel(),), (1,)), scales.contiguous().view(-1, scales.shape[-1])

    def part(start: int, stop: int) -> Tensor:
        each = math.prod(rows.shape[1:])
        first, last = start // each, -(-stop // each)
        wanted = rows[first:last]
        at = first * rows.stride(0)
        end = at + 1 + sum((size - 1) * stride for size, stride in zip(wanted.shape, wanted.stride(), strict=True))
        low, high = at // BLOCK, -(-end // BLOCK)
        values = decode(memory[low * BLOCK : high * BLOCK], by_block[low:high], positive=positive)
        own = values.as_strided(wanted.shape, wanted.stride(), at - low * BLOCK)
        return own.reshape(-1)[start - first * each : stop - first * each]

    return Values(tuple(codes.shape), torch.float32, part)


def write(state: OptimizerState, request: Request) -> Written:
    """As ``gaudi3_rt.optim`` loads it, into whatever storage the optimizer has."""
    return _writing.write(SCHEME, state, request)


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by our own class; blocks become float32; ``params`` are updated in place."""
    return with_class(lambda groups: getattr(optim, f"Fused{optimizer}")(groups, lr=0.0), state_dict, params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"gaudi3_rt.optim.Fused{optimizer} {__version__}"
