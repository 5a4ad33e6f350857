"""The layout of ``torchao.optim``: torch's names, a learning rate in a tensor, moments as tensors or as codes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics.convert import _codes, _reading, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, adam_moments, with_model
from gaudi3_rt.numerics.convert._scheme import Entry, Scheme, entries, keys_of, same_names
from gaudi3_rt.numerics.convert._values import Values, elements

_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
_BITS = 4

FORMULA = "bias corrections are rounded to float32, which in the first steps is a few parts in 100,000 of an update"
"""Where AdamW differs from that of ``torch.optim``."""

SCHEME = Scheme(
    library="torchao",
    moments=same_names("adam"),
    options={"adam": _ADAM},
    step="tensor",
)

CLASSES = tuple(
    f"torchao.optim.subclass_{file}.OptimState{name}"
    for file, name in (("8bit", "8bit"), ("4bit", "4bit"), ("fp8", "Fp8"))
)
"""Full names of the tensors that hold codes, as files have them."""


class Codes(torch.Tensor):
    """What a file has of such a tensor where torchao is not installed: its attributes, and nothing that it could do."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # torch declares no types
        """Refuses: only torchao computes with it."""
        message = f"{func} of a moment in codes of torchao"
        raise NotImplementedError(message)


def is_coded(value: Any) -> bool:
    """Whether it is a tensor of theirs that holds codes."""
    return isinstance(value, Tensor) and isinstance(getattr(value, "codes", None), Tensor)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    group_keys, state_keys = keys_of(state_dict)
    if any(is_coded(value) for entry in entries(state_dict) for value in entry.values()):
        return ("moments are tensors with codes and scale",)
    in_tensors = all(isinstance(group.get("lr"), Tensor) for group in state_dict["param_groups"])
    if not _ADAM.keys() <= group_keys or not in_tensors or group_keys & {"maximize", "bias_correction", "t_alpha"}:
        return ()
    if state_keys - {"step", *SCHEME.moments["adam"]}:
        return ()
    return ("groups have lr in a tensor and no maximize",)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups, counts and moments; codes become float32."""
    return _reading.read(SCHEME, state_dict, request, _moment)


def _moment(name: str, entry: Entry, where: str) -> Values | None:
    value: Any = entry.get(name)
    if not is_coded(value):
        return _reading.plain_moment(name, entry, where)
    return decoded(value)


def decoded(value: Any) -> Values:
    """What such a tensor stands for, float32."""
    shape, codes, scales = tuple(value.shape), value.codes, value.scale
    total = math.prod(shape)
    if codes.dtype is torch.uint8:
        packed = value.qmap.numel() == 2**_BITS
        return _codes.decoded(_unpacked(codes, total) if packed else codes, scales, value.qmap).window(0, shape)

    def part(start: int, stop: int) -> Tensor:
        return _codes.scaled(elements(codes, start, stop).to(torch.float32, copy=True), scales, start, total)

    return Values(shape, torch.float32, part)


def _unpacked(codes: Tensor, total: int) -> Values:
    """Two codes of each byte, the upper half first."""

    def part(start: int, stop: int) -> Tensor:
        pairs = elements(codes, start // 2, -(-stop // 2))
        return torch.stack([pairs >> _BITS, pairs & (2**_BITS - 1)], dim=-1).flatten()[start % 2 :][: stop - start]

    return Values((total,), torch.uint8, part)


def write(state: OptimizerState, request: Request) -> Written:
    """As its optimizers load it; moments in plain tensors, which they keep.

    Codes are made by the library itself: load the state into an optimizer that was made with it.
    """
    written = _writing.write(SCHEME, state, request)
    for group in written.state_dict["param_groups"]:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
    return written


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by a model of its function; ``params`` are updated in place."""
    state = {
        key: {name: decoded(value).make() if is_coded(value) else value for name, value in entry.items()}
        for key, entry in state_dict["state"].items()
    }
    return with_model(
        functools.partial(_update, decoupled=optimizer == "AdamW"), {**state_dict, "state": state}, params, gradients
    )


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:
    """What ``continued`` runs."""
    coded = any(is_coded(value) for entry in entries(state_dict) for value in entry.values())
    beside = ", its codes decoded once" if coded else ""
    return f"a model of torchao.optim.{optimizer}{beside}"


def _update(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any], *, decoupled: bool) -> None:
    """Float32; the root is corrected, then eps is added; the parameter is decayed first."""
    own["step"] += 1
    beta1, beta2 = group["betas"]
    if decoupled:
        param.sub_(group["lr"] * group["weight_decay"] * param)
    else:
        gradient = gradient + group["weight_decay"] * param
    first, second = adam_moments(gradient, own["exp_avg"], own["exp_avg_sq"], group["betas"])
    root = second
    if "max_exp_avg_sq" in own:
        root = torch.maximum(own["max_exp_avg_sq"].float(), second)
        own["max_exp_avg_sq"].copy_(root)
    denominator = root.sqrt() / (1 - beta2 ** own["step"]).sqrt() + group["eps"]
    param.sub_(group["lr"] * (first / (1 - beta1 ** own["step"])) / denominator)
    own["exp_avg"].copy_(first)
    own["exp_avg_sq"].copy_(second)
