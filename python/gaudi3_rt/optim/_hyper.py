"""A kernel's hyper-parameters, found by their names among an optimizer's options."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from gaudi3_rt import _core


def hyper_parameters(kernel: str, options: Mapping[str, Any]) -> list[float]:
    """The kernel's hyper-parameters, in its order.

    Args:
        kernel: name of the kernel.
        options: numbers or tensors of one element by name, such as a group of an optimizer; ``beta1``, ``beta2``, ...
            are also found as the members of ``betas``.

    Raises:
        KeyError: an option is missing.
    """
    betas = {f"beta{i}": beta for i, beta in enumerate(options.get("betas", ()), 1)}
    return [float(betas[name] if name in betas else options[name]) for name in _names(kernel)]


@functools.cache
def _names(kernel: str) -> tuple[str, ...]:
    return _core.describe_kernel(kernel)["hyper"]
