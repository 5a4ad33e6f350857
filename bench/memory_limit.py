"""The memory limit of an optimizer step: its traffic without its arithmetic, compiled on the spot."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch  # before the library is loaded: its loops run in the OpenMP runtime that torch brings
from torch import Tensor

SOURCE = Path(__file__).with_name("memory_limit.c")
CHUNK_WORDS = 16 * 1024
WORD_BYTES = 8


class _Span(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("words", ctypes.c_int64))


def compile_library(directory: Path) -> ctypes.CDLL:
    """Compiles ``memory_limit.c`` with the system's compiler (``CC``, else ``cc``) and loads it."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        msg = f"no C compiler {compiler[0]!r} to measure the memory limit with; install one or set CC"
        raise FileNotFoundError(msg)
    directory.mkdir(parents=True, exist_ok=True)
    built, library = directory / "memory_limit.o", directory / "memory_limit.so"
    flags = ["-std=c11", "-O3", "-march=native", "-fopenmp", "-fPIC"]
    subprocess.run([*compiler, *flags, "-c", SOURCE, "-o", built], check=True)  # noqa: S603 (the user's compiler)
    # Linked without -fopenmp: no libgomp is named, so its symbols are found in the one that torch has loaded, and no
    # second pool of threads comes into being.
    subprocess.run([*compiler, "-shared", built, "-o", library], check=True)  # noqa: S603
    loaded = ctypes.CDLL(str(library))
    loaded.touch.argtypes = (ctypes.c_void_p, ctypes.c_int64, *(3 * [ctypes.c_int]), ctypes.c_uint64)
    loaded.touch.restype = ctypes.c_uint64
    loaded.read_one.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    loaded.read_one.restype = ctypes.c_uint64
    return loaded


class Traffic:
    """One pass over arrays, all threads taking chunks from one list: reads some, rewrites others; changes no value."""

    def __init__(
        self, library: ctypes.CDLL, *, read: Sequence[Sequence[Tensor]] = (), update: Sequence[Sequence[Tensor]] = ()
    ) -> None:
        """Takes arrays as lists of contiguous tensors, one for each parameter; arrays may differ in their dtypes."""
        self._library = library
        self._tensors = (read, update)  # keeps the memory alive
        self._n_read, self._n_update = len(read), len(update)
        spans = []
        for tensors in zip(*read, *update, strict=True):
            if not all(t.is_contiguous() for t in tensors):
                msg = "memory traffic needs contiguous tensors"
                raise ValueError(msg)
            words = [t.nbytes // WORD_BYTES for t in tensors]
            pieces = -(-max(words) // CHUNK_WORDS)
            for i in range(pieces):
                for tensor, n in zip(tensors, words, strict=True):
                    begin = n * i // pieces
                    spans.append(_Span(tensor.data_ptr() + begin * WORD_BYTES, n * (i + 1) // pieces - begin))
        self._count = len(spans) // (self._n_read + self._n_update)
        self._spans = (_Span * len(spans))(*spans)

    def run(self) -> None:
        """Moves the bytes once."""
        if (self._n_read, self._n_update) == (1, 0):
            self._library.read_one(self._spans, self._count, torch.get_num_threads())
        else:
            n_threads = torch.get_num_threads()
            self._library.touch(self._spans, self._count, self._n_read, self._n_update, n_threads, 0)


class MemoryLimit:
    """The traffic of an optimizer that has two moments, over the given tensors."""

    def __init__(self, library: ctypes.CDLL, tensors: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        """Takes parameter, gradient, first and second moment of each parameter, all contiguous."""
        params, grads, *moments = (list(array) for array in zip(*tensors, strict=True))
        self._norm = Traffic(library, read=[grads])
        self._scale = Traffic(library, update=[grads])
        self._update = Traffic(library, read=[grads], update=[params, *moments])

    def update(self) -> None:
        """The traffic of a step: four arrays read, three written in place."""
        self._update.run()

    def norm(self) -> None:
        """The traffic of a norm: the gradients read once."""
        self._norm.run()

    def scale(self) -> None:
        """The traffic of scaling: the gradients read and written in place."""
        self._scale.run()

    def norm_and_update(self) -> None:
        """The traffic of a step with clipping: the gradients read once more, before all the rest."""
        self.norm()
        self.update()
