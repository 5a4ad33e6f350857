"""Gradients on an HPU: their norm, what clips it, and scaling, as tensors on the device, so that the host never waits.

Sums of squares are formed in float32: infinite beyond 3e38, and squares below 1.2e-38 may be lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gaudi3_rt.optim._hpu import MAX_ELEMENTS, SUFFIXES, Rows, call, finish, is_loaded
from gaudi3_rt.optim._sharding import Sharding

logger = logging.getLogger(__name__)

_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_


def reach(grads: Sequence[Tensor]) -> bool:
    """Whether the operators take all of these: they are loaded, and the tensors are plain ones on one device."""
    return (
        is_loaded()
        and len({grad.device for grad in grads}) == 1
        and all(grad.device.type == "hpu" and grad.dtype in SUFFIXES and grad.numel() <= MAX_ELEMENTS for grad in grads)
    )


def sum_squares(grads: Sequence[Tensor], shardings: Sequence[Sharding | None]) -> Tensor:
    """The sum of squares of all gradients of each sharding, over all shards.

    Args:
        grads: as ``reach`` allows, at least one.
        shardings: of each; ``None`` for one that is whole.

    Returns:
        One number for each sharding, in the order in which they first appear.
    """
    parts = [
        call(f"sum_squares_{SUFFIXES[grad.dtype]}", Rows.of(grad).read(grad))[0]
        if grad.numel() > 0
        else torch.zeros(1, device=grad.device)
        for grad in grads
    ]
    return _totals(parts, shardings)


def _totals(partials: Sequence[Tensor], shardings: Sequence[Sharding | None]) -> Tensor:
    """What members of a kernel have found in each gradient, summed up for each sharding, by collective calls."""
    of_shards: dict[Sharding | None, list[Tensor]] = {}
    for numbers, sharding in zip(partials, shardings, strict=True):
        of_shards.setdefault(sharding, []).append(finish(numbers))
    sums = []
    for sharding, numbers_of in of_shards.items():
        sums.append(finish(torch.cat(numbers_of)))
        if sharding is not None:
            sharding.complete_(sums[-1])
    return torch.cat(sums)


def clip_coefficient(squares: Tensor, max_norm: float, grad_factor: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """The norm, and ``min(1, max_norm / (norm + 1e-6))``, which clips it.

    Args:
        squares: sums of squares of gradients.
        max_norm: bound of the norm.
        grad_factor: gradients are thought to be multiplied by this.

    Returns:
        Two 0-d tensors.
    """
    if not isinstance(grad_factor, float) or grad_factor != 1:
        squares = squares * grad_factor * grad_factor  # the square of a small factor might be 0
    bound = max_norm if math.isinf(max_norm) else min(max_norm, torch.finfo(torch.float32).max)
    scalars = torch.tensor([bound, _EPS], dtype=torch.float32).to(squares.device)
    norm, coefficient = call("clip_coefficient_f32", squares, scalars)
    return norm.view(()), coefficient.view(())


def clip_coefficient_of(norm: Tensor, max_norm: float) -> Tensor:
    """The same coefficient for a norm on the device that is known: the root of its square has its bits."""
    known = one(norm, norm.device)
    return clip_coefficient(known * known, max_norm)[1]


def one(value: Tensor | float, device: torch.device) -> Tensor:
    """A number as operators take it; one that is on the device stays there."""
    return torch.as_tensor(value, dtype=torch.float32).to(device).reshape(1)


def scale_(grads: Iterable[Tensor], factor: Tensor | float) -> None:
    """Multiplies gradients by one number.

    Args:
        grads: as ``reach`` allows.
        factor: one element.
    """
    for grad in grads:
        if grad.numel() > 0:
            rows = Rows.of(grad)
            rows.write(grad, *call(f"scale_{SUFFIXES[grad.dtype]}", rows.read(grad), one(factor, grad.device)))


def unscale_(
    grads: Sequence[Tensor], shardings: Sequence[Sharding | None], inv_scale: Tensor | float, found_inf: Tensor
) -> None:
    """Multiplies gradients, and sets ``found_inf`` to 1 if an element of some shard was not finite before.

    Args:
        grads: as ``reach`` allows, at least one.
        shardings: of each.
        inv_scale: one element.
        found_inf: one element.
    """
    device = grads[0].device
    factor = one(inv_scale, device)
    counts = []
    for grad in grads:
        if grad.numel() == 0:
            counts.append(torch.zeros(1, device=device))
            continue
        rows = Rows.of(grad)
        scaled, nonfinite = call(f"unscale_{SUFFIXES[grad.dtype]}", rows.read(grad), factor)
        rows.write(grad, scaled)
        counts.append(nonfinite)
    (raised,) = call("found_inf_f32", _totals(counts, shardings), one(found_inf, device))
    found_inf.copy_(raised.view(found_inf.shape))


_announced: set[str] = set()


def announce(what: str) -> None:
    """Says once that torch's operations do something on the device."""
    if what not in _announced:
        _announced.add(what)
        hint = "" if is_loaded() else "; gaudi3_rt.hpu.load() loads those for float32 and bfloat16"
        logger.warning("no kernel for %s on device 'hpu': torch operations do it (same result, slower)%s", what, hint)
