"""What is audited: a class or any callable that makes optimizers, its name, and how to write it in Python."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import platform
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gaudi3_rt.errors import ParameterValidationError

Factory = Callable[..., torch.optim.Optimizer]


class RefusedError(Exception):
    """The factory raised for the options that it was given."""

    def __init__(self, options: Mapping[str, Any], error: BaseException) -> None:
        self.options = dict(options)
        self.error = error
        super().__init__(f"{type(error).__name__}: {error}")

    @property
    def unknown(self) -> str | None:
        """The option that it does not have, where that is why."""
        found = re.search(r"unexpected keyword argument '(\w+)'", str(self.error))
        return found[1] if isinstance(self.error, TypeError) and found and found[1] in self.options else None


class Subject:
    """A factory, what it is called, and what it is given beforehand.

    Args:
        factory: from parameters or groups, and options as keywords, to an optimizer.
    """

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.bound: dict[str, Any] = {}
        inner: Any = factory
        while isinstance(inner, functools.partial):
            self.bound = {**inner.keywords, **self.bound}
            inner = inner.func
        self._inner = inner
        self.closure_asked = ""
        """What a step without a closure raises, where one with a closure does not: each step is given one then."""
        self._is_learned = False
        self.name = _public_name(inner) + (f"({_keywords(self.bound)})" if self.bound else "")

    def make(self, params: Any, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """An optimizer of parameters or groups, which are the factory's own lists and dictionaries.

        Raises:
            RefusedError: the factory raised.
        """
        own = [dict(one) if isinstance(one, dict) else one for one in params]
        try:
            made = self.factory(own, **options)
        except (Exception, SystemExit) as error:
            raise RefusedError(options, error) from error
        if self.closure_asked:
            made.step = types.MethodType(_closed(type(made).step), made)  # type: ignore[method-assign]  # of this one
        return made

    def learn_step(self, device: torch.device, options: Mapping[str, Any]) -> bool:
        """Whether a step turns out to need a closure, when one has raised: true once, and false ever after."""
        if self._is_learned:
            return False
        self._is_learned = True
        errors: list[Exception] = []
        for closures in ((), (_still,)):
            param = torch.nn.Parameter(torch.ones(2, 2, device=device))
            param.grad = torch.ones_like(param)
            try:
                self.make([param], options).step(*closures)
                break
            except Exception as error:  # noqa: BLE001 (whatever it raises)
                errors.append(error)
        if len(errors) == 1:
            self.closure_asked = f"{type(errors[0]).__name__}: {errors[0]}"
        return bool(self.closure_asked)

    def check(self, device: torch.device) -> None:
        """Refuses a factory that makes something else; one that raises is a finding of the checks.

        Raises:
            ParameterValidationError: what it makes is no optimizer.
        """
        with contextlib.suppress(RefusedError):
            made: Any = self.make([torch.nn.Parameter(torch.zeros(2, 2, device=device))], {})
            if not isinstance(made, torch.optim.Optimizer):
                msg = (
                    f"{self.name} must make a torch.optim.Optimizer, and makes an object of type {type(made).__name__}"
                )
                raise ParameterValidationError(msg)

    def takes(self, option: str) -> bool | None:
        """Whether the signature has this keyword; None where it does not tell."""
        try:
            parameters = inspect.signature(self._inner).parameters
        except (TypeError, ValueError):
            return None
        if option in parameters:
            return True
        return None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else False

    def lines(self) -> list[str]:
        """Python that defines ``Optimizer``."""
        module, _, name = _public_name(self._inner).rpartition(".")
        if not module or "<" in name:
            return [f"Optimizer = ...  # {self.name}"]
        if not self.bound:
            return [f"from {module} import {name} as Optimizer"]
        head = ["import functools"] if module else []
        return [
            *head,
            f"from {module} import {name}",
            f"Optimizer = functools.partial({name}, {_keywords(self.bound)})",
        ]

    def versions(self) -> dict[str, str]:
        """Of Python, torch, and the distribution that the factory is from."""
        found = {"python": platform.python_version(), "torch": str(torch.__version__)}
        package = _public_name(self._inner).partition(".")[0]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.setdefault(package, importlib.metadata.version(package))
        return found


def _still() -> torch.Tensor:
    """A closure that leaves gradients as they are."""
    return torch.zeros(())


def _closed(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that has such a closure where none is given."""

    @functools.wraps(step)
    def stepped(self: torch.optim.Optimizer, closure: Callable[[], Any] = _still) -> Any:
        return step(self, closure)

    return stepped


def _public_name(obj: Any) -> str:
    """The shortest dotted name by which it can be imported."""
    name = getattr(obj, "__qualname__", type(obj).__qualname__)
    module = str(getattr(obj, "__module__", type(obj).__module__))
    parts = module.split(".")
    for length in range(1, len(parts)):
        shorter = ".".join(parts[:length])
        if getattr(sys.modules.get(shorter), name, None) is obj:
            return f"{shorter}.{name}"
    return f"{module}.{name}"


def _keywords(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
