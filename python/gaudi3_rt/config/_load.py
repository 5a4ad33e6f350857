"""Which configuration is in force, and where each value of it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gaudi3_rt import _config
from gaudi3_rt._section import Section
from gaudi3_rt.config._findings import Finding, path_text
from gaudi3_rt.config._models import HealthConfig, TrainingConfig
from gaudi3_rt.config._security import LEAK, examine_file
from gaudi3_rt.config._sources import (
    Setting,
    assignment_settings,
    code_settings,
    environment_settings,
    read_file,
)
from gaudi3_rt.config._validate import check
from gaudi3_rt.errors import ConfigurationError, InvalidConfigurationError, MissingConfigurationError

DEFAULT = "default"
_FIRST_OPTIMIZER = "adamw"
_HEALTH = "health"
_ADVICE = ("gaudi3-rt config check shows the same", "gaudi3-rt config schema lists all keys")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A configuration in force.

    Attributes:
        config: the configuration.
        origins: where each value comes from, by path: ``{"optimizer.lr": "file run.yaml:12", "seed": "default"}``.
        warnings: security findings, performance hints and rules of thumb.
    """

    config: TrainingConfig
    origins: Mapping[str, str]
    warnings: tuple[Finding, ...]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    root: str | os.PathLike[str] | None = None,
    **values: Any,
) -> Loaded:
    """Reads a configuration. Of two sources the later one in this list wins, value by value.

    Defaults, the file, variables ``GAUDI3_RT_*``, ``assignments``, ``values``.

    Args:
        path: a ``.yaml``, ``.yml``, ``.json`` or ``.toml`` file; None for none.
        environ: the variables; those of this process if not given, ``{}`` for none.
        assignments: texts like ``"optimizer.lr=1e-4"``, as from a command line.
        root: a folder that no path of the configuration may lead out of.
        **values: settings from code; a mapping changes keys of its section, a model replaces it.

    Raises:
        MissingConfigurationError: the file does not exist, or values are needed that were given nowhere.
        InvalidConfigurationError: what is wrong (up to 100 entries), each with its place and origin; also in
            ``context["problems"]``.
    """
    done = examine(path, environ=environ, assignments=assignments, root=root, values=values)
    errors = [one for one in done.findings if one.severity == "error"]
    if errors or not isinstance(done.config, TrainingConfig):
        raise _error(path, errors)
    return Loaded(config=done.config, origins=done.origins, warnings=tuple(done.findings))


@dataclass(frozen=True)
class Examined:
    """What became of all sources: a configuration unless there are errors among the findings."""

    config: Section | None
    origins: Mapping[str, str]
    findings: list[Finding]


