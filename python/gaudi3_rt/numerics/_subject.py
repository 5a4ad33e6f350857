"""What is audited: a class or any callable that makes optimizers, its name, and how to write it in Python."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

Factory = Callable[..., torch.optim.Optimizer]


class RefusedError(Exception):
    """The factory raised for the options that it was given."""

    def __init__(self, options: Mapping[str, Any], error: Exception) -> None:
        self.options = dict(options)
        self.error = error
        super().__init__(f"{type(error).__name__}: {error}")

    @property
    def names_it(self) -> list[str]:
        """Those of the options that the error names."""
        return [name for name in self.options if name in str(self.error)]


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
        self.name = _public_name(inner) + (f"({_keywords(self.bound)})" if self.bound else "")

    def make(self, params: Any, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """An optimizer.

        Raises:
            RefusedError: the factory raised.
        """
        try:
            return self.factory(params, **options)
        except Exception as error:
            raise RefusedError(options, error) from error

    def makes(self, options: Mapping[str, Any]) -> bool:
        """Whether an optimizer of one small parameter can be made with these options."""
        try:
            self.make([torch.nn.Parameter(torch.ones(2))], options)
        except RefusedError:
            return False
        return True

    def lacking(self, options: Mapping[str, Any], optional: Collection[str]) -> tuple[str, ...]:
        """Those of the optional ones that it refuses while it takes the others; none if it refuses these too."""
        needed = {name: value for name, value in options.items() if name not in optional}
        if not optional or self.makes(options) or not self.makes(needed):
            return ()
        return tuple(name for name in optional if not self.makes({**needed, name: options[name]}))

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
