"""Gradients of micro-batches added up in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.reduce._checks import check_written
from gaudi3_rt.reduce._transfers import transfer


@torch.no_grad()
def accumulate_(main_grad: Tensor | Sequence[Tensor], grad: Tensor | Sequence[Tensor], *, scale: float = 1.0) -> None:
    """``main_grad += scale * grad`` in float32, for one pair of tensors or for lists of them.

    The product is rounded to float32, then the sum.

    Args:
        main_grad: float32; a tensor or a sequence of them.
        grad: float32, bfloat16 or float16, of the same shapes.
        scale: rounded to float32.

    Raises:
        ValueError: numbers of tensors, shapes, dtypes or devices do not agree, or what is written shares memory with
            something else. Nothing has been written then.
    """
    mains = [main_grad] if isinstance(main_grad, Tensor) else list(main_grad)
    grads = [grad] if isinstance(grad, Tensor) else list(grad)
    if len(mains) != len(grads):
        msg = f"{len(mains)} main gradients for {len(grads)} gradients: there has to be one for each"
        raise ValueError(msg)
    for i, main in enumerate(mains):
        check_written(f"main gradient {i}", main)
        if main.dtype != torch.float32:
            msg = f"main gradient {i} is {main.dtype}: it has to be float32"
            raise ValueError(msg)
    transfer("accumulate", [part.detach() for part in grads], [main.detach() for main in mains], scale)
