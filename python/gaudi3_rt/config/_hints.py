"""What in a valid configuration costs time or accuracy, each with who says so."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gaudi3_rt.config._findings import Finding, Kind, Severity
from gaudi3_rt.config._models import TrainingConfig
from gaudi3_rt.config._optimizers import MuonConfig, SGDConfig

_LINEAR = "linear scaling: Goyal et al. 2017, arXiv:1706.02677"
_SQRT = "square-root scaling: Malladi et al. 2022, arXiv:2205.10287"
_WARMUP = "Goyal et al. 2017, arXiv:1706.02677, section 2.2"

# The rules of scaling are rules of thumb, so only a learning rate far from them is worth a line: by this factor from
# what was known to be good, by the other from what was good for another model.
_FAR, _VERY_FAR = 3.0, 10.0
_GOYAL_LR, _GOYAL_BATCH = 0.1, 256


def hints(config: TrainingConfig) -> Iterator[Finding]:
    """All of them."""
    yield from _learning_rate(config)
    yield from _loading(config)
    yield from _precision(config)
    yield from _modes(config)


def _learning_rate(config: TrainingConfig) -> Iterator[Finding]:
    optimizer, batch = config.optimizer, config.effective_batch_size
    known = config.lr_base is not None and config.lr_base_size is not None
    if not known and not (isinstance(optimizer, SGDConfig) and optimizer.momentum > 0):
        return
    base = config.lr_base or _GOYAL_LR
    grown = batch / (config.lr_base_size or _GOYAL_BATCH)
    linear = optimizer.scaling == "linear"
    scaled = base * (grown if linear else math.sqrt(grown))
    if scaled == 0:  # of a base below the least float there is no multiple
        return
    factor = optimizer.lr / scaled
    far = _FAR if known else _VERY_FAR
    if factor > far or (known and 0 < factor < 1 / far):
        message = (
            f"{optimizer.lr:g} is {factor:.2g} times what {base:g} for {config.lr_base_size or _GOYAL_BATCH} samples "
            f"makes for the {batch} samples of a step, {scaled:.2g}"
        )
        yield _hint("optimizer.lr", message, "medium", _LINEAR if linear else _SQRT, kind="rule")
    if known and optimizer.lr > base and config.warmup_steps == 0:
        message = (
            f"a learning rate raised for a large batch ({base:g} to {optimizer.lr:g}) needs a warm-up to start with"
        )
        yield _hint("warmup_steps", message, "medium", _WARMUP, kind="rule")


def _loading(config: TrainingConfig) -> Iterator[Finding]:
    dataset = config.dataset
    if dataset is None:
        return
    if dataset.num_workers == 0:
        message = "batches are loaded in the training process, between steps; 2 or more load while a step runs"
        yield _hint("dataset.num_workers", message, "medium", "torch.utils.data, 'Single-process data loading'")
    if config.cluster.device == "hpu" and not dataset.drop_last:
        message = "the smaller last batch has a new shape, for which graphs may be compiled again"
        yield _hint("dataset.drop_last", message, "low", "docs.habana.ai, 'Handling Dynamic Shapes'")


def _precision(config: TrainingConfig) -> Iterator[Finding]:
    model, optimizer = config.model, config.optimizer
    if model is None:
        return
    if config.cluster.device == "hpu" and model.dtype == "float32" and config.autocast_dtype is None:
        message = "all arithmetic is float32; Gaudi's matrix engine has its speed in bfloat16: autocast_dtype: bfloat16"
        yield _hint("autocast_dtype", message, "medium", "Gaudi 3 at Hot Chips 2024: 1835 TFLOPS of bfloat16 matrices")
    loses = isinstance(optimizer, MuonConfig) or (optimizer.master is None and optimizer.rounding == "nearest")
    if model.dtype == "bfloat16" and loses:
        message = (
            "bfloat16 parameters rounded to nearest lose updates below 1/512 of their value; "
            "rounding: stochastic keeps them on average, and master keeps them all, where the optimizer has these"
        )
        yield _hint("optimizer", message, "medium", "github.com/pytorch/pytorch/issues/120376")


def _modes(config: TrainingConfig) -> Iterator[Finding]:
    if config.cluster.device == "hpu" and config.cluster.hpu_lazy_mode is None:
        message = "the default of PT_HPU_LAZY_MODE differs between versions of the plug-in (1, later 0); say which"
        yield _hint(
            "cluster.hpu_lazy_mode", message, "low", "docs.habana.ai, 'Runtime Environment Variables', 1.8 and latest"
        )


def _hint(path: str, message: str, severity: Severity, source: str, *, kind: Kind = "performance") -> Finding:
    return Finding(path=path, message=message, kind=kind, severity=severity, source=source)
