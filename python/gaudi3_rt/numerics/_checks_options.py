"""Checks of options: defaults, ranges, groups, schedulers, closures; that what is given is heeded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, float64, generator, give, normal, off, sentence
from gaudi3_rt.numerics._checks_formula import UPDATE, follow
from gaudi3_rt.numerics._isolation import seed
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import RefusedError, Subject

_NO_KEYWORD = "weight_decya"
SCALE = 2e-3
"""Of parameters: so small that their rounding is small beside an update."""
_OUT_OF_RANGE: tuple[dict[str, Any], ...] = (
    {"lr": -1.0},
    {"eps": -1.0},
    {"weight_decay": -1.0},
    {"betas": (1.0, 0.999)},
    {"betas": (0.9, -0.1)},
    {"momentum": -1.0},
)


def defaults(bench: Bench) -> Finding:
    """What is used where nothing is given; what a partial has bound is given."""
    optimizer = bench.subject.make([bench.parameter(torch.zeros(2))], {})
    group = optimizer.param_groups[0]
    others = {}
    source = "documented" if bench.spec.torch_class else f"the specification of {bench.spec.name}"
    compared = {x: y for x, y in bench.spec.defaults.items() if x in group and x not in bench.subject.bound}
    for name, usual in compared.items():
        if not _equal(group[name], usual):
            others[name] = f"{name}={_plain(group[name])!r} ({source}: {usual!r})"
    figure = Figure(value=len(others), unit="other defaults", bound=0)
    # Those that are equal only as numbers, as a list to a tuple, are left to the check.
    shown = {x: y for x, y in compared.items() if x in others or bool(group[x] == y)}
    script = "\n".join(
        [
            "import torch",
            *Subject.lines(bench.subject),
            "",
            f"documented = {shown!r}",
            "group = Optimizer([torch.zeros(2, requires_grad=True)]).param_groups[0]",
            "others = {name: group[name] for name, value in documented.items() if group[name] != value}",
            "print(others)",
            "print(len(others))",
        ]
    )
    if others:
        said = f"Where nothing is given, it trains with {', '.join(others.values())}."
        return Finding(status="differs", consequence=said, figure=figure, reproduce=script)
    return Finding(status="pass", consequence="Defaults are those documented.", figure=figure, reproduce=script)


def _equal(found: Any, usual: Any) -> bool:
    if isinstance(usual, tuple):
        alike = isinstance(found, tuple | list) and len(found) == len(usual)
        return alike and all(_equal(one, other) for one, other in zip(found, usual, strict=True))
    if usual is None or found is None or not isinstance(found, Real | Tensor):
        return found is usual
    if isinstance(found, Tensor):  # a number as its dtype holds it
        return bool(found == torch.tensor(float(usual)).to(found))
    return float(found) == float(usual)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def keywords(bench: Bench) -> Finding:
    """Every keyword of torch's class is taken, with torch's own default, and every term of the formula; no other."""
    theirs = bench.spec.torch_class
    _made_alone(bench)
    given = {} if theirs is None else inspect.signature(theirs).parameters
    usual = {one.name: one.default for one in given.values() if one.default is not one.empty}
    base = _enough(bench)
    refused = [name for name, value in usual.items() if not bench.makes({**base, name: value})]
    terms = [f"{name}={bench.spec.exercise[name]!r}" for name in bench.lacking if name not in refused]
    number = len(usual) or len(bench.spec.exercise)
    if _takes_anything(bench):
        said = (
            f"It takes unknown keywords, such as {_NO_KEYWORD}=1: a misspelt option does nothing, and no error says so."
        )
        return Finding(status="fails", consequence=said, figure=Figure(value=1, unit="unknown keywords taken", bound=0))
    figure = Figure(value=len(refused) + len(terms), unit=f"of {number} keywords refused", bound=0)
    said = ""
    if refused:
        said = f"It refuses keywords that {bench.spec.name} has, with their own defaults: {', '.join(refused)}. "
    if terms:
        said += f"It refuses {', '.join(terms)}; the other checks are made without."
    if said:
        return Finding(status="differs", consequence=said.rstrip(), figure=figure)
    said = f"It takes every keyword of {bench.spec.name}."
    return Finding(status="pass", consequence=said, figure=figure)


def _enough(bench: Bench) -> dict[str, Any]:
    """Options with which it can be made: lr alone; for some more, for others none."""
    lr = {"lr": bench.spec.exercise["lr"]}
    return next((one for one in (lr, bench.options({})) if bench.makes(one)), {})


def _takes_anything(bench: Bench) -> bool:
    return bench.makes({**_enough(bench), _NO_KEYWORD: 1})


def _made_alone(bench: Bench) -> None:
    """Raises what the factory does, unless it only asks for an argument."""
    try:
        bench.subject.make([bench.parameter(torch.ones(2))], {})
    except RefusedError as refused:
        if not isinstance(refused.error, TypeError):
            raise


def _refused(bench: Bench, wrong: dict[str, Any]) -> bool:
    """Whether torch's class refuses this; where it has none, anybody should."""
    theirs: Any = bench.spec.torch_class
    try:
        return theirs is None or not theirs([bench.parameter(torch.ones(2))], **wrong)
    except ValueError:
        return True


