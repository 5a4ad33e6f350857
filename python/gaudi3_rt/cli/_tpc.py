"""``gaudi3-rt tpc``: kernels from the command line, emulated."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from gaudi3_rt.cli._tensors import TensorArgument, parse_access, parse_input, parse_output, parse_scalar
from gaudi3_rt.tpc import CompileError, Kernel, KernelError, Report
from gaudi3_rt.tpc import compile as compile_kernel
from gaudi3_rt.tpc._compile import ARCHS

TENSORS = """
An input (-i) is x.npy, bf16:x.npy for bfloat16 in a uint16 array, or a type and shape like f32[8,100] for random
numbers. An output (-o) is f32[8,100], f32[8,100]:y.npy to keep it, or @0 for the memory of input 0 (a step in place).
Give inputs and outputs in the order of main's parameters. The last number of a shape is dimension 0 of the kernel.

An access pattern (-a, one for each tensor, inputs first) is dim:a:start:end for each dimension, dimension 0 first,
separated by commas: member i of index-space dimension dim touches elements a*i+start to a*i+end. * is all of a
dimension, and all is all of a tensor.
"""


@dataclass(frozen=True)
class Options:
    """What `run` and `check` have in common."""

    kernel: Path
    arch: str
    defines: tuple[str, ...]
    include_dirs: tuple[Path, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scalars: tuple[str, ...]
    index_space: str
    access: tuple[str, ...]
    threads: int

    def compile(self) -> Kernel:
        """The kernel."""
        defines = dict(d.partition("=")[::2] for d in self.defines)
        return compile_kernel(self.kernel, self.arch, {k: v or None for k, v in defines.items()}, self.include_dirs)

    def tensors(self, seed: int) -> tuple[list[TensorArgument], list[TensorArgument]]:
        """Inputs and outputs; random ones from the seed."""
        rng = np.random.default_rng(seed)
        inputs = [parse_input(text, rng) for text in self.inputs]
        return inputs, [parse_output(text, inputs) for text in self.outputs]

    def run(
        self, kernel: Kernel, inputs: list[TensorArgument], outputs: list[TensorArgument], seed: int, *, check: bool
    ) -> Report:
        """Executes the kernel.

        Raises:
            click.BadParameter: the index space is no list of sizes.
        """
        sizes = self.index_space.split(",")
        if not all(n.strip().isdigit() for n in sizes):
            message = f"index space {self.index_space!r} is not a list of sizes like 16 or 4,8"
            raise click.BadParameter(message)
        return kernel.run(
            [t.operand for t in inputs],
            [t.operand for t in outputs],
            [parse_scalar(s) for s in self.scalars],
            index_space=[int(n) for n in sizes],
            access=[parse_access(a) for a in self.access] or None,
            seed=seed,
            check=check,
            threads=self.threads,
        )


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options in common, handed over as one object; what is wrong with kernel or arguments ends the command."""

    @functools.wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        options = Options(**{name: kwargs.pop(name) for name in Options.__dataclass_fields__})
        try:
            command(options, *args, **kwargs)
        except (CompileError, KernelError, TypeError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    decorated: Callable[..., None] = with_options
    for decorate in reversed(
        (
            click.argument("kernel", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
            click.option("-i", "--input", "inputs", multiple=True, metavar="TENSOR", help="An input; see above."),
            click.option("-o", "--output", "outputs", multiple=True, metavar="TENSOR", help="An output; see above."),
            click.option("-s", "--scalar", "scalars", multiple=True, metavar="NUMBER", help="A scalar of main."),
            click.option("-x", "--index-space", required=True, metavar="SIZES", help="Its sizes, like 16 or 4,8."),
            click.option("-a", "--access", multiple=True, metavar="PATTERN", help="An access pattern; see above."),
            click.option("--arch", type=click.Choice(list(ARCHS)), default="gaudi3", show_default=True),
            click.option("-D", "defines", multiple=True, metavar="NAME[=VALUE]", help="Defines a macro."),
            click.option(
                "-I",
                "include_dirs",
                multiple=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Adds a folder for included files.",
            ),
            click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Boxes run at once."),
        )
    ):
        decorated = decorate(decorated)
    return decorated


@click.group()
def tpc() -> None:
    """Compile and execute TPC-C kernels on this CPU, emulated."""


@tpc.command(help=f"Execute a kernel once and report what it did.\n{TENSORS}")
@_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of random inputs, boxes and their order.")
@click.option("--fast", is_flag=True, help="Without checking.")
def run(options: Options, seed: int, fast: bool) -> None:
    """Executes a kernel once."""
    kernel = options.compile()
    inputs, outputs = options.tensors(seed)
    start = time.perf_counter()
    report = options.run(kernel, inputs, outputs, seed, check=not fast)
    seconds = time.perf_counter() - start
    _show(kernel, report, inputs, outputs, seconds)
    for tensor in outputs:
        if tensor.path is not None:
            np.save(tensor.path, tensor.array)
            click.echo(f"wrote {tensor.path}")


@tpc.command(help=f"Execute a kernel in checking mode with many seeds.\n{TENSORS}")
@_options
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Seeds, from 0 on.")
def check(options: Options, runs: int) -> None:
    """Executes a kernel with many seeds."""
    kernel = options.compile()
    failures = 0
    reports = []
    for seed in range(runs):
        inputs, outputs = options.tensors(seed)
        try:
            reports.append(options.run(kernel, inputs, outputs, seed, check=True))
        except KernelError as error:
            failures += 1
            click.echo(f"seed {seed}: {error}")
    if reports:
        boxes = [len(r.boxes) for r in reports]
        click.echo(f"{reports[0].members} members in {min(boxes)} to {max(boxes)} boxes, emulated")
        for name, lanes in reports[0].dropped.items():
            if lanes:
                click.echo(f"{name}: {lanes} stored lanes were outside and dropped")
        if any(r.order_matters for r in reports):
            click.echo("random numbers or sums in memory: runs were not compared with each other")
    if not options.access:
        click.echo("no access patterns were given (-a), so none were checked")
    click.echo(f"{runs - failures} of {runs} runs without a finding")
    if failures:
        raise SystemExit(1)


def _show(
    kernel: Kernel, report: Report, inputs: list[TensorArgument], outputs: list[TensorArgument], seconds: float
) -> None:
    """Prints a report."""
    mode = "checked" if report.checked else "not checked"
    click.echo(
        f"{kernel.name}: {report.members} members in {len(report.boxes)} boxes, {mode}, emulated: {seconds:.3g} s"
    )
    width = max((len(name) for name in report.dropped), default=0)
    for i, (name, tensor) in enumerate(zip(report.dropped, [*inputs, *outputs], strict=True)):
        notes = [
            f"{count} lanes {what}"
            for count, what in (
                (report.padded[name], "padded"),
                (report.dropped[name], "dropped"),
                (report.reread[name], "loaded after their store"),
            )
            if count
        ]
        if i >= len(inputs):
            notes.insert(0, _summary(tensor.values))
        kind = "output" if i >= len(inputs) else "input"
        shape = ",".join(str(n) for n in tensor.array.shape)
        click.echo(f"  {name:{width}}  {kind:6}  {tensor.element}[{shape}]  {'; '.join(notes)}".rstrip())
    if report.vector_memory or report.scalar_memory:
        click.echo(f"  local memory: {report.vector_memory} bytes for vectors, {report.scalar_memory} for scalars")
    if report.printed:
        click.echo("printed:")
        click.echo(report.printed, nl=not report.printed.endswith("\n"))


def _summary(values: np.ndarray[Any, Any]) -> str:
    """The range of an output's numbers, and how many are not finite."""
    numbers = values.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    text = f"{finite.min():.6g} to {finite.max():.6g}, mean {finite.mean():.6g}" if finite.size else "no finite number"
    others = numbers.size - finite.size
    return f"{text}, {others} not finite" if others else text
