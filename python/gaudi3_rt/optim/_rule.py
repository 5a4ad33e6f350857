"""How the parameters of a group are updated and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaudi3_rt import _core
from gaudi3_rt.optim._storage import Storage


@dataclass(frozen=True)
class Rule:
    """How the parameters of one group are updated and stored.

    Attributes:
        kernel: name of the kernel.
        hyper: its hyper-parameters, in its order.
        maximize: ascend instead of descend.
        group: index of the group, for errors.
        first_number: how many parameters the groups before have.
        storage: how parameters and moments are stored.
    """

    kernel: str
    hyper: Sequence[float]
    maximize: bool = False
    group: int = 0
    first_number: int = 0
    storage: Storage = Storage()  # noqa: RUF009 (frozen)

    # The rest of what the kernels' list asks for.

    @property
    def seed(self) -> int:
        """Of stochastic rounding."""
        return self.storage.seed

    @property
    def stochastic(self) -> list[str]:
        """Operands that are rounded stochastically."""
        return self.storage.stochastic(self.kernel)

    @property
    def beside_param(self) -> str | None:
        """The key of what is kept besides a bfloat16 parameter."""
        return self.storage.beside_param

    @property
    def average_weight(self) -> float | None:
        """The weight of the new parameter in its average."""
        return self.storage.average_weight

    def draws(self, keys: Sequence[str]) -> bool:
        """Whether a step that keeps these keys of state needs random numbers."""
        return bool(self.stochastic) or any(key.endswith("_codes") for key in keys)

    def keys(self, own: Mapping[str, Any]) -> list[str]:
        """The keys of a parameter's state, in the order in which its tensors are handed over."""
        names = _core.describe_kernel(self.kernel)["state"]
        keys = [key for name in names for key in (name, f"{name}_codes", f"{name}_scales") if key in own]
        wanted = [self.beside_param, "ema" if self.average_weight is not None else None]
        return keys + [key for key in wanted if key is not None and key in own]
