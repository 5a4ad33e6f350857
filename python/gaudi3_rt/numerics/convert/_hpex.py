"""The layout of ``habana_frameworks.torch.hpex.optimizers``: the count is in the group, and 0 for each parameter.

SGD and Adagrad of that package have torch's layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gaudi3_rt.compat import hpex
from gaudi3_rt.numerics.convert import _reading, _torch, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, with_class
from gaudi3_rt.numerics.convert._scheme import Scheme, count, entries, keys_of, same_names

_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "bias_correction": True}
_OLD_NAME = "correct_bias"

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
    name = _OLD_NAME if _OLD_NAME in group_keys else "bias_correction"
    if not _ADAM.keys() - {"bias_correction"} <= group_keys or name not in group_keys:
        return ()
    if group_keys & {"amsgrad", "maximize", "grad_averaging"}:
        return ()
    found = entries(state_dict)
    if not found:
        return (f"groups have {name}, and nothing was updated yet",)
    if state_keys != {"step", "exp_avg", "exp_avg_sq"} or "step" not in group_keys:
        return ()
    if any(count(entry["step"], "a parameter") for entry in found):
        return ()
    counts = [count(group["step"], "a group") for group in state_dict["param_groups"]]
    return (f"groups have {name} and count steps ({', '.join(map(str, counts))}); each parameter's own count is 0",)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups and moments; each parameter gets the count of its group."""
    if "momentum" in state_dict["param_groups"][0] or "lr_decay" in state_dict["param_groups"][0]:
        return _reading.read(OTHERS, state_dict, request)
    groups = [
        {("bias_correction" if key == _OLD_NAME else key): value for key, value in group.items()}
        for group in state_dict["param_groups"]
    ]
    return _reading.read(ADAMW, {**state_dict, "param_groups": groups}, request)


def write(state: OptimizerState, request: Request) -> Written:
    """As the vendor's class and ``gaudi3_rt.compat.hpex`` load it."""
    if state.algorithm != "adam":
        return _writing.write(OTHERS, state, request)
    written = _writing.write(ADAMW, state, request)
    for entry in written.state_dict["state"].values():
        entry["step"] = 0
    return written


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by the vendor's formula in float32; ``params`` are updated in place."""
    return with_class(lambda groups: getattr(hpex, f"Fused{optimizer}")(groups, lr=0.0), state_dict, params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"gaudi3_rt.compat.hpex.Fused{optimizer}, a model of the vendor's class"
