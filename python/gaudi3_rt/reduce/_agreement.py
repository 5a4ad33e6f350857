"""Whether all ranks reduce the same parameters in the same buckets, and start from the same values."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.reduce._layout import Layout
from gaudi3_rt.reduce._transport import Transport

MOST_NAMED = 3


def check_layout(
    transport: Transport, names: Sequence[str], params: Sequence[Tensor], settings: dict[str, Any], layout: Layout
) -> None:
    """Raises one error on all ranks if not all have the same parameters and settings.

    Args:
        transport: to the other ranks.
        names: of the parameters.
        params: the parameters.
        settings: arguments of the reducer that have to agree.
        layout: this rank's first buckets.

    Raises:
        ParameterValidationError: it names the ranks, and the first parameter and bucket that differ.
    """
    rows = [
        [name, str(param.dtype).removeprefix("torch."), list(param.shape), bucket]
        for name, param, bucket in zip(names, params, layout.bucket_of, strict=True)
    ]
    order = [number for bucket in layout.buckets for number in bucket.params]
    own = json.dumps({"settings": settings, "parameters": rows, "order": order})
    if len(set(_gathered(transport, hashlib.sha256(own.encode()).hexdigest()))) == 1:
        return
    texts = _gathered(transport, own)
    reference = _most_common(texts)
    others = [rank for rank, text in enumerate(texts) if text != reference]
    difference, bucket = _difference(json.loads(reference), json.loads(texts[others[0]]))
    msg = (
        f"{_ranks(others)} would reduce other gradients than rank {texts.index(reference)}: {difference}. All ranks "
        "have to give the same parameters, in the same order, with the same dtypes, and the same arguments"
    )
    raise ParameterValidationError(msg, context={"ranks": others, "bucket": bucket, "difference": difference})


def check_values(transport: Transport, names: Sequence[str], params: Sequence[Tensor]) -> None:
    """Raises one error on all ranks if the values of a parameter are not the same everywhere.

    Args:
        transport: to the other ranks.
        names: of the parameters.
        params: the parameters.

    Raises:
        DataValidationError: it names the ranks and the parameters that differ.
    """
    digests = _gathered(transport, [_digest(param) for param in params])
    if all(digest == digests[0] for digest in digests):
        return
    differing = {}
    others: set[int] = set()
    for name, of_ranks in zip(names, zip(*digests, strict=True), strict=True):
        usual = _most_common(of_ranks)
        ranks = [rank for rank, digest in enumerate(of_ranks) if digest != usual]
        if ranks:
            differing[name] = ranks
            others.update(ranks)
    shown = [f"{name!r} on {_ranks(ranks)}" for name, ranks in list(differing.items())[:MOST_NAMED]]
    more = len(differing) - len(shown)
    msg = (
        f"parameters differ between ranks: {', '.join(shown)}{f' and {more} more' * (more > 0)}. Start all ranks from "
        "one seed or one checkpoint, or broadcast the parameters of rank 0 before"
    )
    raise DataValidationError(msg, context={"ranks": sorted(others), "parameters": list(differing)})


def _gathered(transport: Transport, value: Any) -> list[Any]:
    return [json.loads(text) for text in transport.gather_texts(json.dumps(value))]


def _digest(param: Tensor) -> str:
    data: Any = param.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _most_common(values: Sequence[Any]) -> Any:
    """What most ranks have; of equally many, what the first rank has."""
    return Counter(values).most_common(1)[0][0]


def _difference(reference: dict[str, Any], other: dict[str, Any]) -> tuple[str, int | None]:
    for name, value in reference["settings"].items():
        if other["settings"][name] != value:
            return f"{name} is {other['settings'][name]!r} instead of {value!r}", None
    for i, (row, its) in enumerate(zip(reference["parameters"], other["parameters"], strict=False)):
        if row[:-1] != its[:-1]:
            (name, dtype, shape, bucket), (its_name, its_dtype, its_shape, _) = row, its
            seen = f"{its_name!r}, {its_dtype} {tuple(its_shape)}, instead of {name!r}, {dtype} {tuple(shape)}"
            return f"parameter {i}, in bucket {bucket}, is {seen}", bucket
    n, its_n = len(reference["parameters"]), len(other["parameters"])
    return "its buckets are in another order" if n == its_n else f"it has {its_n} parameters instead of {n}", None


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
