"""What an audit needs of the process, and the process as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")

_turn = threading.RLock()
"""One audit at a time: warning filters, default dtype and random state belong to all threads."""


def _after_fork() -> None:
    global _turn  # noqa: PLW0603 (the thread that held it is not in the child)
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def left_alone(device: torch.device) -> Iterator[None]:
    """Plain surroundings, whatever the caller's are; afterwards what checks or the optimizer changed is restored."""
    with _turn, contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(_set_deterministic, *_deterministic())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 (the user's)
        on_cpu = device.type == "cpu"
        stack.enter_context(
            torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type)
        )
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(1)  # tensors are small: threads would take far longer to meet than to work
        yield


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(mode: bool, warn_only: bool) -> None:
    if _deterministic() != (mode, warn_only):
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def seed(device: torch.device, number: int) -> None:
    """Of the random numbers on one device and on the CPU; ``torch.manual_seed`` would change those of all devices."""
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def with_threads(count: int, run: Callable[[], Result]) -> Result:
    """What a function returns on so many threads.

    On a thread of its own: in a forked process, OpenMP waits for ever for those that the parent's main thread had.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        torch.set_num_threads(count)
        try:
            results.append(run())
        except BaseException as error:  # noqa: BLE001 (raised again by the caller)
            errors.append(error)

    before = torch.get_num_threads()
    worker = threading.Thread(target=work, name="gaudi3_rt-audit", daemon=True)
    worker.start()
    worker.join()
    torch.set_num_threads(before)  # what later threads begin with
    if errors:
        raise errors[0]
    return results[0]
