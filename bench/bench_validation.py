"""How long does it take to validate a configuration, and to look for values that are not finite?"""

from __future__ import annotations

import time

import pytest
import torch
from harness import OURS, TORCH, Lab, Rival, Row, Wanted

from gaudi3_rt.config import validate_training_config
from gaudi3_rt.validation import TensorSpec, validate_batch

CONFIGURATION = {
    "max_steps": 10_000,
    "warmup_steps": 100,
    "per_device_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "global_batch_size": 256,
    "autocast_dtype": "bfloat16",
    "output_dir": "runs/first",
    "tracking_uri": "https://mlflow.example.org",
    "model": {"name": "gpt2", "hidden_size": 768, "num_attention_heads": 12},
    "dataset": {"path": "data", "num_workers": 4},
    "cluster": {"device": "hpu", "nproc_per_node": 8, "hpu_lazy_mode": False},
    "optimizer": {"name": "adamw", "lr": 3e-4, "betas": [0.9, 0.95], "max_grad_norm": 1.0},
}


def test_configuration(lab: Lab) -> None:
    """Structure, rules, security and hints of a usual configuration; of 100 in a row."""
    samples: list[float] = []

    def validate() -> None:
        begin = time.perf_counter()
        for _ in range(100):
            assert validate_training_config(CONFIGURATION).is_valid
        samples.append((time.perf_counter() - begin) / 100)

    validate()
    samples.clear()
    lab.benchmark.group = "validation"
    lab.benchmark.pedantic(validate, rounds=lab.scale.rounds[1])
    lab.note({OURS: samples})
    lab.rows.append(Row("validate a configuration", "", {OURS: samples}, rival="", wanted=[Wanted("ms", 1.0)]))


@pytest.mark.parametrize("workload", ["a", "b bf16"])
def test_finite(lab: Lab, workload: str) -> None:
    """One pass without a temporary, and torch's with one."""
    tensors = lab.scale.workloads[workload].make(1.0, 0)
    batch = {str(i): tensor for i, tensor in enumerate(tensors)}
    specs = dict.fromkeys(batch, TensorSpec())
    lab.benchmark.group = f"finite {workload}"
    samples = lab.race(
        {
            OURS: Rival(lambda: validate_batch(batch, specs)),
            TORCH: Rival(lambda: all(bool(torch.isfinite(tensor).all()) for tensor in tensors)),
        }
    )
    lab.rows.append(Row("all values finite", workload, samples))
