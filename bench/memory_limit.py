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


class _Chunk(ctypes.Structure):
    _fields_ = (
        ("param", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("words", ctypes.c_int64),
    )


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
    loaded.update.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_uint64)
    loaded.update.restype = None
    loaded.read.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    loaded.read.restype = ctypes.c_uint64
    return loaded


class MemoryLimit:
    """Moves the bytes of a step over the given tensors, all threads taking chunks from one list; changes no value."""

    def __init__(self, library: ctypes.CDLL, tensors: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        """Cuts parameters, gradients, first and second moments (in this order, contiguous) into chunks."""
        chunks = []
        for operands in tensors:
            if any(t.nbytes != operands[0].nbytes or not t.is_contiguous() for t in operands):
                msg = "the memory limit needs contiguous tensors of equal size"
                raise ValueError(msg)
            words = operands[0].nbytes // WORD_BYTES
            for begin in range(0, words, CHUNK_WORDS):
                addresses = [t.data_ptr() + begin * WORD_BYTES for t in operands]
                chunks.append(_Chunk(*addresses, min(CHUNK_WORDS, words - begin)))
        self._library = library
        self._tensors = tensors  # keeps the memory alive
        self._count = len(chunks)
        self._chunks = (_Chunk * self._count)(*chunks)

    def update(self) -> None:
        """The traffic of a step: four arrays read, three written in place."""
        self._library.update(self._chunks, self._count, torch.get_num_threads(), 0)

    def norm_and_update(self) -> None:
        """The traffic of a step with clipping: the gradients read once more, before all the rest."""
        self._library.read(self._chunks, self._count, torch.get_num_threads())
        self.update()
