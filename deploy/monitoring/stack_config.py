"""What make monitor-up has Prometheus and Alertmanager read: the committed configuration, for this place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HOST = "127.0.0.1"


def prometheus_config(folder: Path, alertmanager_port: int) -> str:
    """The configuration with absolute paths, and this Alertmanager."""
    config: dict[str, Any] = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))
    config["rule_files"] = [str(folder / pattern) for pattern in config["rule_files"]]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"{HOST}:{alertmanager_port}"]}]}]
    for job in config["scrape_configs"]:
        for discovery in job.get("file_sd_configs", ()):
            discovery["files"] = [str(folder / pattern) for pattern in discovery["files"]]
    return yaml.safe_dump(config, sort_keys=False)


def alertmanager_config(folder: Path) -> tuple[str, dict[str, list[Path]]]:
    """The configuration without the channels that lack a secret; and by channel the files that say none."""
    config: dict[str, Any] = yaml.safe_load((folder / "alertmanager.yml").read_text("utf-8"))
    config["templates"] = [str(folder / pattern) for pattern in config.get("templates", ())]
    missing: dict[str, list[Path]] = {}
    for receiver in config["receivers"]:
        for kind in [key for key in receiver if key.endswith("_configs")]:
            absent = [path for one in receiver[kind] for path in _resolve_secrets(one, folder) if not _says(path)]
            missing[kind.removesuffix("_configs")] = absent
            if absent:
                del receiver[kind]
    return yaml.safe_dump(config, sort_keys=False), missing


def _resolve_secrets(config: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Makes the paths of secret files absolute: Alertmanager takes them from its working directory."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _resolve_secrets(value, folder)
        elif key.endswith("_file"):
            config[key] = str(folder / value)
            yield folder / value


def _says(path: Path) -> bool:
    """Whether the file is there, can be read and is not empty."""
    return os.access(path, os.R_OK) and path.stat().st_size > 0
