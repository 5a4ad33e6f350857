"""What in a configuration helps an attacker: secrets, open files, plain HTTP, paths that lead out, foreign code."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from gaudi3_rt._forms import is_loopback, path_fault, split_url
from gaudi3_rt._redact import redact
from gaudi3_rt._section import Section
from gaudi3_rt.config._findings import Finding, Severity
from gaudi3_rt.config._models import TrainingConfig

LEAK = (
    "the value looks like a secret; give it to the program by a variable or a file of its own, "
    "and replace the secret if this configuration was shared"
)
_PATHS = {"output_dir", "resume_from_checkpoint", "dataset.path", "model.name"}
_OF_SECTION = {("DatasetConfig", "path"): "dataset.path", ("ModelConfig", "name"): "model.name"}


def texts(config: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a configuration, with their paths."""
    for name, value in config:
        if isinstance(value, str):
            yield prefix + name, value
        elif isinstance(value, Section):
            yield from texts(value, f"{prefix}{name}.")


def examine(config: Section, root: Path | None) -> Iterator[Finding]:
    """Findings about values; with a ``root``, relative paths start there and none may lead out of it."""
    for path, text in texts(config):
        if redact(text) != text:
            yield _finding(path, LEAK, "high")
        url = split_url(text)
        if url is not None and url.scheme == "http" and url.hostname and not is_loopback(url.hostname):
            yield _finding(path, "http:// sends everything readable and changeable on its way; use https://", "medium")
        if root is not None and _OF_SECTION.get((type(config).__name__, path), path) in _PATHS:
            fault = "names a file by a URL; write it as a path" if _names_a_file(text) else None
            if url is None and fault is None:
                fault = path_fault(text, root, absolute=True)
            # "last" and names of models are no paths, but then they do not lead out either.
            if fault is not None:
                yield _finding(path, f"{fault}; it has to stay inside of {root}", "error")
    model = config.model if isinstance(config, TrainingConfig) else config
    if getattr(model, "trust_remote_code", False):
        pinned = getattr(model, "revision", None) is not None
        path = "model.trust_remote_code" if model is not config else "trust_remote_code"
        advice = "read it first" if pinned else "read it, and name its commit as revision, or it may change at any time"
        message = f"the model's own Python code is executed with the rights of this run; {advice}"
        yield _finding(path, message, "medium" if pinned else "high")


def _names_a_file(text: str) -> bool:
    """Whether a URL leads to this machine's files, also over another file system: ``simplecache::file:///data``."""
    return any(part.lower().startswith(("file:", "local:")) for part in text.split("::"))


def examine_file(file: str, mode: int, *, holds_secret: bool) -> Iterator[Finding]:
    """Findings about the permissions of a configuration's file."""
    if mode & stat.S_IWOTH:
        yield _finding("", f"{file} can be changed by every user of this machine; chmod o-w {file}", "high")
    if mode & stat.S_IROTH and holds_secret:
        yield _finding("", f"{file} holds a secret and can be read by every user; chmod o-r {file}", "high")


def _finding(path: str, message: str, severity: Severity) -> Finding:
    return Finding(path=path, message=message, kind="security", severity=severity)
