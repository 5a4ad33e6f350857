"""How pydantic's errors become findings: where, what was seen, what is allowed, and what the writer may have meant."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gaudi3_rt._section import RULE, Section
from gaudi3_rt._show import show
from gaudi3_rt.config._findings import Finding, path_text
from gaudi3_rt.config._models import ClusterConfig, DatasetConfig, HealthConfig, ModelConfig, TrainingConfig
from gaudi3_rt.config._optimizers import BY_NAME, OptimizerConfig
from gaudi3_rt.health import Check
from gaudi3_rt.health._checks import BY_TYPE

Path = tuple[str | int, ...]

SECTIONS: dict[str, type[Section]] = {
    "cluster": ClusterConfig,
    "dataset": DatasetConfig,
    "health": HealthConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
}

# What the same thing is called by transformers, Lightning, torchtitan and DeepSpeed.
OTHER_NAMES = {
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "batch_size": "per_device_batch_size",
    "bf16": "autocast_dtype",
    "ckpt_path": "resume_from_checkpoint",
    "clip_grad_norm": "optimizer.max_grad_norm",
    "dataloader_num_workers": "dataset.num_workers",
    "devices": "cluster.nproc_per_node",
    "fp16": "autocast_dtype",
    "gradient_clip_val": "optimizer.max_grad_norm",
    "gradient_clipping": "optimizer.max_grad_norm",
    "learning_rate": "optimizer.lr",
    "local_batch_size": "per_device_batch_size",
    "micro_batch_size": "per_device_batch_size",
    "model_name_or_path": "model.name",
    "num_train_steps": "max_steps",
    "per_device_train_batch_size": "per_device_batch_size",
    "precision": "autocast_dtype",
    "steps": "max_steps",
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "per_device_batch_size",
}

_ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "int_type": "an integer",
    "invalid_key": "keys that are text",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "string_too_long": "text of at most {max_length} characters",
    "string_too_short": "text of at least {min_length} characters",
    "string_type": "text",
    "string_unicode": "text without lone surrogates",
    "too_long": "a list of {max_length}",
    "too_short": "a list of {min_length}",
}
_MOST = 100  # findings: somebody else's file may have thousands of unknown keys
_YAML_1_1_BOOLEAN = re.compile(r"(?i)(y|yes|n|no|on|off)")
_ALMOST_A_NUMBER = re.compile(r"[-+]?[\d_:.]*\d(e[-+]?\d+)?", re.IGNORECASE)


def findings(error: ValidationError, kind: type[Section]) -> list[Finding]:
    """One finding for each value that is wrong, up to a number; alternatives of one value are put together."""
    by_path: dict[str, Finding] = {}
    for one in error.errors(include_url=False):
        if len(by_path) == _MOST:
            message = f"there are more problems; the first {_MOST} are listed"
            by_path[""] = Finding(path="", message=message, kind="structure", severity="error")
            break
        found = _finding(one, kind)
        before = by_path.get(found.path)
        by_path[found.path] = found if before is None else _either(before, found)
    # Of a list with a wrong item, only the item is wrong.
    return [one for path, one in by_path.items() if not any(other.startswith(f"{path}[") for other in by_path)]


def _either(first: Finding, second: Finding) -> Finding:
    if first.allowed is None or second.allowed is None or second.allowed in first.allowed:
        return first
    return _wrong(first.path, first.seen, f"{first.allowed}, or {second.allowed}", "")


def _finding(error: Mapping[str, Any], kind: type[Section]) -> Finding:
    path, section = _locate(error["loc"], kind)
    where, name = path_text(path), str(path[-1]) if path else ""
    type_, value = error["type"], error["input"]
    if type_ == RULE:
        seen = None if value is None else show(value, name)
        message = error["ctx"]["message"] if seen is None else f"{seen}: {error['ctx']['message']}"
        return Finding(path=where, message=message, kind="rule", severity="error", seen=seen)
    if type_ == "extra_forbidden":
        message = f"unknown key{_meant(path, section, kind)}"
        return Finding(path=where, message=message, kind="structure", severity="error")
    if type_ == "missing":
        return _missing(where, section.model_fields[name].description or "")
    if type_ in {"union_tag_not_found", "union_tag_invalid"}:
        tag, known, what = ("type", BY_TYPE, "check") if section is HealthConfig else ("name", BY_NAME, "optimizer")
        where = f"{where}.{tag}" if where else tag
        if type_ == "union_tag_not_found":
            return _missing(where, f"say which {what}: {', '.join(known)}")
        value = value.get(tag) if isinstance(value, dict) else getattr(value, tag, None)
        type_ = "literal_error"
        allowed = ", ".join(known)
    else:
        allowed = _ALLOWED[type_].format(**_short_numbers(error.get("ctx", {}))).replace("'", "")
    return _wrong(where, show(value, name), allowed, _hint(value, type_, allowed))


def _missing(where: str, meaning: str) -> Finding:
    return Finding(path=where, message=f"is needed: {meaning}", kind="structure", severity="error", missing=True)


def _short_numbers(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}


def _wrong(where: str, seen: str | None, allowed: str, hint: str) -> Finding:
    message = f"seen {seen}; allowed: {allowed}{hint}"
    return Finding(path=where, message=message, kind="structure", severity="error", seen=seen, allowed=allowed)


def _locate(location: Path, kind: type[Section]) -> tuple[Path, type[Section]]:
    """The path of a value, without what pydantic adds for alternatives, and the section that it belongs to."""
    path: list[str | int] = []
    section, inside = kind, True
    for part in location:
        if section is HealthConfig and part in BY_TYPE:
            section, inside = BY_TYPE[str(part)], True
        elif not inside:
            path += [part] if isinstance(part, int) else []
        elif section is OptimizerConfig and part in BY_NAME:
            section = BY_NAME[str(part)]
        else:
            path.append(part)
            deeper = SECTIONS.get(str(part)) if section is TrainingConfig else None
            section, inside = (section, False) if deeper is None else (deeper, True)
    return tuple(path), section


def _meant(path: Path, section: type[Section], kind: type[Section]) -> str:
    key = str(path[-1])
    if issubclass(section, OptimizerConfig):
        if key in section.left_out:
            return f": {section.left_out[key]}; leave it out"
        if owners := [name for name, one in BY_NAME.items() if key in one.model_fields]:
            return f" of this optimizer; it is an option of {', '.join(owners)}"
    prefix = path_text(path[:-1])
    if near := difflib.get_close_matches(key.lower(), section.model_fields, n=1, cutoff=0.7):
        return f"; did you mean {prefix + '.' if prefix else ''}{near[0]}?"
    if elsewhere := _elsewhere(key) if kind is TrainingConfig else None:
        return f"; did you mean {elsewhere}?"
    is_short = len(section.model_fields) <= 12 or issubclass(section, Check)  # noqa: PLR2004 (a line)
    return f"; known here: {', '.join(section.model_fields)}" if is_short else ""


def _elsewhere(key: str) -> str | None:
    """The path of a key that is written nearly so in another section, or by another library."""
    paths = _paths_by_key()
    near = difflib.get_close_matches(key.lower(), paths, n=1, cutoff=0.8)
    return paths[near[0]] if near else None


@functools.cache
def _paths_by_key() -> dict[str, str]:
    paths = dict(OTHER_NAMES)
    for name, section in reversed(SECTIONS.items()):
        for one in BY_NAME.values() if section is OptimizerConfig else [section]:
            paths |= {key: f"{name}.{key}" for key in one.model_fields}
    return paths | {key: key for key in TrainingConfig.model_fields}


def _hint(value: Any, type_: str, allowed: str) -> str:
    if not isinstance(value, str):
        return ""
    if type_ == "bool_type" and _YAML_1_1_BOOLEAN.fullmatch(value):
        return " (yes, no, on and off are text, as in YAML 1.2)"
    if type_ in {"int_type", "float_type"} and _ALMOST_A_NUMBER.fullmatch(value):
        return " (written without quotes, underscores, colons and leading zeros)"
    if type_ == "literal_error" and (near := difflib.get_close_matches(value, re.findall(r"\w+", allowed), n=1)):
        return f"; did you mean {near[0]}?"
    return ""
