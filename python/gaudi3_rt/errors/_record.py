"""How the end of a training script is reported: torchrun's error file, advice on stderr, an exit status."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import inspect
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

from gaudi3_rt import _config
from gaudi3_rt.errors._classify import Classification, classify, from_exception
from gaudi3_rt.errors._describe import text_of
from gaudi3_rt.errors._types import ConfigurationError

EX_CONFIG = 78
"""Exit status of a script that no retry can help: its configuration has to be changed first (sysexits.h)."""
EX_FAILURE = 1

_MAX_TRACEBACK = 30_000
_log = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def exit_code(error: BaseException) -> int:
    """Status with which a script should end: 78 if its configuration has to be changed first, else 1."""
    found = classify(error)
    return EX_CONFIG if issubclass(found.error, ConfigurationError) and not found.retryable else EX_FAILURE


@overload
def record(function: _Function, /) -> _Function: ...
@overload
def record() -> Recorder: ...
def record(function: Callable[..., Any] | None = None) -> Any:
    """What ends a script is reported: by ``@record`` on its main function, plain or async, or ``with`` around it.

    An exception is classified, and what it means is written to stderr and, under torchrun, to the error file from
    which torchrun makes its summary (in place of ``torch.distributed.elastic.multiprocessing.errors.record``). Then it
    goes on, so that the script ends with status 1; but an error of configuration ends it with status 78, "do not
    retry". torchrun itself ends with status 1 whatever its workers' statuses were; it lists those.
    ``SystemExit`` and ``KeyboardInterrupt`` are not touched.
    """
    recorder = Recorder()
    return recorder if function is None else recorder(function)


class Recorder:
    """What :func:`record` returns."""

    def __call__(self, function: _Function) -> _Function:
        """Decorates a function."""
        recorded: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def recorded(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def recorded(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        decorated: _Function = recorded
        return decorated

    def __enter__(self) -> None:
        # Stacks of all threads on a segmentation fault, as torch's record shows them; a notebook has no file for them.
        with contextlib.suppress(OSError, AttributeError):
            faulthandler.enable(all_threads=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        if _of_children(error):
            return
        found = classify(error)
        advice = from_exception(error).describe()
        _write(error, found, advice)
        if exit_code(error) == EX_CONFIG:
            traceback.print_exception(kind, error, tb)
            print(f"\n{advice}", file=sys.stderr, flush=True)  # noqa: T201 (the end of a script)
            raise SystemExit(EX_CONFIG) from error
        print(advice, file=sys.stderr, flush=True)  # noqa: T201 (same)


def _of_children(error: Exception) -> bool:
    """Whether ``error`` is a launcher's report on its own workers, whose error file then goes to the launcher's."""
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415 (slow to import)
        ChildFailedError,
        get_error_handler,
    )

    if not isinstance(error, ChildFailedError):
        return False
    _, failure = error.get_first_failure()
    if Path(failure.error_file).is_file():
        get_error_handler().dump_error_file(failure.error_file, failure.exitcode)
    return True


def error_file_content(error: BaseException, found: Classification, advice: str) -> dict[str, Any]:
    """The error file of one worker, in the format of torch's ``ErrorHandler``; torchrun shows ``py_callstack``.

    What the error means stands under the traceback there, and as fields of their own under ``gaudi3_rt``.
    """
    # A traceback is cut at its start: what was raised, and where, stands at its end.
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))[-_MAX_TRACEBACK:]
    ours = from_exception(error)
    message = f"{type(error).__name__}: {text_of(error)}"
    return {
        "message": {
            "message": message if error is ours else f"{message} [error {ours.code}]",
            "extraInfo": {
                "py_callstack": f"{text_of(stack, _MAX_TRACEBACK)}\n{advice}",
                "timestamp": str(int(time.time())),
                "gaudi3_rt": {"error": ours.to_dict(), "classification": found.to_dict()},
            },
        }
    }


def _write(error: BaseException, found: Classification, advice: str) -> None:
    """Writes the error file whole or not at all; a file that cannot be written must not hide the error."""
    name = _config.error_file()
    if name is None:
        return
    part = Path(f"{name}.part")
    try:
        part.write_text(json.dumps(error_file_content(error, found, advice)), encoding="utf-8")
        part.replace(name)
    except OSError as failure:
        _log.warning("%s: %s; torchrun will not show this error", name, failure)