def examine(
    path: str | os.PathLike[str] | None,
    *,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    root: str | os.PathLike[str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Examined:
    """As :func:`load`, with findings instead of errors about values.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    file = None if path is None else read_file(path)
    merged = _Merged()
    for one in (
        *(file.settings if file else ()),
        *environment_settings(_config.environment() if environ is None else environ),
        *assignment_settings(assignments),
        *code_settings(values or {}),
    ):
        if isinstance(one, Finding):
            merged.findings.append(one)
        else:
            merged.put(one)
    merged.name_optimizer()
    config, found = merged.check(None if root is None else Path(root))
    given = {path_text(key): setting.origin for key, setting in merged.settings.items()}
    found = [replace(one, origin=_origin(one.path, given)) for one in found]
    if file is not None:
        secret = any(one.message == LEAK and (one.origin or "").startswith("file") for one in found)
        found += examine_file(os.fspath(path or ""), file.mode, holds_secret=secret)
    origins = {} if config is None else {where: _origin(where, given) or DEFAULT for where in _paths(config)}
    return Examined(config, origins, [*merged.findings, *found])


@dataclass
class _Merged:
    """Settings put over one another."""

    tree: dict[str, Any] = field(default_factory=dict)
    settings: dict[tuple[str, ...], Setting] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def put(self, setting: Setting) -> None:
        """The later setting wins; a section that holds something else is not changed in passing."""
        *sections, key = setting.path
        node = self.tree
        for depth, name in enumerate(sections, 1):
            if node.get(name) is None:
                if name in node:
                    self._forget(tuple(sections[:depth]))
                node[name] = {}
            elif isinstance(node[name], Section):
                node[name] = node[name].model_dump(exclude_unset=True)
            if not isinstance(node[name], dict):
                before = self.settings.get(tuple(sections[:depth]))
                where = "" if before is None else f" ({before.origin})"
                message = f"a key of {'.'.join(sections[:depth])}, which is no section but a single value{where}"
                self.findings.append(_structural(path_text(setting.path), message, setting.origin))
                return
            node = node[name]
        if (
            isinstance(setting.value, Mapping) and not setting.value
        ):  # a section without a key changes none, so that all in it have their own origins
            node[key] = {} if node.get(key) is None else node[key]
            return
        if key in node:  # what is new has no settings to be looked for among all others
            self._forget(setting.path)
        node[key] = setting.value
        self.settings[setting.path] = setting

    def _forget(self, section: tuple[str, ...]) -> None:
        """What was set at a path and below it is so no longer."""
        self.settings = {path: one for path, one in self.settings.items() if path[: len(section)] != section}

    def name_optimizer(self) -> None:
        """Options without the name of an optimizer are those of the default one."""
        optimizer = self.tree.get("optimizer")
        if isinstance(optimizer, dict):
            optimizer.setdefault("name", _FIRST_OPTIMIZER)

    def check(self, root: Path | None) -> tuple[Section | None, list[Finding]]:
        """The model, or what is wrong. Where text is wanted, a variable's value is taken as it was written."""
        config, found = check(TrainingConfig, self.tree, root)
        wanted = {one.path for one in found if one.allowed == "text"}
        if not wanted:
            return config, found
        for path, setting in self.settings.items():
            if setting.text is not None and path_text(path) in wanted:
                node = self.tree
                for name in path[:-1]:
                    node = node[name]
                node[path[-1]] = setting.text
        return check(TrainingConfig, self.tree, root)


def _origin(path: str, origins: Mapping[str, str]) -> str | None:
    """Where a value, or the section it was given with, or the first value in it, comes from."""
    if not path:
        return None
    plain = path.partition("[")[0]
    parts = plain.split(".")
    above = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    below = (key for key in origins if key.startswith(f"{plain}."))
    return next((origins[key] for key in chain([path], above, below) if key in origins), None)


def _paths(config: Section, prefix: str = "") -> list[str]:
    paths = []
    for name, value in config:
        where = prefix + name
        paths += _paths(value, f"{where}.") if isinstance(value, Section) else [where]
    return paths


def _structural(path: str, message: str, origin: str) -> Finding:
    return Finding(path=path, message=message, kind="structure", severity="error", origin=origin)


def _error(
    path: str | os.PathLike[str] | None, errors: list[Finding], advice: Sequence[str] = _ADVICE
) -> ConfigurationError:
    kind = MissingConfigurationError if all(one.missing for one in errors) else InvalidConfigurationError
    title = "the configuration" if path is None else os.fspath(path)
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    return kind(
        "\n  ".join([f"{title} has {count}:", *map(str, errors)]),
        context={"problems": [one.to_dict() for one in errors]},
        suggestions=advice,
    )


def load_health(
    path: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None
) -> HealthConfig:
    """The section ``health`` alone, from the configuration of a run or from a file of its own.

    A file that has a key ``health`` is the configuration of a run, whose other sections are passed over; otherwise the
    file is the section. Variables ``GAUDI3_RT_HEALTH__*`` win over it.

    Args:
        path: as for :func:`load`.
        environ: as for :func:`load`.

    Raises:
        MissingConfigurationError: the file does not exist, or values are needed that were given nowhere.
        InvalidConfigurationError: what is wrong, each with its place and origin.
    """
    given = [] if path is None else read_file(path).settings
    if not any(one.path[0] == _HEALTH for one in given):
        given = [replace(one, path=(_HEALTH, *one.path)) for one in given]
    merged = _Merged()
    variables = environment_settings(_config.environment() if environ is None else environ)
    for one in (*given, *variables):
        if isinstance(one, Finding):
            merged.findings.append(one)
        elif one.path[0] == _HEALTH:
            merged.put(one)
    config, found = check(HealthConfig, merged.tree.get(_HEALTH) or {})
    origins = {path_text(key[1:]): setting.origin for key, setting in merged.settings.items()}
    found = [*merged.findings, *(replace(one, origin=_origin(one.path, origins)) for one in found)]
    errors = [one for one in found if one.severity == "error"]
    if errors or not isinstance(config, HealthConfig):
        raise _error(path, errors, ["gaudi3-rt config schema lists all keys, under HealthConfig"])
    return config
