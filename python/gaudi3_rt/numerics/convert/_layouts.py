"""Which layouts there are, and which of them a ``state_dict`` has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert import _apex, _bitsandbytes, _deepspeed, _gaudi3_rt, _hpex, _torch, _torchao
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients
from gaudi3_rt.numerics.convert._scheme import entries, keys_of


class Layout(Protocol):
    """What each module of a layout has."""

    def recognise(self, state_dict: Mapping[str, Any]) -> tuple[str, ...]:
        """What shows that a ``state_dict`` is of this layout; nothing if it is not."""

    def read(self, state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
        """Its groups, counts and moments."""

    def write(self, state: OptimizerState, request: Request) -> Written:
        """A ``state_dict`` of this layout."""

    def continued(
        self, state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
    ) -> dict[str, Any]:
        """The ``state_dict`` after updates with these gradients; ``params`` are updated in place."""

    def ran(self, state_dict: Mapping[str, Any], optimizer: str) -> str:
        """What ``continued`` runs."""


LAYOUTS: Mapping[str, Layout] = {
    "torch": _torch,
    "gaudi3_rt": _gaudi3_rt,
    "hpex": _hpex,
    "apex": _apex,
    "deepspeed": _deepspeed,
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
}
"""By the name of the library."""

DECOUPLED_ONLY = frozenset({"hpex", "bitsandbytes"})
"""Libraries whose Adam decays like AdamW, whatever it is called."""

FORMULAS: Mapping[str, str] = {"hpex": _hpex.FORMULA, "torchao": _torchao.FORMULA}
"""Where AdamW of a library is not that of ``torch.optim``."""


def layout_of(name: str, what: str) -> Layout:
    """A layout by name.

    Raises:
        ParameterValidationError: there is none of this name.
    """
    if name not in LAYOUTS:
        message = f"{what}={name!r}: must be one of {', '.join(LAYOUTS)}" + (" or auto" if what == "source" else "")
        raise ParameterValidationError(message)
    return LAYOUTS[name]


def check_form(state_dict: Any) -> None:
    """Refuses what is not the ``state_dict`` of an optimizer.

    Raises:
        DataValidationError: what was seen instead.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        keys = sorted(map(str, state_dict))[:10] if isinstance(state_dict, Mapping) else type(state_dict).__name__
        message = f"no state_dict of an optimizer: seen are {keys}, needed are state and param_groups"
        raise DataValidationError(message)
    groups, state = state_dict["param_groups"], state_dict["state"]
    well_formed = (
        isinstance(groups, Sequence)
        and groups
        and all(isinstance(g, Mapping) and isinstance(g.get("params"), Sequence) for g in groups)
        and isinstance(state, Mapping)
        and all(isinstance(entry, Mapping) for entry in state.values())
    )
    if not well_formed:
        message = (
            "no state_dict of an optimizer: param_groups must be a list of dicts with params, one or more, and state a "
            "dict of dicts"
        )
        raise DataValidationError(message)
    for number, group in enumerate(groups):
        names = group.get("param_names") or group["params"]
        if not isinstance(names, Sequence) or len(names) != len(group["params"]):
            message = f"group {number} has {len(group['params'])} params, and param_names that are not as many"
            raise DataValidationError(message)
    keys = [key for group in groups for key in group["params"]]
    if any(not isinstance(key, int | str) for key in keys) or len(set(keys)) != len(keys):
        message = "params of param_groups must be numbers or names, each once in all groups together"
        raise DataValidationError(message)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The name of the layout, and what shows it.

    Raises:
        DataValidationError: none is known, or more than one fits.
    """
    found = {name: evidence for name, layout in LAYOUTS.items() if (evidence := layout.recognise(state_dict))}
    if len(found) == 1:
        return next(iter(found.items()))
    group_keys, state_keys = keys_of(state_dict)
    lr = {type(group.get("lr")).__name__ for group in state_dict["param_groups"]}
    steps = {type(entry["step"]).__name__ for entry in entries(state_dict) if "step" in entry}
    seen = (
        f"groups have the keys {sorted(group_keys)} (lr: {', '.join(sorted(lr))}), states the keys "
        f"{sorted(state_keys) or 'none, there is none yet'}" + (f" (step: {', '.join(sorted(steps))})" if steps else "")
    )
    if found:
        fits = "; ".join(f"{name}: {', '.join(evidence)}" for name, evidence in found.items())
        message = f"the layout may be that of {' or '.join(found)} ({fits})"
        raise DataValidationError(message, suggestions=(f"Give source=, one of {', '.join(found)}",))
    message = f"the layout is not known: {seen}"
    raise DataValidationError(
        message, suggestions=(f"Give source= if it is one of {', '.join(LAYOUTS)}", "Other layouts are not converted")
    )
