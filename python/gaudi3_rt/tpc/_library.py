"""A compiled kernel as loaded code: one copy of its library is one TPC engine, with local memory of its own.

The structures restate those of ``tpc_kernels/emulator/state.h`` and ``entry.h``.
"""

from __future__ import annotations

import ctypes as c
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaudi3_rt.tpc._access import MAX_DIMS, Access
from gaudi3_rt.tpc._arrays import ELEMENTS, Operand
from gaudi3_rt.tpc._elf import symbols

MAX_TENSORS = 16
MAX_SCALARS = 32
_ERROR_BYTES = 4096


class Mapping(c.Structure):
    """Of one dimension of a tensor, what a member may touch."""

    _fields_ = (
        ("a", c.c_double),
        ("start", c.c_double),
        ("end", c.c_double),
        ("index_dim", c.c_int32),
        ("all", c.c_int32),
    )


class TensorDescriptor(c.Structure):
    """A tensor in the order of dimensions that a TPC has: 0 changes fastest."""

    _fields_ = (
        ("data", c.c_void_p),
        ("name", c.c_char_p),
        ("writers", c.c_void_p),
        ("size", c.c_int64 * MAX_DIMS),
        ("stride", c.c_int64 * MAX_DIMS),
        ("span", c.c_int64),
        ("mapping", Mapping * MAX_DIMS),
        ("element", c.c_int32),
        ("is_output", c.c_int32),
        ("starts_written", c.c_int32),
        ("mapped", c.c_int32),
        ("rank", c.c_int32),
        ("pad", c.c_uint32),
    )

    def describe(self, operand: Operand, pad: int, access: tuple[Access, ...] | None) -> None:
        """Fills all but name, writers and what kind of tensor it is."""
        self.data = operand.bits.ctypes.data
        self.span = operand.span
        self.element = ELEMENTS.index(operand.element)
        self.pad = pad
        self.rank = max(operand.bits.ndim, 1)
        self.mapped = access is not None
        sizes, strides = operand.bits.shape[::-1], operand.strides[::-1]
        for d in range(MAX_DIMS):
            self.size[d] = sizes[d] if d < len(sizes) else 1
            self.stride[d] = strides[d] if d < len(strides) else 0
            given = access[d] if access is not None and d < len(access) else Access()
            self.mapping[d] = Mapping(given.a, given.start, given.end, given.index_dim, given.all_required)


class Run(c.Structure):
    """All that boxes of one run have in common."""

    _fields_ = (
        ("name", c.c_char_p),
        ("boxes", c.c_void_p),
        ("lock", c.c_void_p),
        ("tensors", TensorDescriptor * MAX_TENSORS),
        ("scalars", c.c_uint32 * MAX_SCALARS),
        ("n_tensors", c.c_int32),
        ("n_scalars", c.c_int32),
        ("index_rank", c.c_int32),
        ("seed", c.c_uint64),
        ("special_ulps", c.c_double),
        ("fast_special_ulps", c.c_double),
    )


class Outcome(c.Structure):
    """What an engine counted, and its error."""

    _fields_ = (
        ("dropped", c.c_int64 * MAX_TENSORS),
        ("padded", c.c_int64 * MAX_TENSORS),
        ("reread", c.c_int64 * MAX_TENSORS),
        ("order_matters", c.c_int32),
        ("error", c.c_char * _ERROR_BYTES),
    )


class Local(c.Structure):
    """A variable of the kernel in local memory."""

    _fields_ = (("address", c.c_void_p), ("size", c.c_int64), ("initialised", c.c_int32))


class Engine:
    """A loaded copy of a kernel's library: who loads the same file gets the same variables, so each gets a copy."""

    def __init__(self, library: Path) -> None:
        handle, copy = tempfile.mkstemp(suffix=".so", prefix=f"{library.stem}-", dir=library.parent)
        os.close(handle)
        try:
            shutil.copyfile(library, copy)
            self._code = c.CDLL(copy)
        finally:
            Path(copy).unlink()
        self._code.gaudi3_rt_tpc_signature.restype = c.c_char_p
        self._code.gaudi3_rt_tpc_printed.restype = c.c_char_p
        self._run = self._code.gaudi3_rt_tpc_run
        self._run.argtypes = (c.c_void_p, c.c_int64, c.c_int64, c.c_void_p)
        self.variables, functions = symbols(library)
        entry = c.cast(self._run, c.c_void_p).value or 0
        self._set_locals(entry - functions["gaudi3_rt_tpc_run"])

    def _set_locals(self, base: int) -> None:
        table = (Local * max(len(self.variables), 1))(
            *(Local(base + v.address, v.size, v.initialised) for v in self.variables)
        )
        self._code.gaudi3_rt_tpc_set_locals(table, len(self.variables))

    @property
    def signature(self) -> str:
        """A letter for each parameter of main: ``t`` for a tensor, else that of a scalar."""
        signature: bytes = self._code.gaudi3_rt_tpc_signature()
        return signature.decode()

    def run(self, run: Run, begin: int, end: int, outcome: Outcome) -> tuple[bool, str]:
        """Runs boxes ``begin`` to ``end - 1`` without the interpreter's lock: whether all went well, and the text."""
        failed = self._run(c.byref(run), begin, end, c.byref(outcome))
        printed: bytes = self._code.gaudi3_rt_tpc_printed()
        return not failed, printed.decode(errors="replace")


_idle: dict[Path, list[Engine]] = {}
_idle_lock = threading.Lock()


@contextmanager
def engines(library: Path, n: int) -> Iterator[list[Engine]]:
    """``n`` engines that nobody else uses until the end of the block; they are kept for the next."""
    with _idle_lock:
        idle = _idle.setdefault(library, [])
        taken = [idle.pop() for _ in range(min(n, len(idle)))]
    try:
        taken += [Engine(library) for _ in range(n - len(taken))]
        yield taken
    finally:
        with _idle_lock:
            _idle[library] += taken
