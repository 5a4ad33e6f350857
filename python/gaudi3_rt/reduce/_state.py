"""What a reducer carries from one step to the next: to be laid out anew with its buckets, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.reduce._buffers import memory_order
from gaudi3_rt.reduce._exchange import Lost
from gaudi3_rt.reduce._layout import Segment

Runs = Iterable[tuple[Segment, Tensor]]


class Residuals:
    """What rounding for the wire has lost, by the number of the parameter.

    Attributes:
        contributions: float32, a row for each contribution of this rank, of the parameter's shape.
        means: the same, one row, of the means that this rank has formed. Zero where other ranks have, in both.
    """

    def __init__(self, contributions: dict[int, Tensor], means: dict[int, Tensor]) -> None:
        self.contributions, self.means = contributions, means

    @classmethod
    def of(cls, lost: Lost, params: Sequence[Tensor]) -> Residuals:
        """Copies."""
        return cls(_collected(lost.contributions, params), _collected(lost.means, params))

    def whole_means(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Of every parameter, so that they can be added up over ranks, in place."""
        for number, param in enumerate(params):
            if number not in self.means:
                self.means[number] = torch.zeros((1, *param.shape), dtype=torch.float32, device=param.device)
            self.means[number] = self.means[number].contiguous()
        return [self.means[number] for number in range(len(params))]

    def spread(self, lost: Lost, params: Sequence[Tensor]) -> None:
        """The reverse of ``of``, perhaps into other buckets; what is of no parameter that is known stays as it is."""
        _spread(self.contributions, lost.contributions, params)
        _spread(self.means, lost.means, params)

    def named(self, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """To be saved."""
        parts = {"contributions": self.contributions, "means": self.means}
        return {part: {names[number]: rows for number, rows in of.items()} for part, of in parts.items()}

    @classmethod
    def loaded(cls, saved: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> Residuals:
        """The reverse of ``named``."""
        numbers = {name: number for number, name in enumerate(names)}
        contributions, means = (
            {numbers[name]: rows for name, rows in saved[part].items()} for part in ("contributions", "means")
        )
        return cls(contributions, means)


def _collected(runs: Runs, params: Sequence[Tensor]) -> dict[int, Tensor]:
    flat: dict[int, Tensor] = {}
    for segment, rows in runs:
        number = segment.param
        if number not in flat:
            flat[number] = rows.new_zeros((len(rows), params[number].numel()))
        flat[number][:, segment.offset : segment.offset + rows.shape[1]] = rows
    found = {}
    for number, rows in flat.items():
        order = _order(params[number])
        shape = [params[number].shape[d] for d in order]
        found[number] = rows.view(len(rows), *shape).permute(0, *(1 + order.index(d) for d in range(len(order))))
    return found


def _spread(found: Mapping[int, Tensor], runs: Runs, params: Sequence[Tensor]) -> None:
    flat = {
        number: rows.permute(0, *(1 + d for d in _order(params[number]))).reshape(len(rows), params[number].numel())
        for number, rows in found.items()
    }
    for segment, rows in runs:
        if segment.param in flat:
            rows.copy_(flat[segment.param][:, segment.offset : segment.offset + rows.shape[1]])


def check(
    state: Mapping[str, Any], settings: Mapping[str, Any], names: Sequence[str], params: Sequence[Tensor]
) -> None:
    """Refuses a saved state that does not belong to a reducer.

    Args:
        state: from ``GradientReducer.state_dict()``.
        settings: what has to be as it was.
        names: of the parameters.
        params: the parameters.

    Raises:
        ParameterValidationError: it says what differs.
    """
    missing = {"settings", "steps", "order", "residuals"} - state.keys()
    if missing:
        msg = f"this is no state of a GradientReducer: it has no {', '.join(sorted(missing))}"
        raise ParameterValidationError(msg)
    for name, value in settings.items():
        saved = state["settings"].get(name)
        if saved != value:
            msg = (
                f"the state was saved with {name}={saved!r}, and here {name}={value!r}: a rank loads what it has saved "
                "itself, with the same arguments. Without a state, a reducer begins with nothing lost"
            )
            raise ParameterValidationError(msg)
    order = names if state["order"] is None else state["order"]
    residuals = [item for part in ("contributions", "means") for item in state["residuals"][part].items()]
    strange = sorted({*order, *(name for name, _ in residuals)} - set(names)) or sorted(set(names) - set(order))
    if strange or len(order) != len(names):
        msg = f"the state is of {len(order)} parameters, here there are {len(names)}; in one only: {strange[:3]}"
        raise ParameterValidationError(msg)
    shape_of = {name: param.shape for name, param in zip(names, params, strict=True)}
    for name, rows in residuals:
        if rows.shape[1:] != shape_of[name]:
            shapes = tuple(rows.shape[1:]), tuple(shape_of[name])
            msg = f"{name!r} had shape {shapes[0]} when the state was saved, and has {shapes[1]} here"
            raise ParameterValidationError(msg)


def _order(param: Tensor) -> list[int]:
    """The dimensions as a bucket has them; see ``Buffers``."""
    return list(memory_order(param) or range(param.dim()))
