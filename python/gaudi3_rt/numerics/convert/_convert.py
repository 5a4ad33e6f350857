"""States of optimizers from one layout to another, with a certificate of what that does to the updates that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert import _zero
from gaudi3_rt.numerics.convert._certificate import Certificate
from gaudi3_rt.numerics.convert._layouts import DECOUPLED_ONLY, FORMULAS, check_form, layout_of, recognise
from gaudi3_rt.numerics.convert._measure import Measured, Side, measure
from gaudi3_rt.numerics.convert._names import Match, arrange, named_groups
from gaudi3_rt.numerics.convert._read_back import changed
from gaudi3_rt.numerics.convert._records import ALGORITHMS, OptimizerState, Request, class_of
from gaudi3_rt.numerics.convert._shards import Sharding, join, split
from gaudi3_rt.numerics.convert._values import Values

DEFAULT_STEPS = 8
"""Updates that a certificate compares."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``convert_state`` takes besides a state; see there."""

    source: str = "auto"
    target: str = "torch"
    optimizer: str | None = None
    params: Any = None
    match: Match = "auto"
    step: int | None = None
    moments_dtype: torch.dtype | None = None
    shards: int | None = None
    sharding: Sharding = "rows"
    allow_lossy: bool = False
    steps: int = DEFAULT_STEPS

    def __post_init__(self) -> None:
        """Refuses what no state could be converted with."""
        layout_of(self.target, "target")
        if self.source != "auto":
            layout_of(self.source, "source")
        _one_of("optimizer", self.optimizer, (None, *ALGORITHMS))
        _one_of("match", self.match, ("auto", "name", "order"))
        _one_of("sharding", self.sharding, ("rows", "flat"))
        for name, value, least in (("step", self.step, 0), ("shards", self.shards, 1), ("steps", self.steps, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                message = f"{name}={value!r}: must be a whole number, {least} or more"
                raise ParameterValidationError(message)
        floating = self.moments_dtype is None or self.moments_dtype in _DTYPES
        if not floating:
            message = f"moments_dtype={self.moments_dtype!r}: must be None or one of {', '.join(map(str, _DTYPES))}"
            raise ParameterValidationError(message)
        if self.moments_dtype is torch.uint8 and self.target != "bitsandbytes":
            message = f"moments_dtype=torch.uint8: codes of 8 bits are written for bitsandbytes, not for {self.target}"
            raise ParameterValidationError(message, suggestions=("Give torch.float32 or torch.bfloat16",))


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8)


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        message = f"{name}={value!r}: must be one of {', '.join(map(str, allowed))}"
        raise ParameterValidationError(message)


@dataclass(frozen=True)
class Conversion:
    """A converted state.

    Attributes:
        state_dicts: one for each shard; one if it is not sharded.
        certificate: what was measured.
    """

    state_dicts: tuple[dict[str, Any], ...]
    certificate: Certificate

    @property
    def state_dict(self) -> dict[str, Any]:
        """The only one.

        Raises:
            ValueError: there are several.
        """
        if len(self.state_dicts) != 1:
            message = f"there are {len(self.state_dicts)} shards; they are in state_dicts"
            raise ValueError(message)
        return self.state_dicts[0]


def convert_state(
    state_dict: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    source: str = "auto",
    target: str = "torch",
    *,
    optimizer: str | None = None,
    params: Any = None,
    match: Match = "auto",
    step: int | None = None,
    moments_dtype: torch.dtype | None = None,
    shards: int | None = None,
    sharding: Sharding = "rows",
    allow_lossy: bool = False,
    steps: int = DEFAULT_STEPS,
) -> Conversion:
    """Converts the state of an optimizer from the layout of one library to that of another.

    Nothing that is given is changed. Moments that need no conversion are those of ``state_dict`` and no copies.

    Args:
        state_dict: of the optimizer, or of each rank, in order: of FSDP2-like shards (``sharding="rows"``), of flat
            ones, or the ``optimizer_state_dict`` of files of ZeRO 1 and 2.
        source: ``"torch"``, ``"gaudi3_rt"``, ``"hpex"``, ``"apex"``, ``"deepspeed"``, ``"bitsandbytes"``,
            ``"torchao"``, or ``"auto"`` to recognise it.
        target: one of them.
        optimizer: the class, ``"AdamW"``, ``"Adam"``, ``"SGD"``, ``"Lion"`` or ``"Adagrad"``, for layouts that do not
            say it.
        params: the parameters of the optimizer that will load it, to match them and to name them: as
            ``model.named_parameters()``, or groups of such; flat shards and ZeRO need it for their shapes.
        match: parameters by ``"name"``, in ``"order"``, or ``"auto"``: by name where both sides have names.
        step: number of updates that were made, where the layout has lost it; replaces every count.
        moments_dtype: of the moments in the target; ``torch.uint8`` for codes of 8 bits (bitsandbytes); ``None``: as
            they are.
        shards: cut the target into this many.
        sharding: how shards are cut, those that are given and those that are made.
        allow_lossy: convert also if the target has no place for something, or would not go on as the source does.
        steps: updates to compare for the certificate.

    Returns:
        The converted state, and the certificate of what it does.

    Raises:
        DataValidationError: the layout is not known, ambiguous, or what is in it does not fit together; or something
            would be lost, or the target would not go on as the source, and ``allow_lossy`` is false; the certificate
            is ``error.context["certificate"]``. Also a ``ValueError``.
        ParameterValidationError: an argument is not allowed. Also a ``ValueError``.
    """
    options = Options(
        source=source,
        target=target,
        optimizer=optimizer,
        params=params,
        match=match,
        step=step,
        moments_dtype=moments_dtype,
        shards=shards,
        sharding=sharding,
        allow_lossy=allow_lossy,
        steps=steps,
    )
    ranks: list[Any] = list(state_dict) if isinstance(state_dict, list | tuple) else [state_dict]
    plans, certificate = plan(ranks, options)
    return Conversion(tuple(filled(one, Values.make) for one in plans), certificate)


def filled(planned: Any, make: Callable[[Any], Any], kind: type = Values) -> Any:
    """A planned ``state_dict`` with what is made in place of ``Values``, or of what another kind of plan has."""
    if isinstance(planned, kind):
        return make(planned)
    if isinstance(planned, dict):
        return {key: filled(item, make, kind) for key, item in planned.items()}
    return planned


def plan(ranks: Sequence[Mapping[str, Any]], options: Options) -> tuple[list[dict[str, Any]], Certificate]:
    """The target's ``state_dict`` for each shard, with ``Values`` that are not yet made, and the certificate."""
    if not ranks:
        message = "no state_dict was given"
        raise ParameterValidationError(message)
    named = None if options.params is None else named_groups(options.params)
    notes: tuple[str, ...] = ()
    if all(isinstance(rank, Mapping) and _zero.is_rank(rank) for rank in ranks):
        whole, notes = _zero.joined(ranks, named)
        in_it = {name for group in whole["param_groups"] for name in group["param_names"]}
        named = named and (tuple(item for group in named for item in group if item[0] in in_it),)
        ranks = [whole]
    for rank in ranks:
        check_form(rank)
    name, evidence = (options.source, ()) if options.source != "auto" else recognise(ranks[0])
    layout = layout_of(name, "source")
    request = Request(optimizer=options.optimizer, step=options.step)
    states = [layout.read(rank, request) for rank in ranks]
    state, original = states[0], ranks[0]
    if len(ranks) > 1:
        state = join(states, options.sharding, named)
        notes += (f"{len(ranks)} shards joined",)
    if options.step is not None:
        notes += (f"every count is the given one, {options.step}",)
    if len(ranks) > 1 or options.step is not None:
        original = layout.write(state, request).state_dict
        state = replace(state, groups=layout.read(original, replace(request, optimizer=class_of(state))).groups)
    if named is not None:
        state = arrange(state, named, options.match)
    target = layout_of(options.target, "target")
    towards = replace(request, moments_dtype=options.moments_dtype)
    written = target.write(state, towards)
    lost = state.lost + written.lost
    again = replace(request, optimizer=class_of(state), step=None)
    becomes_decoupled = again.optimizer == "Adam" and options.target in DECOUPLED_ONLY
    there = replace(again, optimizer="AdamW") if becomes_decoupled else again
    sides = Side(layout, original, again), Side(target, written.state_dict, there)
    measured = measure(state, *sides, options.steps)
    names = {param.key: param.name for param in layout.read(original, again).params()}
    differences = changed(state, names, target, written.state_dict, there)
    notes += state.notes + written.notes
    shards = [written]
    if options.shards is not None:
        shards = [target.write(one, towards) for one in split(state, options.shards, options.sharding)]
        notes += (f"cut into {options.shards} shards after it was measured",)
    certificate = _certificate((name, evidence), options, sides, state, measured, differences, lost, notes)
    _check_consent(certificate, options)
    return [shard.state_dict for shard in shards], certificate


def _check_consent(certificate: Certificate, options: Options) -> None:
    """Whoever loads the result does not see the certificate, so what it says against the conversion takes consent."""
    against = [f"{certificate.source} to {certificate.target} loses this: {'; '.join(certificate.lost)}"]
    against = against if certificate.lost else []
    if not certificate.reproduces:
        why = "; ".join(certificate.shortfall)
        against.append(f"{certificate.target} would not go on as {certificate.source} does: {why}")
    if against and not options.allow_lossy:
        message = f"{'; '.join(against)}; nothing was converted"
        consent = "Give allow_lossy=True (--allow-lossy) to convert all the same"
        raise DataValidationError(message, context={"certificate": certificate}, suggestions=(consent,))


def _certificate(
    found: tuple[str, tuple[str, ...]],
    options: Options,
    sides: tuple[Side, Side],
    state: OptimizerState,
    measured: Measured,
    differences: tuple[str, ...],
    lost: tuple[str, ...],
    notes: tuple[str, ...],
) -> Certificate:
    source, evidence = found
    differs: tuple[str, ...] = ()
    if state.algorithm == "adam" and FORMULAS.get(source) != FORMULAS.get(options.target):
        differs = tuple(f"{name}: {FORMULAS[name]}" for name in (source, options.target) if name in FORMULAS)
    ran = [
        side.layout.ran(side.state_dict, class_of(side.layout.read(side.state_dict, side.request))) for side in sides
    ]
    return Certificate(
        source=source,
        evidence=evidence,
        target=options.target,
        source_ran=ran[0],
        target_ran=ran[1],
        steps=options.steps,
        changed=differences,
        differs=differs,
        lost=lost,
        notes=notes,
        **vars(measured),
    )
