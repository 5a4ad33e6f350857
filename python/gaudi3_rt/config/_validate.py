"""Is this configuration valid, and what should its owner know? Answers as records; nothing here raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaudi3_rt._redact import redact
from gaudi3_rt._section import Section
from gaudi3_rt.config._findings import Finding
from gaudi3_rt.config._hints import hints
from gaudi3_rt.config._models import ClusterConfig, DatasetConfig, HealthConfig, ModelConfig, TrainingConfig
from gaudi3_rt.config._optimizers import OptimizerConfig
from gaudi3_rt.config._security import examine
from gaudi3_rt.config._structure import findings


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What was found in one configuration.

    Attributes:
        is_valid: there are no errors.
        errors: all that is wrong, up to 100 entries. Rules between values are looked at when the values are right.
        warnings: security findings, performance hints and rules of thumb; only of valid configurations.
        sanitized_value: the configuration as values for JSON, with defaults filled in and secrets masked: what may be
            logged and stored. None if invalid.
        config: the same as a model, to be used. None if invalid.
    """

    is_valid: bool
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    sanitized_value: dict[str, Any] | None
    config: Section | None = field(repr=False)


def validate_training_config(
    config: Mapping[str, Any] | TrainingConfig, *, root: Path | None = None
) -> ValidationResult:
    """Looks at everything: structure, rules, security, performance. Never raises.

    Args:
        config: the configuration; anything else is an error in the result.
        root: a folder that no path of the configuration may lead out of.
    """
    return _validate(TrainingConfig, config, root)


def validate_model_config(config: Mapping[str, Any] | ModelConfig, *, root: Path | None = None) -> ValidationResult:
    """The same for the section ``model`` alone."""
    return _validate(ModelConfig, config, root)


def validate_dataset_config(config: Mapping[str, Any] | DatasetConfig, *, root: Path | None = None) -> ValidationResult:
    """The same for the section ``dataset`` alone."""
    return _validate(DatasetConfig, config, root)


def validate_cluster_config(config: Mapping[str, Any] | ClusterConfig) -> ValidationResult:
    """The same for the section ``cluster`` alone."""
    return _validate(ClusterConfig, config, None)


def validate_optimizer_config(config: Mapping[str, Any] | OptimizerConfig) -> ValidationResult:
    """The same for the section ``optimizer`` alone."""
    return _validate(OptimizerConfig, config, None)


def validate_health_config(config: Mapping[str, Any] | HealthConfig) -> ValidationResult:
    """The same for the section ``health`` alone."""
    return _validate(HealthConfig, config, None)


def _validate(kind: type[Section], value: Any, root: Path | None) -> ValidationResult:
    try:
        config, found = check(kind, value, root)
    except Exception as error:  # noqa: BLE001 (objects may raise whatever they like when they are looked at)
        message = f"the value cannot be looked at: it raised {type(error).__name__}"
        config, found = None, [Finding(path="", message=message, kind="structure", severity="error")]
    return result(config, found)


def result(config: Section | None, found: list[Finding]) -> ValidationResult:
    """The record of a configuration and what was found in it."""
    errors = tuple(one for one in found if one.severity == "error")
    return ValidationResult(
        is_valid=not errors,
        errors=errors,
        warnings=tuple(one for one in found if one.severity != "error"),
        sanitized_value=None if errors or config is None else redact(config.model_dump(mode="json")),
        config=None if errors else config,
    )


def check(kind: type[Section], value: Any, root: Path | None = None) -> tuple[Section | None, list[Finding]]:
    """The model of a value, None if its structure or a rule is broken, and all findings."""
    try:
        config = kind.model_validate(dict(value) if isinstance(value, Mapping) else value)
    except ValidationError as error:
        return None, findings(error, kind)
    found = list(examine(config, root))
    if isinstance(config, TrainingConfig):
        found += hints(config)
    return config, found
