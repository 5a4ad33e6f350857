"""Ranges of hyper-parameters, for optimizers that torch does not have and so does not check."""

from __future__ import annotations

from torch import Tensor


def check_not_negative(**values: float | Tensor) -> None:
    """Refuses a negative number, or NaN.

    Raises:
        ValueError: the name and the number.
    """
    for name, value in values.items():
        if not value >= 0:
            msg = f"{name}={value!r}: must be a number >= 0"
            raise ValueError(msg)


def check_betas(betas: tuple[float | Tensor, ...]) -> None:
    """Refuses decay rates outside of [0, 1).

    Raises:
        ValueError: the rates.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):  # noqa: PLR2004 (two moments)
        msg = f"betas={betas!r}: must be two numbers in [0, 1)"
        raise ValueError(msg)
