"""The algorithms by name: what each can do, and how it is made for a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from gaudi3_rt import _config
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.reduce._collectives import AllReduce, ReduceScatter, Ring
from gaudi3_rt.reduce._compress import Wire
from gaudi3_rt.reduce._exchange import Exchange, Scratch, Shares
from gaudi3_rt.reduce._hierarchy import Hierarchy
from gaudi3_rt.reduce._layout import Bucket, Slice
from gaudi3_rt.reduce._pipeline import DEPTH, Algorithm
from gaudi3_rt.reduce._shard_sums import ShardSums
from gaudi3_rt.reduce._transport import Transport

AlgorithmName: TypeAlias = Literal["all_reduce", "ring", "reduce_scatter", "hierarchical", "parameter_server", "tree"]


@dataclass(frozen=True)
class Recipe:
    """How buckets are reduced.

    Attributes:
        algorithm: its name.
        wire: how gradients travel.
        deterministic: sums are formed along the tree over the ranks.
        error_feedback: what rounding for the wire loses is added to the next step's gradient.
        group_size: ranks of a group of ``"hierarchical"``.
        shares: the logical shards of each rank.
    """

    algorithm: AlgorithmName
    wire: Wire | None
    deterministic: bool
    error_feedback: bool
    group_size: int
    shares: Shares

    def builder(self, transport: Transport | None) -> Builder:
        """Makes the algorithm for one bucket after the other."""
        return Builder(self, transport)


class Builder:
    """Makes the algorithms of the buckets of one layout, which share memory."""

    def __init__(self, recipe: Recipe, transport: Transport | None) -> None:
        self._recipe, self._transport = recipe, transport
        self._scratch = Scratch()

    def __call__(self, bucket: Bucket) -> tuple[list[Slice], Algorithm, ShardSums | None]:
        """What of a bucket each rank measures, how it is reduced, and where shards are summed up, if that is needed."""
        recipe, transport = self._recipe, self._transport
        world, rank = (transport.world, transport.rank) if transport else (1, 0)
        slices = bucket.cut(world)
        sums = None if recipe.shares.one_each else ShardSums(bucket, recipe.shares, rank)
        slot = bucket.index % (DEPTH + 1)
        adds_on_the_way = transport is not None and recipe.wire is None and not recipe.deterministic
        if transport and recipe.algorithm == "hierarchical":
            hierarchy = Hierarchy(
                bucket,
                slices,
                recipe.group_size,
                transport,
                recipe.wire,
                error_feedback=recipe.error_feedback,
                scratch=self._scratch,
                slot=slot,
            )
            # Slices in the order of the ranks that own them.
            n_groups = world // recipe.group_size
            return (
                [slices[r % recipe.group_size * n_groups + r // recipe.group_size] for r in range(world)],
                hierarchy,
                sums,
            )
        if transport and adds_on_the_way:
            if recipe.algorithm == "all_reduce":
                return slices, AllReduce(transport), sums
            if recipe.algorithm == "reduce_scatter":
                return slices, ReduceScatter(bucket, transport), sums
            if recipe.algorithm == "ring":
                return slices, Ring(bucket, slices, transport), sums
        if recipe.algorithm == "parameter_server":
            slices = bucket.given_to(bucket.index % world, world)
        exchange = Exchange(
            bucket,
            slices,
            recipe.shares,
            transport,
            recipe.wire,
            error_feedback=recipe.error_feedback,
            scratch=self._scratch,
            slot=slot,
        )
        return slices, exchange, sums


def recipe(
    algorithm: str,
    wire: str | torch.dtype | None,
    world: int,
    *,
    deterministic: bool,
    error_feedback: bool | None,
    logical_shards: int | None,
    group_size: int | None,
) -> Recipe:
    """Checks what was asked for.

    Raises:
        ParameterValidationError: something is not allowed, or does not go together.
    """
    names = get_args(AlgorithmName)
    wires = {None: None, "bfloat16": "bfloat16", torch.bfloat16: "bfloat16", "int8": "int8", torch.int8: "int8"}
    n_shards = world if logical_shards is None else logical_shards
    local = group_size if algorithm == "hierarchical" else 1
    if local is None:
        local = _local_world_size() or world
    is_power = local > 0 and local & (local - 1) == 0
    for allowed, message in (
        (algorithm in names, f"algorithm={algorithm!r}: has to be one of {', '.join(names)}"),
        (wire in wires, f"wire={wire!r}: has to be None, 'bfloat16' or 'int8' (or torch's dtypes of these names)"),
        (
            algorithm != "ring" or not (deterministic or wire),
            (
                "algorithm='ring' adds up at every hop, in an order and with roundings of its own; for a wire or "
                "deterministic=True take 'all_reduce', 'reduce_scatter', 'hierarchical', 'parameter_server' or 'tree'"
            ),
        ),
        (
            logical_shards is None or algorithm == "tree",
            f"logical_shards={logical_shards!r} is for algorithm='tree', not {algorithm!r}",
        ),
        (
            n_shards >= world,
            f"logical_shards={logical_shards!r} on {world} ranks: there have to be at least as many shards as ranks",
        ),
        (
            group_size is None or algorithm == "hierarchical",
            f"group_size={group_size!r} is for algorithm='hierarchical', not {algorithm!r}",
        ),
        (
            local >= 1 and world % max(local, 1) == 0,
            f"groups of {local} ranks do not divide {world} ranks; give group_size (default: LOCAL_WORLD_SIZE)",
        ),
        (
            not (deterministic and algorithm == "hierarchical" and local < world) or is_power,
            (
                f"deterministic=True with groups of {local} ranks: the sum of a group is part of the tree over all "
                "ranks only if its size is a power of two"
            ),
        ),
        (
            error_feedback is None or wire is not None,
            f"error_feedback={error_feedback!r} is for a wire; without one nothing is lost",
        ),
    ):
        if not allowed:
            raise ParameterValidationError(message)
    found = wires[wire]
    feedback = found == "int8" if error_feedback is None else error_feedback
    return Recipe(algorithm, found, deterministic, feedback, local, Shares.of(n_shards, world))  # type: ignore[arg-type]


def _local_world_size() -> int | None:
    try:
        return _config.local_world_size()
    except ValueError as error:
        raise ParameterValidationError(str(error)) from error
