"""Which parameter is which: names and shapes that a caller gives, and states matched with them by name or by order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert._records import Group, OptimizerState, Parameter

Named = tuple[str | None, tuple[int, ...] | None]
"""Name and shape of a parameter, as far as they are known."""

Match = Literal["auto", "name", "order"]


def named_groups(params: Any) -> tuple[tuple[Named, ...], ...]:
    """What was given as ``params``: by group, names and shapes in order.

    Args:
        params: names; pairs of a name and a tensor or shape, as ``model.named_parameters()``; a mapping of them, as
            ``model.state_dict()``; tensors; or groups with one of these as ``params``.

    Raises:
        ParameterValidationError: it is something else.
    """
    if isinstance(params, Mapping):
        return (tuple(_named(item) for item in params.items()),)
    items = list(params)
    if items and all(isinstance(item, Mapping) for item in items):
        return tuple(named_groups(group["params"])[0] for group in items)
    return (tuple(map(_named, items)),)


def _named(item: Any) -> Named:
    if isinstance(item, str):
        return item, None
    if isinstance(item, Tensor):
        return None, tuple(item.shape)
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], str):  # noqa: PLR2004 (a pair)
        shape = item[1].shape if isinstance(item[1], Tensor) else item[1]
        return item[0], tuple(map(int, shape))
    message = f"params has {item!r}; needed are names, tensors, or pairs of a name and a tensor or shape"
    raise ParameterValidationError(message)


def arrange(state: OptimizerState, groups: tuple[tuple[Named, ...], ...], match: Match) -> OptimizerState:
    """The state in the order of the given parameters, with their names.

    One list of parameters stands for all groups of the state: each keeps its own ones, in the order of the list.

    Raises:
        DataValidationError: parameters are missing, left over, or of another shape.
    """
    have_names = all(param.name is not None for param in state.params())
    wanted = [named for group in groups for named in group]
    if match == "name" and not (have_names and all(name for name, _ in wanted)):
        message = "match='name', but " + ("params has no names" if have_names else "the state_dict has no names")
        raise DataValidationError(message, suggestions=("Give match='order', if params is in the order of the state",))
    by_name = have_names and match != "order" and all(name for name, _ in wanted)
    own = list(state.params())
    found = _by_name(own, wanted) if by_name else _by_order(own, wanted)
    place = {id(param): position for position, param in enumerate(found)}
    named = {
        id(param): replace(param, name=name if name is not None else param.name)
        for param, (name, _) in zip(found, wanted, strict=True)
    }
    if len(groups) == 1:
        made = [
            replace(group, params=tuple(named[id(p)] for p in sorted(group.params, key=lambda p: place[id(p)])))
            for group in state.groups
        ]
    else:
        made = _regroup(state, groups, found, named)
    return replace(state, groups=tuple(made))


def _regroup(
    state: OptimizerState,
    groups: tuple[tuple[Named, ...], ...],
    found: list[Parameter],
    named: Mapping[int, Parameter],
) -> list[Group]:
    options = {id(param): group for group in state.groups for param in group.params}
    made = []
    rest = iter(found)
    for number, group in enumerate(groups):
        members = [next(rest) for _ in group]
        sources = {id(options[id(param)]): options[id(param)] for param in members}
        if len(sources) != 1:
            message = f"the parameters of group {number} of params are in {len(sources)} groups of the state_dict"
            raise DataValidationError(message, suggestions=("Give params the groups that the state_dict has",))
        made.append(replace(next(iter(sources.values())), params=tuple(named[id(param)] for param in members)))
    return made


def _by_name(own: list[Parameter], wanted: list[Named]) -> list[Parameter]:
    known = {param.name: param for param in own}
    names = [name for name, _ in wanted]
    missing = [name for name in names if name not in known]
    left = [name for name in known if name not in set(names)]
    if missing or left or len(known) != len(own) or len(set(names)) != len(names):
        message = (
            f"names differ: {_some(missing)} of params are not in the state_dict, {_some(left)} of the state_dict are "
            "not in params"
        )
        raise DataValidationError(message, suggestions=("Give params the names that the state_dict has, each once",))
    found = [known[name] for name in names]
    _check_shapes(found, wanted)
    return found


def _by_order(own: list[Parameter], wanted: list[Named]) -> list[Parameter]:
    if len(own) != len(wanted):
        message = f"the state_dict has {len(own)} parameters, params has {len(wanted)}; they must match"
        raise DataValidationError(message)
    _check_shapes(own, wanted)
    return own


def _check_shapes(found: Iterable[Parameter], wanted: Iterable[Named]) -> None:
    for param, (name, shape) in zip(found, wanted, strict=True):
        if shape is not None and param.shape is not None and param.shape != shape:
            message = f"the state of {param} has shape {param.shape}, {name or 'the parameter of params'} has {shape}"
            raise DataValidationError(message, suggestions=("Give params in the order of the optimizer's groups",))


def _some(names: Sequence[Any]) -> str:
    return "none" if not names else ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" * (len(names) > 3))  # noqa: PLR2004 (a few)
