"""What a training run is configured by: the sections and their fields, each with its meaning, unit and range."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import AsInteger, AsList, Broken, Dtype, PathText, Positive, Ratio, Section, Seed, Text, setting
from gaudi3_rt.config._optimizers import AdamWConfig, AnyOptimizer, _Stored
from gaudi3_rt.health import Check, HealthCheck, HealthMonitor, HpuDeviceCheck, create_default_hpu_health_checks
from gaudi3_rt.health._checks import AnyCheck
from gaudi3_rt.health._hpu import Celsius

Count = Annotated[int, Field(ge=1, lt=2**63), AsInteger]
CountOrZero = Annotated[int, Field(ge=0, lt=2**63), AsInteger]
Port = Annotated[int, Field(ge=1, le=65535), AsInteger]


class ModelConfig(Section):
    """The model that is trained."""

    name: PathText = setting(..., "Name of the model, or a folder with it.")
    revision: Text | None = setting(None, "Branch, tag or commit of the model; null for the newest.")
    trust_remote_code: bool = setting(False, "Execute Python code that comes with the model.")
    dtype: Dtype = setting("float32", "Type in which parameters are stored.")
    hidden_size: Count | None = setting(None, "Width of the hidden states; null if the model knows.", "elements")
    num_layers: Count | None = setting(None, "Number of layers; null if the model knows.", "layers")
    num_attention_heads: Count | None = setting(None, "Heads of an attention; null if the model knows.", "heads")
    vocab_size: Count | None = setting(None, "Size of the vocabulary; null if the model knows.", "tokens")
    max_seq_len: Count | None = setting(None, "Longest sequence that the model takes; null if it knows.", "tokens")
    gradient_checkpointing: bool = setting(False, "Compute activations again in backward instead of keeping them.")
    torch_compile: bool = setting(False, "Compile the model with torch.compile.")

    def _broken(self) -> Iterator[Broken]:
        size, heads = self.hidden_size, self.num_attention_heads
        if size is not None and heads is not None and size % heads:
            yield Broken(("hidden_size",), size, f"must be a multiple of num_attention_heads={heads}")


class DatasetConfig(Section):
    """What the model is trained on, and how batches are loaded; the words of ``torch.utils.data.DataLoader``."""

    path: PathText = setting(..., "Folder, file, URL or name of the data.")
    split: Text = setting("train", "The part that is trained on.")
    seq_len: Count | None = setting(None, "Length that sequences are cut or padded to; null: as they are.", "tokens")
    shuffle: bool = setting(True, "A new order in each epoch.")
    drop_last: bool = setting(True, "Leave out the last batch of an epoch if it is smaller.")
    num_workers: Annotated[int, Field(ge=0, le=1024), AsInteger] = setting(
        2, "Processes that load batches; 0 loads in the training process.", "processes"
    )
    prefetch_factor: Annotated[int, Field(ge=1, le=1024), AsInteger] | None = setting(
        None, "Batches that each of them loads ahead; null for torch's default.", "batches"
    )
    persistent_workers: bool = setting(False, "Keep these processes from epoch to epoch.")
    pin_memory: bool = setting(False, "Copy batches into page-locked memory before they are handed over.")

    def _broken(self) -> Iterator[Broken]:
        if self.num_workers > 0:
            return
        if self.prefetch_factor is not None:
            yield Broken(("prefetch_factor",), self.prefetch_factor, "is for num_workers > 0; leave it out")
        if self.persistent_workers:
            yield Broken(("persistent_workers",), True, "is for num_workers > 0; leave it out")


class ClusterConfig(Section):
    """Where the run takes place; the words of ``torchrun``."""

    device: Literal["auto", "cpu", "hpu", "simulated"] = setting(
        "auto", "Kind of device; simulated is never automatic."
    )
    num_nodes: Annotated[int, Field(ge=1, le=2**20), AsInteger] = setting(1, "Machines.", "machines")
    nproc_per_node: Annotated[int, Field(ge=1, le=2**10), AsInteger] = setting(
        1, "Processes on each machine, one for each device.", "processes"
    )
    backend: Literal["hccl", "gloo"] | None = setting(None, "Library of collectives; null: the device's own.")
    master_addr: Text = setting("127.0.0.1", "Name or address of the machine of rank 0.")
    master_port: Port = setting(29500, "TCP port there.", "1")
    timeout_seconds: Positive = setting(1800.0, "Longest time that a collective may take.", "seconds")
    max_restarts: CountOrZero = setting(0, "How often torchrun starts the processes again.", "restarts")
    hpu_lazy_mode: bool | None = setting(
        None, "PT_HPU_LAZY_MODE: true for lazy mode, false for eager mode and torch.compile; null: as the plug-in does."
    )

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.num_nodes * self.nproc_per_node

    def _broken(self) -> Iterator[Broken]:
        if self.backend == "hccl" and self.device in {"cpu", "simulated"}:
            yield Broken(("backend",), self.backend, f"HCCL needs device 'hpu'; here it is {self.device!r}; use 'gloo'")
        if self.num_nodes > 1 and (self.master_addr == "localhost" or self.master_addr.startswith("127.")):
            yield Broken(
                ("master_addr",),
                self.master_addr,
                f"the other machines of num_nodes={self.num_nodes} cannot reach it; "
                "give the name or address of the machine of rank 0",
            )


class HealthConfig(Section):
    """When a run is unwell. Thresholds that are null are not watched.

    The thresholds are those of the checks that a run has by itself, and of each ``hpu_device`` that has none of its
    own.
    """

    check_interval_seconds: Positive = setting(10.0, "Time between two checks.", "seconds")
    step_timeout_seconds: Positive | None = setting(None, "A step that takes longer is taken for a hang.", "seconds")
    memory_warning_ratio: Ratio | None = setting(0.9, "Used share of device memory that is worth a warning.", "1")
    memory_critical_ratio: Ratio | None = setting(0.95, "Used share of device memory that is critical.", "1")
    temperature_warning_celsius: Celsius | None = setting(
        85.0, "Temperature of the device that is worth a warning.", "degrees Celsius"
    )
    temperature_critical_celsius: Celsius | None = setting(
        95.0, "Temperature of the device that is critical.", "degrees Celsius"
    )
    max_skipped_steps: CountOrZero | None = setting(
        None, "Steps in a row that may be skipped for gradients that are not finite.", "steps"
    )
    checks: Annotated[list[AnyCheck], Field(min_length=1, max_length=1024), AsList] | None = setting(
        None, "What is looked at; null: every HPU, this machine, the working directory, and steps if they are due."
    )

    def build(self, devices: int | Sequence[str] | None = None, *, clock: Clock = time) -> HealthMonitor:
        """The monitor that this section describes, not started.

        Args:
            devices: for checks of its own, as for ``gaudi3_rt.health.create_default_hpu_health_checks``.
            clock: of the monitor.
        """
        names = [name for name in HpuDeviceCheck.model_fields if name in type(self).model_fields]
        limits = {name: getattr(self, name) for name in names}
        checks: Sequence[HealthCheck]
        if self.checks is None:
            timeout = self.step_timeout_seconds
            checks = create_default_hpu_health_checks(devices, step_timeout_seconds=timeout, **limits)
        else:
            checks = [_with_limits(one, limits) for one in self.checks]
        return HealthMonitor(checks, self.check_interval_seconds, clock=clock)

    def _broken(self) -> Iterator[Broken]:
        for stem, unit in (("memory", "ratio"), ("temperature", "celsius")):
            first, second = f"{stem}_warning_{unit}", f"{stem}_critical_{unit}"
            low, high = getattr(self, first), getattr(self, second)
            if low is not None and high is not None and low >= high:
                yield Broken((first,), low, f"must be below {second}={high!r}, or the warning comes too late")
        if self.step_timeout_seconds is not None and self.check_interval_seconds > self.step_timeout_seconds:
            yield Broken(
                ("check_interval_seconds",),
                self.check_interval_seconds,
                f"must be at most step_timeout_seconds={self.step_timeout_seconds!r}, or a hang is seen late",
            )


def _with_limits(check: Check, limits: Mapping[str, float | None]) -> Check:
    """A check with the section's thresholds where it says nothing of that value itself."""
    if not isinstance(check, HpuDeviceCheck):
        return check
    said = {name.partition("_")[0] for name in check.model_fields_set}
    return check.model_copy(update={name: one for name, one in limits.items() if name.partition("_")[0] not in said})


