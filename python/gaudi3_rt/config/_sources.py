"""Where settings come from: files, environment, command line, code; each setting with its origin."""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaudi3_rt import _config
from gaudi3_rt._section import Section
from gaudi3_rt.config._findings import Finding
from gaudi3_rt.config._models import TrainingConfig
from gaudi3_rt.config._yaml import YamlError, parse
from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "GAUDI3_RT_"
LARGEST_FILE = 1 << 20
_SEPARATOR = "__"


@dataclass(frozen=True)
class Setting:
    """A value for one key.

    Attributes:
        path: the key in its sections, e.g. ``("optimizer", "lr")``.
        value: read as YAML where it was written as text.
        origin: where it was written.
        text: how it was written, for variables and the command line, in case the key wants text.
    """

    path: tuple[str, ...]
    value: Any
    origin: str
    text: str | None = None


@dataclass(frozen=True)
class File:
    """What a file says, and who may read and change it."""

    settings: list[Setting]
    mode: int


def read_file(path: str | os.PathLike[str]) -> File:
    """Reads a YAML, JSON or TOML file, told by its suffix.

    Raises:
        MissingConfigurationError: there is no such file.
        InvalidConfigurationError: it cannot be read, or is not what its suffix says.
    """
    file = Path(path)
    parsers = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".json": _parse_json, ".toml": _parse_toml}
    if file.suffix not in parsers:
        msg = f"{file}: its suffix {file.suffix!r} is none of {', '.join(parsers)}"
        raise InvalidConfigurationError(msg)
    try:
        text, mode = _read(file)
        tree, lines = parsers[file.suffix](text)
        if tree is None:
            tree = {}
        leaves = list(_leaves(tree)) if isinstance(tree, dict) else []
    except FileNotFoundError as error:
        msg = f"{file}: there is no such file"
        raise MissingConfigurationError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "strerror", None) or error
        msg = f"{file}: {why}"
        raise InvalidConfigurationError(msg) from error
    if not isinstance(tree, dict):
        msg = f"{file}: holds {type(tree).__name__}; a configuration is a mapping of keys to values"
        raise InvalidConfigurationError(msg)

    def origin(path: tuple[str, ...]) -> str:
        return f"file {file}:{lines[path]}" if path in lines else f"file {file}"

    return File([Setting(path, value, origin(path)) for path, value in leaves], mode)


def environment_settings(environ: Mapping[str, str]) -> Iterator[Setting | Finding]:
    """``GAUDI3_RT_OPTIMIZER__LR`` is ``optimizer.lr``; variables that the runtime itself reads are passed over."""
    own = _config.variables()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in own:
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split(_SEPARATOR))
        if path[0] in TrainingConfig.model_fields:
            yield _from_text(path, environ[variable], f"env {variable}")
        else:
            known = [name.removeprefix(PREFIX) for name in own] + [name.upper() for name in TrainingConfig.model_fields]
            wrong, *rest = variable.removeprefix(PREFIX).split(_SEPARATOR)
            near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.7)
            meant = f"; did you mean {PREFIX}{_SEPARATOR.join([near[0], *rest])}?" if near else ""
            message = f"{variable} is no key of a configuration and no variable of gaudi3_rt{meant}"
            yield Finding(path="", message=message, kind="structure", severity="error", origin=f"env {variable}")


def assignment_settings(texts: Iterable[str]) -> Iterator[Setting | Finding]:
    """``optimizer.lr=1e-4``, as after ``--set``."""
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            path = tuple(key.strip().split("."))
            yield _from_text(path, value, f"--set {key.strip()}")
        else:
            message = "--set takes key=value, like optimizer.lr=1e-4; there is no '=' or no key before it"
            yield Finding(path="", message=message, kind="structure", severity="error", origin="--set")


def code_settings(values: Mapping[str, Any]) -> Iterator[Setting]:
    """Keyword arguments; a model replaces its section, a mapping only the keys that it has."""
    return (Setting(path, value, "code") for path, value in _leaves(values))


def _leaves(tree: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value and not isinstance(value, Section):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _from_text(path: tuple[str, ...], text: str, origin: str) -> Setting:
    try:
        value, _ = parse(text)
    except YamlError:
        value = text
    return Setting(path, text if value is None and not text.strip() else value, origin, text)


def _read(file: Path) -> tuple[str, int]:
    if file.exists() and not file.is_file():
        msg = "is not a file"
        raise ValueError(msg)
    with file.open("rb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        data = stream.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        msg = f"is larger than {LARGEST_FILE} bytes"
        raise ValueError(msg)
    try:
        return data.decode("utf-8-sig"), mode
    except UnicodeDecodeError as error:
        msg = f"is not UTF-8: byte {error.start}"
        raise ValueError(msg) from None


Parsed = tuple[Any, dict[tuple[str, ...], int]]


def _parse_yaml(text: str) -> Parsed:
    return parse(text)


def _parse_json(text: str) -> Parsed:
    try:
        tree = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        msg = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(msg) from None
    return tree, _lines_of_json(text)


# Texts, with the colon that makes one a key; what opens and closes; ends of lines, which no text of JSON has in it.
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"(?=\s*(:?))|[{}\n]')


def _lines_of_json(text: str) -> dict[tuple[str, ...], int]:
    """The line of each key, by path, in a text that is known to be JSON."""
    lines: dict[tuple[str, ...], int] = {}
    keys: list[str] = []  # of each open object the key that it has got to
    line = 1
    for token in _JSON_TOKEN.finditer(text):
        match token[0]:
            case "\n":
                line += 1
            case "{":
                keys.append("")
            case "}":
                keys.pop()
            case key if token[1]:
                keys[-1] = json.loads(key)
                lines[tuple(keys)] = line
    return lines


def _parse_toml(text: str) -> Parsed:
    return tomllib.loads(text), {}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            msg = f"the key {key[:80]!r} is there twice"
            raise ValueError(msg)
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
