"""One rival in a process of its own: whether it cannot be imported, crashes or hangs, only it is lost."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from harness import Rival, Workload, excess
from memory_limit import WORD_BYTES, Traffic, compile_library
from questions import Entrant, Question
from torch import Tensor

ANSWER_SECONDS = 1200.0  # the longest, a compilation of C++ on a busy machine, takes minutes
CLIP_RATIO = 4.0  # norm over bound, or the reverse
_ERROR_LENGTH = 160


class RivalError(Exception):
    """Why a rival is out of the race, in one line."""


@dataclass(frozen=True)
class Started:
    """What is known of a rival after its first run."""

    seconds: float  # to make it and to run it once, compilation included
    state_bytes: float  # of each element


# In the process


class Contender:
    """An optimizer or a clipping function, ours or a peer's, with parameters and gradients of its own."""

    def __init__(self, question: Question, entrant: Entrant, workload: Workload) -> None:
        """Imports it."""
        self._question, self._entrant, self._workload = question, entrant, workload
        self._load = entrant.load()
        self._rival = Rival(lambda: None)
        self._optimizer: Any = None
        self._results: list[Tensor] = []  # what is compared
        self._waker = torch.zeros(1 << 18)

    def start(self) -> Started:
        """Makes tensors, optimizer and state; runs once."""
        params = self._workload.make(spread=0.02, seed=2)
        grads = self._workload.make(spread=0.01, seed=1)
        for param, grad in zip(params, grads, strict=True):
            param.requires_grad_()
            param.grad = grad
        if self._question.clips:
            self._rival, self._results = self._clipping(params, grads), grads
        begin = time.perf_counter()
        if not self._question.clips:
            groups = [{"params": params, **self._entrant.group}]
            self._optimizer = self._load(groups, **self._entrant.options)
            self._rival, self._results = Rival(self._optimizer.step), params
        self._rival.run()
        seconds = time.perf_counter() - begin
        gc.collect()
        return Started(seconds, _state_bytes(self._optimizer) / sum(p.numel() for p in params))

    def _clipping(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> Rival:
        norm = sum(float(grad.double().square().sum()) for grad in grads) ** 0.5
        above = self._question.clips == "norm above"
        bound = norm / CLIP_RATIO if above else norm * CLIP_RATIO

        def restore() -> None:
            if above:  # gradients that are clipped would not be clipped in the next round
                torch._foreach_mul_(grads, CLIP_RATIO)

        return Rival(lambda: self._load(params, bound, **self._entrant.options), restore)

    def run(self) -> float:
        """Seconds of one run; not in it is the time to wake the threads, which slept while the other rivals ran."""
        self._waker.add_(1)
        begin = time.perf_counter()
        self._rival.run()
        return time.perf_counter() - begin

    def restore(self) -> None:
        """Undoes what would make the next round differ."""
        self._rival.restore()

    def save(self, file: Path) -> None:
        """Writes the results for others to compare with."""
        saved = torch.from_file(str(file), shared=True, size=sum(t.numel() for t in self._results))
        for piece, tensor in zip(saved.split([t.numel() for t in self._results]), self._results, strict=True):
            piece.copy_(tensor.detach().view(-1))

    def compare(self, file: Path) -> float:
        """How far saved results are from ours, beyond the relative tolerance."""
        saved = torch.from_file(str(file), shared=True, size=sum(t.numel() for t in self._results))
        pieces = saved.split([t.numel() for t in self._results])
        rtol, _ = self._question.tolerance
        found = [
            excess(ours, theirs.detach().view(-1).float(), rtol)
            for ours, theirs in zip(pieces, self._results, strict=True)
        ]
        return float(torch.tensor(found, dtype=torch.float64).clamp(min=0).max())


class Limit:
    """The memory traffic of an ideal implementation, without arithmetic."""

    def __init__(self, question: Question, workload: Workload, directory: Path) -> None:
        """Compiles the loops."""
        self._question, self._workload = question, workload
        self._library = compile_library(directory)
        self._passes: list[Traffic] = []
        self._waker = torch.zeros(1 << 18)

    def start(self) -> Started:
        """Makes the arrays; runs once."""
        traffic = self._question.traffic
        names = {name for one in traffic for name in (*one.read, *one.update)}
        arrays = {name: self._array(self._question.size(name)) for name in names}
        self._passes = [
            Traffic(self._library, read=[arrays[n] for n in one.read], update=[arrays[n] for n in one.update])
            for one in traffic
        ]
        return Started(self.run(), 0.0)

    def _array(self, size: float) -> list[Tensor]:
        words = [round(size * torch.Size(shape).numel() / WORD_BYTES) for shape in self._workload.shapes]
        return [torch.ones(n, dtype=torch.int64) for n in words]

    def run(self) -> float:
        """Seconds of one run."""
        self._waker.add_(1)
        begin = time.perf_counter()
        for one in self._passes:
            one.run()
        return time.perf_counter() - begin

    def restore(self) -> None:
        """Nothing has changed."""


def _state_bytes(optimizer: torch.optim.Optimizer | None) -> float:
    found = [] if optimizer is None else [t for state in optimizer.state.values() for t in state.values()]
    n_bytes = 0
    while found:
        tensor = found.pop()
        if not isinstance(tensor, Tensor):
            continue
        if hasattr(tensor, "__tensor_flatten__"):  # a wrapper says that it has the dtype it stands for
            found += [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        else:
            n_bytes += tensor.nbytes
    return n_bytes


def one_line(error: BaseException) -> str:
    """Type and first line of the message, cut."""
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {message}"[:_ERROR_LENGTH]


def _serve(connection: Connection, make: Callable[[], Any], log: Path) -> None:
    os.setsid()  # so that compilers and workers it starts end with it
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    served: Any = None
    asked: tuple[str, tuple[Any, ...]] | None = ("", ())
    while asked is not None:
        method, arguments = asked
        try:
            if served is None:
                served = make()
                answer = None
            else:
                answer = getattr(served, method)(*arguments)
        except BaseException as error:  # noqa: BLE001 (a peer that exits is lost like one that raises)
            traceback.print_exc()
            connection.send((False, one_line(error)))
            return
        connection.send((True, answer))
        asked = connection.recv()


# Outside


class RivalProcess:
    """Starts a rival, asks it one thing at a time, and ends it."""

    def __init__(self, context: BaseContext, make: Callable[[], Any], log: Path) -> None:
        """Starts the process, which begins to import what it needs."""
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, log))
        self._process.start()
        theirs.close()

    def wait(self, seconds: float = ANSWER_SECONDS) -> Any:
        """The answer to the last question, or for the first time: that everything is imported.

        Raises:
            RivalError: the rival raised an error, died, or does not answer.
        """
        try:
            if not self._connection.poll(seconds):
                msg = f"no answer within {seconds:.0f} s"
                raise RivalError(msg)
            good, answer = self._connection.recv()
        except (EOFError, OSError):
            raise RivalError(self._death()) from None
        if not good:
            raise RivalError(answer)
        return answer

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the contender.

        Raises:
            RivalError: as in ``wait``.
        """
        self.send(method, *arguments)
        return self.wait()

    def send(self, method: str, *arguments: Any) -> None:
        """Asks without waiting for the answer.

        Raises:
            RivalError: the process has ended.
        """
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise RivalError(self._death()) from None

    def _death(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        return f"died: {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with status {code}"

    def close(self) -> None:
        """Ends the process, in its own way if it still answers, and what it started."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._connection.close()