class TrainingConfig(Section):
    """A training run; the words of transformers' ``TrainingArguments`` where it has one."""

    max_steps: Count = setting(..., "Optimizer steps of the whole run.", "steps")
    per_device_batch_size: Count = setting(8, "Samples in one forward pass of one device.", "samples")
    gradient_accumulation_steps: Count = setting(1, "Forward passes of a device in one optimizer step.", "passes")
    global_batch_size: Count | None = setting(
        None, "Samples in one optimizer step of all devices, to be checked; null: as the three factors say.", "samples"
    )
    warmup_steps: CountOrZero = setting(0, "Optimizer steps in which the learning rate rises from 0.", "steps")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = setting(
        "linear", "How the learning rate goes on after the warm-up."
    )
    lr_base: Positive | None = setting(None, "A learning rate that is known to be good at lr_base_size.", "1")
    lr_base_size: Count | None = setting(None, "The global batch size that lr_base is good at.", "samples")
    autocast_dtype: Literal["bfloat16", "float16"] | None = setting(
        None, "Type of torch.autocast around the forward pass; null for none."
    )
    seed: Seed = setting(42, "Seed of all random numbers but those of stochastic rounding.", "1")
    run_name: Text | None = setting(None, "Name of the run in logs and metrics.")
    output_dir: PathText = setting("output", "Folder for what the run writes.")
    resume_from_checkpoint: PathText | None = setting(None, "A checkpoint, or last; null for a new run.")
    logging_steps: Count = setting(10, "Optimizer steps between two entries of the log.", "steps")
    eval_steps: Count | None = setting(None, "Optimizer steps between two evaluations; null for none.", "steps")
    save_steps: Count | None = setting(None, "Optimizer steps between two checkpoints; null for none.", "steps")
    save_total_limit: Count | None = setting(None, "How many checkpoints are kept; null for all.", "checkpoints")
    tracking_uri: Text | None = setting(None, "Where metrics of the run are sent to.")
    model: ModelConfig | None = setting(None, "The model; null if the program has its own.")
    dataset: DatasetConfig | None = setting(None, "The data; null if the program has its own.")
    cluster: ClusterConfig = setting(ClusterConfig(), "Where the run takes place.")
    optimizer: AnyOptimizer = setting(AdamWConfig(name="adamw"), "The optimizer and its options.")
    health: HealthConfig = setting(HealthConfig(), "When the run is unwell.")

    @property
    def effective_batch_size(self) -> int:
        """Samples in one optimizer step of all devices."""
        return self.per_device_batch_size * self.gradient_accumulation_steps * self.cluster.world_size

    def _broken(self) -> Iterator[Broken]:
        if self.global_batch_size not in {None, self.effective_batch_size}:
            factors = (
                f"per_device_batch_size={self.per_device_batch_size} x gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps} x world size {self.cluster.world_size}"
            )
            yield Broken(
                ("global_batch_size",),
                self.global_batch_size,
                f"{factors} make {self.effective_batch_size}; change a factor or leave this out",
            )
        if self.warmup_steps > self.max_steps:
            yield Broken(("warmup_steps",), self.warmup_steps, f"the run ends before, after max_steps={self.max_steps}")
        if (self.lr_base is None) != (self.lr_base_size is None):
            name = "lr_base_size" if self.lr_base is None else "lr_base"
            yield Broken((name,), getattr(self, name), "lr_base and lr_base_size say something only together")
        yield from self._broken_between_sections()

    def _broken_between_sections(self) -> Iterator[Broken]:
        model, dataset, optimizer = self.model, self.dataset, self.optimizer
        if model is not None and isinstance(optimizer, _Stored) and model.dtype == "float16":
            for name, value in (("rounding", optimizer.rounding), ("master", optimizer.master)):
                if value not in {"nearest", None}:
                    yield Broken(("optimizer", name), value, "is for bfloat16 parameters; model.dtype is 'float16'")
        if model is not None and model.torch_compile and self.cluster.hpu_lazy_mode and self.cluster.device == "hpu":
            yield Broken(
                ("model", "torch_compile"), True, "needs cluster.hpu_lazy_mode false: torch.compile has no lazy mode"
            )
        longest = None if model is None else model.max_seq_len
        if dataset is not None and dataset.seq_len is not None and longest is not None and dataset.seq_len > longest:
            yield Broken(
                ("dataset", "seq_len"), dataset.seq_len, f"the model takes at most model.max_seq_len={longest}"
            )
        if self.save_total_limit is not None and self.save_steps is None:
            yield Broken(("save_total_limit",), self.save_total_limit, "without save_steps no checkpoint is written")
