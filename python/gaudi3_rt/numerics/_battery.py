"""The audit: every check, in order, on one optimizer, leaving the process as it was."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.numerics import _checks_formula as formulas
from gaudi3_rt.numerics import _checks_groups as groups
from gaudi3_rt.numerics import _checks_options as options
from gaudi3_rt.numerics import _checks_rounding as rounding
from gaudi3_rt.numerics import _checks_run as runs
from gaudi3_rt.numerics import _checks_state as states
from gaudi3_rt.numerics import _checks_storage as storage
from gaudi3_rt.numerics import _checks_tensors as tensors
from gaudi3_rt.numerics._bench import Bench, Finding, dtype_name, sentence
from gaudi3_rt.numerics._isolation import left_alone
from gaudi3_rt.numerics._oracle import Specification, specification
from gaudi3_rt.numerics._passport import Check, Passport
from gaudi3_rt.numerics._subject import Factory, RefusedError, Subject


def _always(_: Specification) -> bool:
    return True


@dataclass(frozen=True)
class Entry:
    """A check of the battery.

    Attributes:
        name: stable identifier.
        run: what it does.
        once: whether it does not depend on the dtype of parameters.
        applies: whether a specification has what it asks for.
    """

    name: str
    run: Callable[[Bench], Finding]
    once: bool = False
    applies: Callable[[Specification], bool] = _always


def _has(option: str) -> Callable[[Specification], bool]:
    return lambda spec: option in spec.defaults


def _adam(spec: Specification) -> bool:
    return spec.adam


BATTERY = (
    Entry("defaults", options.defaults, once=True),
    Entry("keywords", options.keywords, once=True),
    Entry("invalid-options", options.invalid_options, once=True),
    Entry("formula", formulas.formula),
    Entry("eps-placement", formulas.eps_placement, applies=_adam),
    Entry("bias-correction", formulas.bias_correction, applies=_adam),
    Entry("bias-correction-after-resume", states.bias_correction_after_resume, applies=_adam),
    Entry(
        "decoupled-weight-decay",
        rounding.decoupled_weight_decay,
        applies=lambda spec: spec.decoupled,
    ),
    Entry("weight-decay", formulas.weight_decay, applies=lambda spec: not spec.decoupled),
    Entry("beta-rounding", rounding.beta_rounding, applies=_adam),
    Entry("step-size-rounding", rounding.step_size_rounding, applies=_adam),
    Entry("frozen-second-moment", storage.frozen_second_moment, applies=_adam),
    Entry("tiny-updates", storage.tiny_updates, applies=lambda spec: spec.elementwise),
    Entry("maximize", options.maximize, applies=_has("maximize")),
    Entry("amsgrad", options.amsgrad, applies=_has("amsgrad")),
    Entry("nesterov", options.nesterov, applies=_has("nesterov")),
    Entry("adjust-lr", formulas.adjust_lr, applies=_has("adjust_lr_fn")),
    Entry("param-groups", groups.param_groups),
    Entry("scheduler", groups.scheduler),
    Entry("closure", options.closure, once=True),
    Entry("zero-grad", options.zero_grad, once=True),
    Entry("missing-gradient", options.missing_gradient),
    Entry("noncontiguous", tensors.noncontiguous),
    Entry("empty-tensor", tensors.empty_tensor),
    Entry("zero-dim", tensors.zero_dim, applies=lambda spec: not spec.matrices),
    Entry("uneven-shards", tensors.uneven_shards, applies=lambda spec: spec.elementwise),
    Entry("found-inf", tensors.found_inf),
    Entry("gradient-untouched", tensors.gradient_untouched),
    Entry("state-dict-round-trip", states.state_dict_round_trip),
    Entry("state-dict-interchange", states.state_dict_interchange),
    Entry("deterministic-runs", runs.deterministic_runs),
    Entry("deterministic-threads", runs.deterministic_threads),
    Entry("memory", runs.memory),
    Entry("recompiles", runs.recompiles, once=True),
)
"""In the order of a passport."""


def audit(
    factory: Factory,
    like: str = "torch.optim.AdamW",
    device: str | torch.device = "cpu",
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    *,
    checks: Collection[str] | None = None,
) -> Passport:
    """Measures whether an optimizer is what it claims to be, against the documented formula in float64.

    The optimizer is given small parameters of its own; nothing of the process is changed: random state, number of
    threads, default dtype, deterministic mode and what is compiled are as before, and inference mode, autocast or a
    default device of the caller's have no effect. Warnings are silent meanwhile. Audits on several threads take turns.
    An optimizer that raises fails the check in which it does, and the others go on.

    What storage itself costs is no fault: the bounds are those of parameters and moments rounded to nearest in the
    dtype of the parameter, as in torch, and the figures say what that costs.

    Args:
        factory: from parameters (or groups) and options as keywords to an optimizer: a class, a ``functools.partial``
            of one, a function.
        like: what it should be: ``torch.optim.AdamW``, ``torch.optim.Adam``, ``torch.optim.SGD``,
            ``torch.optim.Adagrad``, ``torch.optim.Muon``, ``lion``, ``lamb`` or ``lars``.
        device: where its parameters are.
        dtypes: of its parameters.
        checks: names of those to run; all by default.

    Raises:
        ValueError: no such specification, no such check, a dtype that is not floating-point, a device from which no
            numbers can be had, or a factory that makes something else than a ``torch.optim.Optimizer``.
    """
    started = time.perf_counter()
    spec = specification(like)
    known = {entry.name for entry in BATTERY}
    if checks is not None and (wrong := sorted(set(checks) - known)):
        msg = f"checks={wrong!r}: there are no such checks; there are {sorted(known)}"
        raise ValueError(msg)
    if not dtypes or any(not dtype.is_floating_point for dtype in dtypes):
        msg = f"dtypes={tuple(dtypes)!r}: must be one or more floating-point dtypes"
        raise ValueError(msg)
    subject = Subject(factory)
    where = _usable(device)
    chosen = [entry for entry in BATTERY if checks is None or entry.name in checks]
    found = []
    with left_alone(where):
        subject.check(where)
        bare = [Bench(subject=subject, spec=spec, dtype=dtype, device=where) for dtype in dtypes]
        benches = [dataclasses.replace(bench, lacking=bench.refused_terms()) for bench in bare]
        for entry in chosen:
            found += [_checked(entry, bench) for bench in (benches[:1] if entry.once else benches)]
    return Passport(
        subject=subject.name,
        like=spec.name,
        device=str(where),
        dtypes=tuple(map(dtype_name, dtypes)),
        versions=subject.versions(),
        seconds=time.perf_counter() - started,
        checks=tuple(found),
    )


def _usable(device: str | torch.device) -> torch.device:
    where = torch.device(device)
    try:
        torch.zeros(1, device=where).item()
    except Exception as error:
        msg = f"device={str(where)!r}: no number can be had from it: {str(error).partition(chr(10))[0]}"
        raise ParameterValidationError(msg) from error
    return where


def _checked(entry: Entry, bench: Bench) -> Check:
    try:
        if entry.applies(bench.spec):
            finding = entry.run(bench)
        else:
            said = f"The formula of {bench.spec.name} has nothing that this check asks for."
            finding = Finding(status="not applicable", consequence=said)
    except RefusedError as refused:
        finding = _refusal(refused, bench)
    except Exception as error:  # noqa: BLE001 (whatever it raises, the battery goes on)
        if bench.subject.learn_step(bench.device, bench.options({})):
            return _checked(entry, bench)
        said = sentence(f"It raises {type(error).__name__}: {error}")
        finding = Finding(status="fails", consequence=said)
    reproduce = finding.reproduce
    if bench.subject.closure_asked:
        reproduce = reproduce.replace("optimizer.step()", "optimizer.step(lambda: torch.zeros(()))")
    if not reproduce and (finding.figure is not None or finding.status == "fails"):
        shown = "consequence" if finding.figure is None else "figure.value"
        reproduce = _again(entry, bench, shown)
    return Check(
        name=entry.name,
        dtype="" if entry.once else dtype_name(bench.dtype),
        status=finding.status,
        figure=finding.figure,
        consequence=finding.consequence,
        reproduce=reproduce,
        curve=finding.curve,
    )


def _again(entry: Entry, bench: Bench, shown: str) -> str:
    """Python that runs one check: for those whose case is no shorter than the check."""
    where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
    lines = [
        "import torch",
        "from gaudi3_rt.numerics import audit",
        *bench.subject.lines(),
        "",
        f"dtypes = [torch.{dtype_name(bench.dtype)}]",
        f"passport = audit(Optimizer, {bench.spec.name!r}{where}, dtypes=dtypes, checks=[{entry.name!r}])",
        f"print(passport.checks[0].{shown})",
    ]
    return "\n".join(lines)


def _refusal(refused: RefusedError, bench: Bench) -> Finding:
    """An option that it does not have, or not with this value, is another set of options; else it is an error."""
    if refused.unknown:
        said = f"It has no option {refused.unknown!r}: code that passes it stops with a TypeError."
        return Finding(status="differs", consequence=said)
    given = ", ".join(f"{name}={value!r}" for name, value in refused.options.items())
    said = sentence(f"It cannot be made with {given or 'parameters alone'}: {refused}")
    try:
        bench.subject.make([bench.parameter(torch.ones(2, 2))], {})
    except RefusedError as alone:
        if not isinstance(alone.error, TypeError):  # which says that an argument is missing
            return Finding(status="fails", consequence=said)
    return Finding(status="differs", consequence=said)
