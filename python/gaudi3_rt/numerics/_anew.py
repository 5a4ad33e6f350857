"""The subject beside itself, made anew: what options do is then told apart from what formula it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, checkpoint, give


class Anew:
    """The subject, constructed for each step with the options of that step, and given the state of the one before.

    Has the attributes and the ``step`` of ``Reference``. Groups are optimizers of their own, unless the formula makes
    them depend on one another.

    Args:
        bench: see there.
        groups: as for ``Reference``.
        made: those that the subject has made of them, whose options are used where ``groups`` have none.
    """

    def __init__(self, bench: Bench, groups: Sequence[dict[str, Any]], made: Sequence[dict[str, Any]]) -> None:
        self._bench = bench
        self._members = [[bench.parameter(p) for p in group["params"]] for group in groups]
        self.params: list[Tensor] = [p for members in self._members for p in members]
        self.param_groups = [bench.options({k: x for k, x in group.items() if k != "params"}) for group in groups]
        for options, group, own in zip(self.param_groups, groups, made, strict=True):
            taken = own.keys() & options.keys() - group.keys()
            options.update({name: own[name] for name in taken if not isinstance(own[name], Tensor)})
        every = range(len(groups))
        self._parts = [list(every)] if "max_grad_norm" in bench.spec.defaults else [[i] for i in every]
        self._saved: list[dict[str, Any] | None] = [None] * len(self._parts)

    def _made(self, part: list[int]) -> torch.optim.Optimizer:
        if len(part) == 1:
            return self._bench.optimizer(self._members[part[0]], **self.param_groups[part[0]])
        return self._bench.optimizer([{"params": self._members[j], **self.param_groups[j]} for j in part])

    def step(self, grads: Sequence[Tensor | None]) -> None:
        """Takes one step."""
        give(self.params, grads)
        for i, part in enumerate(self._parts):
            optimizer = self._made(part)
            saved = self._saved[i]
            if saved is not None:
                optimizer.load_state_dict(saved)
            for group, j in zip(optimizer.param_groups, part, strict=True):
                _set(group, self.param_groups[j])
            optimizer.step()
            self._saved[i] = checkpoint(optimizer)


def _set(group: dict[str, Any], options: dict[str, Any]) -> None:
    """Changes options as torch's schedulers do: an option that is a tensor stays the same tensor."""
    for name, value in options.items():
        if isinstance(group.get(name), Tensor):
            group[name].fill_(value)
        else:
            group[name] = value
