"""``gaudi3-rt audit``: whether an optimizer is what it claims to be."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gaudi3_rt._redact import redact_text
from gaudi3_rt.cli._commands import FAILED
from gaudi3_rt.cli._output import console, show
from gaudi3_rt.errors import Gaudi3RTError

if TYPE_CHECKING:
    import torch

    from gaudi3_rt.numerics import Passport

_STDOUT, _STDERR = 1, 2
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_EXAMPLES = """\b
Examples:
  gaudi3-rt audit torch.optim:AdamW
  gaudi3-rt audit train:make_optimizer --dtype bfloat16 --plot audit.png
  gaudi3-rt audit gaudi3_rt.optim:FusedLion --like lion --check formula
"""


@click.command(epilog=_EXAMPLES)
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option("--like", default="torch.optim.AdamW", show_default=True, help="What it should be.")
@click.option("--device", default="cpu", show_default=True, help="Where its parameters are.")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(_DTYPES),
    help="Of its parameters; may be given again.  [default: float32 and bfloat16]",
)
@click.option("--check", "checks", multiple=True, metavar="NAME", help="Run this check only; may be given again.")
@click.option("--json", "is_json", is_flag=True, help="Print the passport as JSON.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write it as Markdown to this file.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw error against step, e.g. as PNG.")
@click.pass_context
def audit(
    context: click.Context,
    factory: str,
    like: str,
    device: str,
    dtypes: tuple[str, ...],
    checks: tuple[str, ...],
    is_json: bool,
    markdown: Path | None,
    plot: Path | None,
) -> None:
    """Measure whether an optimizer is what it claims to be.

    FACTORY makes it from parameters and options: a class, or a function. MODULE is imported, also from the current
    folder. The passport has a row for each check: pass, differs (another formula or default than the documented one),
    fails (an option is ignored, state is lost, an error).

    The exit status is 0 if all checks hold and 1 if not. What the optimizer prints goes to standard error.
    """
    for option, file in (("--markdown", markdown), ("--plot", plot)):
        if file is not None and not file.absolute().parent.is_dir():
            message = f"there is no folder {str(file.absolute().parent)!r}"
            raise click.BadParameter(message, param_hint=option)
    if plot is not None and checks and "formula" not in checks:
        message = "--plot draws what the check 'formula' measures: give --check formula, too"
        raise click.UsageError(message)
    with _current_folder(), _output_to_stderr():
        passport = _audited(factory, like, device, dtypes, checks, debug=bool((context.obj or {}).get("debug")))
    if is_json:
        click.echo(passport.to_json())
    else:
        show(console(), passport)
    if markdown is not None:
        with _writing(markdown):
            markdown.write_text(passport.to_markdown(), encoding="utf-8")
    if plot is not None:
        with _writing(plot):
            passport.plot(plot)
    if not passport.ok:
        if markdown is None and not is_json:
            click.echo("--markdown FILE or --json has the code that reproduces each figure", err=True)
        raise SystemExit(FAILED)


def _audited(
    factory: str, like: str, device: str, dtypes: tuple[str, ...], checks: tuple[str, ...], *, debug: bool
) -> Passport:
    import torch  # noqa: PLC0415 (takes seconds, which --help need not)

    from gaudi3_rt import numerics  # noqa: PLC0415 (the same)

    _known(like, sorted(numerics.SPECIFICATIONS), "--like", "specification")
    for name in checks:
        _known(name, numerics.CHECKS, "--check", "check")
    made = _factory(factory, debug=debug)  # first: it may import what a device needs
    try:
        where = torch.device(device)
    except RuntimeError as error:
        message = f"{device!r} is no device: {_first_line(error)}"
        raise click.BadParameter(message, param_hint="--device") from error
    try:
        if where.type == "hpu":
            importlib.import_module("habana_frameworks.torch.core")  # which the program does not load by itself
        torch.empty(1, device=where)
    except Exception as error:  # of whatever type its backend raises
        message = f"no tensor can be made on device {device!r}: {_first_line(error)}"
        raise click.ClickException(message) from error
    given = {"dtypes": [getattr(torch, name) for name in dict.fromkeys(dtypes)]} if dtypes else {}
    return numerics.audit(made, like, where, checks=checks or None, **given)


def _known(name: str, names: Sequence[str], option: str, what: str) -> None:
    if name in names:
        return
    close = difflib.get_close_matches(name, names)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
    message = f"there is no {what} {name!r}; {hint}"
    raise click.BadParameter(message, param_hint=option)


def _factory(place: str, *, debug: bool) -> Callable[..., torch.optim.Optimizer]:
    module_name, _, path = place.partition(":")
    hint = "MODULE:FACTORY"
    if not module_name or not path:
        message = f"{place!r} must be a module and a factory in it, such as torch.optim:AdamW"
        raise click.BadParameter(message, param_hint=hint)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if debug:
            click.echo(redact_text("".join(traceback.format_exception(error))), err=True, nl=False)
        message = f"module {module_name!r} does not import: {type(error).__name__}: {_first_line(error)}"
        raise click.BadParameter(message, param_hint=hint) from error
    try:
        found: Any = functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        close = difflib.get_close_matches(path, dir(module), 1)
        mean = f"; did you mean {close[0]!r}?" if close else ""
        message = f"module {module_name!r} has no {path!r}{mean}"
        raise click.BadParameter(message, param_hint=hint) from error
    if not callable(found):
        message = f"{place!r} is a {type(found).__name__}, which cannot be called to make an optimizer"
        raise click.BadParameter(message, param_hint=hint)
    made: Callable[..., torch.optim.Optimizer] = found
    return made


def _first_line(error: BaseException) -> str:
    return redact_text(str(error).strip().partition("\n")[0])


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Modules are found in the current folder first, as with ``python -m``; not where Python is told not to (-P)."""
    before = list(sys.path)
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """What modules and optimizers print, in Python, C or programs that they start, goes to standard error."""
    sys.stdout.flush()
    flush = ctypes.CDLL(None).fflush
    kept = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        flush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """An error becomes one sentence; what was printed is not lost."""
    try:
        yield
    except (OSError, ImportError, ValueError, Gaudi3RTError) as error:
        message = f"{str(file)!r} is not written: {error.strerror if isinstance(error, OSError) else error}"
        raise click.ClickException(message) from error
