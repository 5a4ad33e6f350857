"""Configuration of a training run: typed, checked at once, from files, environment, command line and code.

See docs/config.md.
"""

from gaudi3_rt.config._findings import Finding
from gaudi3_rt.config._load import Loaded, load, load_health
from gaudi3_rt.config._models import ClusterConfig, DatasetConfig, HealthConfig, ModelConfig, TrainingConfig
from gaudi3_rt.config._optimizers import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    LAMBConfig,
    LARSConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
)
from gaudi3_rt.config._schema import json_schema
from gaudi3_rt.config._validate import (
    ValidationResult,
    validate_cluster_config,
    validate_dataset_config,
    validate_health_config,
    validate_model_config,
    validate_optimizer_config,
    validate_training_config,
)

__all__ = [
    "AdagradConfig",
    "AdamConfig",
    "AdamWConfig",
    "ClusterConfig",
    "DatasetConfig",
    "Finding",
    "HealthConfig",
    "LAMBConfig",
    "LARSConfig",
    "LionConfig",
    "Loaded",
    "ModelConfig",
    "MuonConfig",
    "OptimizerConfig",
    "SGDConfig",
    "TrainingConfig",
    "ValidationResult",
    "json_schema",
    "load",
    "load_health",
    "validate_cluster_config",
    "validate_dataset_config",
    "validate_health_config",
    "validate_model_config",
    "validate_optimizer_config",
    "validate_training_config",
]
