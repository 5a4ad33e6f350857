"""The layout of ``habana_frameworks.torch.hpex.optimizers``: the count is in the group, and 0 for each parameter.

Adagrad counts in the group too, in a tensor ``step_t``, and takes its learning rate from ``lr_t`` there. SGD has the
layout of torch. Source: the vendor's classes in gaudi-pytorch-bridge 1.19.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.compat import hpex
from gaudi3_rt.numerics.convert import _reading, _torch, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, with_class
from gaudi3_rt.numerics.convert._scheme import Losses, Scheme, count, entries, keys_of, same_names

_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "bias_correction": True}
_OLD_NAME = "correct_bias"
_ADAGRAD = {"lr_t", "step_t"}

FORMULA = "eps is added to the root of the second moment before bias correction"
"""Where AdamW differs from that of ``torch.optim``."""

ADAMW = Scheme(
    library="hpex",
    moments={"adam": {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}},
    options={"adam": _ADAM},
    step="group",
    decoupled="always",
)
OTHERS = Scheme(
    library="hpex",
    moments=same_names("sgd", "adagrad"),
    options={name: _torch.OPTIONS[name] for name in ("sgd", "adagrad")},
    step="tensor",
    uncounted=frozenset({"sgd"}),
)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    group_keys, state_keys = keys_of(state_dict)
    if group_keys >= _ADAGRAD:
        return ("groups have lr_t and step_t: Adagrad",)
    groups = state_dict["param_groups"]
    counts = [count(group["step"], "a group") for group in groups if "step" in group]
    updated = [group for group in groups if any(state_dict["state"].get(key) for key in group["params"])]
    kept = state_keys == {"step", "exp_avg", "exp_avg_sq"} and all("step" in group for group in updated)
    shown = ", ".join(map(str, counts))
    if kept and {"betas", "amsgrad", "maximize"} <= group_keys and "bias_correction" not in group_keys:
        return (f"groups count steps ({shown}), as FusedAdamW does when it goes on from a state of torch.optim",)
    name = _OLD_NAME if _OLD_NAME in group_keys else "bias_correction"
    others = group_keys & {"amsgrad", "maximize", "grad_averaging"}
    if others or not _ADAM.keys() - {"bias_correction"} <= group_keys or name not in group_keys:
        return ()
    if not entries(state_dict):
        return (f"groups have {name}, and nothing was updated yet",)
    if not kept or any(count(entry["step"], "a parameter") for entry in entries(state_dict)):
        return ()
    return (f"groups have {name} and count steps ({shown}); each parameter's own count is 0",)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups and moments; each parameter gets the count of its group."""
    group_keys, _ = keys_of(state_dict)
    if group_keys & {"momentum", "lr_decay"}:
        return _reading.read(OTHERS, _adagrad(state_dict) if group_keys >= _ADAGRAD else state_dict, request)
    groups = [
        {("bias_correction" if key == _OLD_NAME else key): value for key, value in group.items()}
        for group in state_dict["param_groups"]
    ]
    state = _reading.read(ADAMW, {**state_dict, "param_groups": groups}, request)
    stale = {count(entry.get("step", 0), "a parameter") for entry in entries(state_dict)} - {0}
    if not stale or request.step is not None:
        return state
    note = (
        f"parameters have counts of up to {max(stale)} that FusedAdamW does not use; taken are those of the groups, "
        "with which it corrected bias: give step= for the number of all updates"
    )
    return replace(state, notes=(*state.notes, note))


def _adagrad(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """In torch's layout; of two counts the larger, as the vendor's class advances the group's, ours the parameter's."""
    state, groups = dict(state_dict["state"]), []
    for number, group in enumerate(state_dict["param_groups"]):
        steps = count(group["step_t"], f"group {number}")
        for key in group["params"]:
            if entry := state.get(key):
                state[key] = {**entry, "step": max(steps, count(entry.get("step", 0), f"parameter {key}"))}
        rate = float(group["lr_t"])
        same = rate == float(torch.tensor(group["lr"], dtype=torch.float32))
        plain = {key: value for key, value in group.items() if key not in _ADAGRAD}
        groups.append(plain if same else {**plain, "lr": rate})
    return {"state": state, "param_groups": groups}


def write(state: OptimizerState, request: Request) -> Written:
    """As the vendor's class and ``gaudi3_rt.compat.hpex`` load it."""
    if state.algorithm == "adagrad":
        return _write_adagrad(state, _writing.write(OTHERS, state, request))
    if state.algorithm != "adam":
        return _writing.write(OTHERS, state, request)
    written = _writing.write(ADAMW, state, request)
    for entry in written.state_dict["state"].values():
        entry["step"] = 0
    return written


def _write_adagrad(state: OptimizerState, written: Written) -> Written:
    """With the count and the rate of each group in tensors as well."""
    lost = Losses()
    for own, group in zip(written.state_dict["param_groups"], state.groups, strict=True):
        steps = max((param.step for param in group.params), default=0)
        own["lr_t"] = torch.tensor([own["lr"]], dtype=torch.float32)
        own["step_t"] = torch.tensor([steps], dtype=torch.int32)
        for param in group.params:
            if param.moments and param.step != steps:
                lost.add(f"the step count of {{}}: hpex has one for a group, {steps}", f"{param} ({param.step})")
    return replace(written, lost=(*written.lost, *lost.texts()))


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by the vendor's formula in float32; ``params`` are updated in place."""
    own: Mapping[str, Any] = state_dict
    if optimizer == "Adagrad":
        own = _adagrad(state_dict) if keys_of(state_dict)[0] >= _ADAGRAD else state_dict
    elif optimizer != "SGD":
        known = {*_ADAM, _OLD_NAME, "step", "params"}
        groups = [{k: v for k, v in group.items() if k in known} for group in state_dict["param_groups"]]
        groups = [group if _OLD_NAME in group else {"bias_correction": True, **group} for group in groups]
        state = {key: {**entry, "step": 0} for key, entry in state_dict["state"].items()}
        own = {"state": state, "param_groups": groups}
    return with_class(lambda groups: getattr(hpex, f"Fused{optimizer}")(groups, lr=0.0), own, params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"gaudi3_rt.compat.hpex.Fused{optimizer}, a model of the vendor's class"
