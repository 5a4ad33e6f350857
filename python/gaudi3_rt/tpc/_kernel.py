"""A compiled kernel, and what running it does."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaudi3_rt.tpc._access import MAX_DIMS, Access, AccessPatterns, check_access
from gaudi3_rt.tpc._arrays import Array, Bits, Operand, check_memory
from gaudi3_rt.tpc._compile import Defines, build
from gaudi3_rt.tpc._index_space import Boxes, check_index_space, random_boxes, single_members
from gaudi3_rt.tpc._library import Outcome, Run, engines
from gaudi3_rt.tpc._local_memory import check_local_memory, local_bytes
from gaudi3_rt.tpc._report import KernelError, Parameter, Report
from gaudi3_rt.tpc._scalars import SCALARS, pad_bits, scalar_bits

_MAX_ULPS = 2**20


@dataclass(frozen=True)
class _Pass:
    """What one pass over the index space left."""

    outcomes: list[Outcome]
    printed: str

    def count(self, field: str, names: list[str]) -> dict[str, int]:
        return {name: sum(getattr(o, field)[i] for o in self.outcomes) for i, name in enumerate(names)}

    @property
    def order_matters(self) -> bool:
        return any(o.order_matters for o in self.outcomes)


class Kernel:
    """A TPC-C kernel that is executed on the CPU, emulated. Made by :func:`compile`.

    Attributes:
        name: the source file's name without its ending.
        parameters: the parameters of main, in order.
    """

    def __init__(self, source: Path, arch: str, defines: Defines, include_dirs: Sequence[Path]) -> None:
        self.name = source.stem
        self._source = source
        self._arch = arch
        self._options: tuple[str, Defines, Sequence[Path]] = (arch, dict(defines), tuple(include_dirs))
        built = build(source, *self._options, check=True)
        self._libraries = {True: built.library}
        with engines(built.library, 1) as (engine,):
            signature, self._variables = engine.signature, engine.variables
        names = built.parameter_names
        if len(names) != len(signature):
            names = [""] * len(signature)
        types = [SCALARS.get(letter, "tensor") for letter in signature]
        self.parameters = tuple(
            Parameter(name or f"{kind} {i}", kind) for i, (name, kind) in enumerate(zip(names, types, strict=True))
        )
        self._letters = [letter for letter in signature if letter != "t"]
        check_local_memory(self.name, self._variables, arch, uses_tables=built.uses_tables)

    def __repr__(self) -> str:
        """As TPC-C declares main."""
        return f"<Kernel {self.name}({', '.join(f'{p.type} {p.name}' for p in self.parameters)})>"

    def run(
        self,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        scalars: Sequence[Any] = (),
        *,
        index_space: Sequence[int],
        access: AccessPatterns | None = None,
        seed: int = 0,
        check: bool = True,
        threads: int = 1,
        pad_values: Sequence[float] | None = None,
        special_ulps: tuple[float, float] = (2.0, 16.0),
    ) -> Report:
        """Executes the kernel over its index space and writes the outputs in place.

        The space is cut into random boxes that run in random order. With ``check``, the kernel runs twice on copies:
        first every member by itself, where each element that it touches is compared with its access pattern and with
        what other members touch, then in random boxes. Both have to give the same bits, unless random numbers or
        floating-point sums in memory are involved. Outputs are written when all of that went well. Without ``check``
        they are written as the kernel goes, and an error leaves them half done.

        Args:
            inputs: the first tensors of main: NumPy arrays, CPU tensors, or ``(array, "bf16")`` for a uint16 array that
                holds bfloat16. A kernel's dimension 0 is the last axis; strides are kept.
            outputs: the other tensors, alike. One may be all of an input: a step in place.
            scalars: the other parameters in order; floats are rounded to the parameter's type.
            index_space: sizes of the index space, dimension 0 first.
            access: for each tensor, inputs first, what a member may touch: one :class:`Access` for each dimension,
                dimension 0 first, or None for all of it. A dimension that is left out has element 0 alone.
            seed: chooses boxes, order, random numbers and perturbations.
            check: checking mode, in which local memory, left-out lanes and the like are NaN, and what public sources
                leave open is an error.
            threads: how many boxes run at once. Results do not depend on it.
            pad_values: for each tensor, what is read outside it; 0 if left out.
            special_ulps: how far, in units in the last place, the vendor's functions (v_exp_f32, ...) are perturbed,
                and their fast variants. Their tables are not public.

        Returns:
            What happened.

        Raises:
            KernelError: the kernel did something that it may not do.
            TypeError: an argument of a type that main does not take.
            ValueError: a wrong number of arguments, a shape or memory that a TPC does not take.
        """
        names = [p.name for p in self.parameters if p.type == "tensor"]
        operands = self._operands(inputs, outputs, names)
        n_inputs = len(inputs)
        check_memory(operands[:n_inputs], operands[n_inputs:], names)
        space = check_index_space(index_space)
        if threads < 1:
            message = f"threads is {threads}; give at least 1"
            raise ValueError(message)
        if not all(0 <= ulps <= _MAX_ULPS for ulps in special_ulps):
            message = f"special_ulps is {special_ulps}; give two numbers from 0 to {_MAX_ULPS}"
            raise ValueError(message)
        run = self._describe(
            operands, n_inputs, scalars, pad_values, check_access(access, names, [o.bits.ndim for o in operands])
        )
        run.seed = seed & (2**64 - 1)
        run.index_rank = len(space)
        run.special_ulps, run.fast_special_ulps = special_ulps
        rng = np.random.default_rng(run.seed)
        boxes = random_boxes(space, rng, 4 * threads if threads > 1 else 1)
        if check:
            singles = single_members(space, rng)
            first, alone = self._pass(run, operands, n_inputs, singles, 1, alone=True)
            second, together = self._pass(run, operands, n_inputs, boxes, threads, alone=False)
            if not (first.order_matters or second.order_matters):
                self._compare(alone, together, names)
            for operand, result in zip(operands[n_inputs:], together[n_inputs:], strict=True):
                operand.bits[...] = result.bits
        else:
            library = self._library(check=False)
            second = first = self._execute(library, run, boxes, threads)
        vector, scalar = local_bytes(self._variables)
        return Report(
            members=math.prod(space),
            boxes=tuple(
                (tuple(b[: len(space)].tolist()), tuple(b[MAX_DIMS : MAX_DIMS + len(space)].tolist())) for b in boxes
            ),
            checked=check,
            dropped=second.count("dropped", names),
            padded=second.count("padded", names),
            reread=first.count("reread", names),
            order_matters=second.order_matters,
            vector_memory=vector,
            scalar_memory=scalar,
            printed=second.printed,
            seed=seed,
        )

    def _library(self, *, check: bool) -> Path:
        if check not in self._libraries:
            self._libraries[check] = build(self._source, *self._options, check=check).library
        return self._libraries[check]

    def _operands(self, inputs: Sequence[Array], outputs: Sequence[Array], names: list[str]) -> list[Operand]:
        for what, given in (("inputs", inputs), ("outputs", outputs)):
            if isinstance(given, np.ndarray | torch.Tensor):
                message = f"{what} is one array of shape {tuple(given.shape)}; give a list of tensors"
                raise TypeError(message)
        if len(inputs) + len(outputs) != len(names):
            message = (
                f"{self.name} has {len(names)} tensors ({', '.join(names)}); "
                f"{len(inputs)} inputs and {len(outputs)} outputs were given"
            )
            raise ValueError(message)
        arrays = [*inputs, *outputs]
        return [Operand.of(a, f"tensor {n} of {self.name}") for a, n in zip(arrays, names, strict=True)]

    def _describe(
        self,
        operands: list[Operand],
        n_inputs: int,
        scalars: Sequence[Any],
        pad_values: Sequence[float] | None,
        access: list[tuple[Access, ...]] | None,
    ) -> Run:
        names = [p.name for p in self.parameters]
        tensor_names = [p.name for p in self.parameters if p.type == "tensor"]
        scalar_names = [p.name for p in self.parameters if p.type != "tensor"]
        if len(scalars) != len(self._letters):
            message = (
                f"{self.name} has {len(self._letters)} scalars ({', '.join(scalar_names)}); {len(scalars)} were given"
            )
            raise ValueError(message)
        if pad_values is not None and len(pad_values) != len(operands):
            message = f"pad_values has {len(pad_values)} values; {self.name} has {len(operands)} tensors"
            raise ValueError(message)
        run = Run(name=self.name.encode(), n_tensors=len(operands), n_scalars=len(scalars))
        started = {o.view for o in operands[:n_inputs]}
        for i, (operand, name) in enumerate(zip(operands, tensor_names, strict=True)):
            pad = 0 if pad_values is None else pad_values[i]
            bits = pad_bits(pad, operand.element, f"the pad value of {name}") if pad else 0
            run.tensors[i].describe(operand, bits, None if access is None else access[i])
            run.tensors[i].name = f"{name} (tensor {i})".encode() if name in names else name.encode()
            run.tensors[i].is_output = i >= n_inputs
            run.tensors[i].starts_written = operand.view in started
        for i, (value, letter, name) in enumerate(zip(scalars, self._letters, scalar_names, strict=True)):
            run.scalars[i] = scalar_bits(value, letter, f"scalar {name} of {self.name}")
        return run

    def _pass(
        self, run: Run, operands: list[Operand], n_inputs: int, boxes: Boxes, threads: int, *, alone: bool
    ) -> tuple[_Pass, list[Operand]]:
        """Runs in checking mode on copies of the outputs, and of the inputs that are in their memory."""
        copies = {o.view: o.copy() for o in operands[n_inputs:]}
        used = [copies.get(o.view, o) for o in operands]
        writers = {view: np.zeros(max(o.span, 1), np.int32) for view, o in copies.items()} if alone else {}
        mapped = [t.mapped for t in run.tensors]
        for i, (operand, copy) in enumerate(zip(operands, used, strict=True)):
            run.tensors[i].data = copy.bits.ctypes.data
            written = writers.get(operand.view)
            run.tensors[i].writers = None if written is None else written.ctypes.data
            run.tensors[i].mapped = mapped[i] and alone
        try:
            return self._execute(self._library(check=True), run, boxes, threads), used
        finally:
            for i, was_mapped in enumerate(mapped):
                run.tensors[i].mapped = was_mapped

    def _execute(self, library: Path, run: Run, boxes: Boxes, threads: int) -> _Pass:
        """Runs all boxes. The caller keeps alive what the run points to."""
        lock = np.zeros(1, np.int32)
        run.boxes, run.lock = boxes.ctypes.data, lock.ctypes.data
        n = len(boxes)
        if threads == 1:
            with engines(library, 1) as (engine,):
                outcome = Outcome()
                _, printed = engine.run(run, 0, n, outcome)
                return self._finish([outcome], printed)
        outcomes = [Outcome() for _ in range(threads)]
        printed_by_box = [""] * n
        numbers = iter(range(n))
        turn = threading.Lock()

        def work(engine: Any, outcome: Outcome) -> None:
            while not outcome.error:
                with turn:
                    number = next(numbers, None)
                if number is None:
                    return
                _, printed_by_box[number] = engine.run(run, number, number + 1, outcome)

        with engines(library, threads) as taken:
            workers = [
                threading.Thread(target=work, args=pair, daemon=True) for pair in zip(taken, outcomes, strict=True)
            ]
            try:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
            except BaseException:  # Ctrl-C, or no more threads
                with turn:
                    for _ in numbers:
                        pass
                _wait_for(workers)
                raise
        return self._finish(outcomes, "".join(printed_by_box))

    def _finish(self, outcomes: list[Outcome], printed: str) -> _Pass:
        for outcome in outcomes:
            if outcome.error:
                raise KernelError(outcome.error.decode(errors="replace"))
        return _Pass(outcomes, printed)

    def _compare(self, alone: list[Operand], together: list[Operand], names: list[str]) -> None:
        for name, a, b in zip(names, alone, together, strict=True):
            if np.array_equal(a.bits, b.bits):
                continue
            where = tuple(int(i) for i in np.argwhere(a.bits != b.bits)[0][::-1])
            message = (
                f"kernel {self.name}: {name} at {where} depends on how the index space is cut: "
                f"bits {_hex(a.bits, where)} when each member runs alone, {_hex(b.bits, where)} in boxes of several"
            )
            raise KernelError(message)


def _wait_for(workers: Sequence[threading.Thread]) -> None:
    """Until all that were started have ended, however often Ctrl-C comes: what they write to is theirs until then."""
    while running := [worker for worker in workers if worker.is_alive()]:
        with contextlib.suppress(KeyboardInterrupt):
            running[0].join()


def _hex(bits: Bits, where: tuple[int, ...]) -> str:
    return f"{int(bits[where[::-1]]):#0{2 + 2 * bits.itemsize}x}"


def compile(  # noqa: A001 (as in re.compile)
    source: str | Path,
    arch: str = "gaudi3",
    defines: Defines | None = None,
    include_dirs: Sequence[str | Path] = (),
) -> Kernel:
    """Compiles a TPC-C file for the emulator, with the system's C++ compiler.

    The compiler is ``$CXX``, or the first of c++, g++ and clang++. Libraries are kept in
    ``$XDG_CACHE_HOME/gaudi3_rt/tpc`` (by default ``~/.cache/gaudi3_rt/tpc``), and found again as long as the file, all
    that it includes, the emulator, the compiler and the options are the same.

    Args:
        source: the file, C99 or C++ as far as both take it.
        arch: ``gaudi``, ``gaudi2`` or ``gaudi3``; says which macros are defined.
        defines: macros; None or nothing after the name, True as 1.
        include_dirs: where else to look for what the file includes.

    Returns:
        The kernel, ready to run in checking mode. The fast variant is compiled when it is first asked for.

    Raises:
        CompileError: the file does not compile (the text has its lines, and says which intrinsic is missing), takes
            more local memory than there is, or there is no compiler.
        FileNotFoundError: there is no such file.
        ValueError: ``arch`` or a name in ``defines`` is not known.
    """
    return Kernel(Path(source), arch, defines or {}, [Path(d) for d in include_dirs])