def invalid_options(bench: Bench) -> Finding:
    """Numbers out of range are refused at once."""
    bench.optimizer([bench.parameter(torch.ones(2))])  # who refuses everything has checked nothing
    has = {name for name in bench.spec.defaults if bench.subject.takes(name) or not _takes_anything(bench)}
    tried = [wrong for wrong in _OUT_OF_RANGE if wrong.keys() <= has and _refused(bench, wrong)]
    accepted = [wrong for wrong in tried if bench.makes(bench.options(wrong))]
    taken = [f"{name}={value!r}" for wrong in accepted for name, value in wrong.items()]
    figure = Figure(value=len(taken), unit=f"of {len(tried)} wrong values taken", bound=0)
    if taken:
        said = f"It takes {', '.join(taken)} without an error"
        said += f"; {bench.spec.name} refuses that." if bench.spec.torch_class else ", which is out of range."
        return Finding(status="differs", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Numbers out of range are refused.", figure=figure)


def _option(bench: Bench, name: str, *, value: bool = True, **others: Any) -> Finding:
    """A flag that changes the formula: heeded, ignored, or something else."""
    given = {name: value, **others}
    ((_, error, model),) = follow(bench, given, (40,), fade=True, scale=SCALE)
    text = f"{name}={value}"
    if _end(bench, given).equal(_end(bench, {**given, name: not value})):  # also where rounding hides what is missing
        said = f"{text} is taken and ignored: after 40 steps parameters are {off(error)}."
        return Finding(status="fails", consequence=said, figure=Figure(value=0, unit=f"elements changed by {text}"))
    bound = bench.rounding(model)
    figure = Figure(value=error, unit=f"{UPDATE} at step 40", bound=bound)
    if error <= bound:
        return Finding(status="pass", consequence=f"{text} acts as documented.", figure=figure)
    said = f"With {text} parameters are {off(error)} after 40 steps."
    return Finding(status="differs", consequence=said, figure=figure)


def _end(bench: Bench, options: Mapping[str, Any]) -> Tensor:
    """Where the subject is after gradients that shrink half-way; with random numbers that are the same each time."""
    random = generator()
    seed(bench.device, 1)
    param = bench.parameter(normal((64, 64), random, SCALE))
    optimizer = bench.optimizer([param], **options)
    for scale in 10 * [1.0] + 10 * [0.1]:
        give([param], [bench.tensor(normal((64, 64), random, scale))])
        optimizer.step()
    return param.detach()


def maximize(bench: Bench) -> Finding:
    """Ascent."""
    return _option(bench, "maximize")


def amsgrad(bench: Bench) -> Finding:
    """The running maximum of the second moment, while gradients shrink."""
    return _option(bench, "amsgrad", betas=(0.9, 0.9))


def nesterov(bench: Bench) -> Finding:
    """Nesterov's momentum; momentum without it, where that is the default."""
    wanted = not bench.spec.exercise.get("nesterov", False)
    undamped = {"dampening": 0.0} if "dampening" in bench.options({}) else {}
    return _option(bench, "nesterov", value=wanted, **undamped)


def within(figure: Figure) -> bool:
    """Whether a figure holds its bound; NaN does not."""
    return figure.bound is not None and figure.value <= figure.bound


def closure(bench: Bench) -> Finding:
    """A closure that evaluates the loss with gradients, called from a training loop that has none enabled."""
    param = bench.parameter(torch.zeros(8))  # from which no storage loses a movement
    start = float64(param)
    optimizer = bench.optimizer([param])
    seen = []

    def evaluate() -> Tensor:
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (param - 1).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        return loss.detach()

    try:
        with torch.no_grad():
            returned = optimizer.step(evaluate)  # type: ignore[arg-type]  # torch wants a float; it takes tensors
    except TypeError as error:
        return Finding(status="differs", consequence=f"step() takes no closure: {error}.")
    moved = not torch.equal(float64(param), start)
    faults = [
        (not seen, "step(closure) does not call the closure"),
        (not all(seen), "step(closure) calls the closure with gradients disabled, so that its backward() fails"),
        (returned is None, "step(closure) does not return the loss"),
        (not moved, "step(closure) does not use the gradients that the closure made"),
    ]
    found = [text for wrong, text in faults if wrong]
    figure = Figure(value=len(found), unit="faults", bound=0)
    if found:
        return Finding(status="fails", consequence="; ".join(found) + ".", figure=figure)
    if not bench.subject.closure_asked:
        optimizer.step()  # from which it is learnt that one is asked for
    if bench.subject.closure_asked:
        said = "The other checks give step() a closure that leaves gradients, since without one it raises "
        said += bench.subject.closure_asked
        return Finding(status="differs", consequence=sentence(said))
    return Finding(status="pass", consequence="A closure runs with gradients, and its loss is returned.", figure=figure)


def zero_grad(bench: Bench) -> Finding:
    """``zero_grad`` with torch's argument, both ways, and its default."""
    param = bench.parameter(torch.ones(4))
    optimizer = bench.optimizer([param])
    found = []
    for arguments, kept in (({}, False), ({"set_to_none": True}, False), ({"set_to_none": False}, True)):
        give([param], [torch.ones_like(param)])
        try:
            optimizer.zero_grad(**arguments)
        except TypeError:
            found.append(f"zero_grad({', '.join(f'{k}={v}' for k, v in arguments.items())}) is a TypeError")
            continue
        if (param.grad is not None) != kept or (param.grad is not None and bool(param.grad.any())):
            said = ", ".join(f"{k}={v}" for k, v in arguments.items())
            found.append(f"zero_grad({said}) leaves {'a gradient' if param.grad is not None else 'no gradient'}")
    figure = Figure(value=len(found), unit="faults", bound=0)
    if found:
        return Finding(status="differs", consequence="; ".join(found) + ".", figure=figure)
    return Finding(
        status="pass", consequence="Gradients are removed, or zeroed where that is asked for.", figure=figure
    )


def missing_gradient(bench: Bench) -> Finding:
    """A parameter without a gradient stays as it is, and so does a frozen one."""
    params = [bench.parameter(torch.ones(4)) for _ in range(3)]
    params[2].requires_grad_(False)
    optimizer = bench.optimizer(params)
    for _ in range(3):
        give(params, [torch.ones_like(params[0]), None, None])
        optimizer.step()
    moved = max(float((float64(p) - 1).abs().max()) for p in params[1:])
    figure = Figure(value=moved, unit="of movement", bound=0)
    if moved != 0:
        said = f"A parameter without a gradient moves, by {moved:.3g} in three steps."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="A parameter without a gradient is left as it is.", figure=figure)
