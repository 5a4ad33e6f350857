"""Rows for Gaudi's driver, SynapseAI and its PyTorch bridge: what failed, by name, before any status code is read."""

from __future__ import annotations

from gaudi3_rt.errors._rows import DEVICE_LOG, DEVICES, DMESG, DOCTOR, GRAPH_LOG, ON_CPU, SMALLER, Row
from gaudi3_rt.errors._types import (
    HPUDriverError,
    HPUMemoryError,
    HPUNotAvailableError,
    InsufficientMemoryError,
    TrainingStepError,
)

_BRIDGE = "HabanaAI/gaudi-pytorch-bridge"

OPERATIONS = (
    Row(
        id="invalid_server_type",
        pattern=r"Invalid server type",
        error=HPUDriverError,
        cause="The library does not support this server's kind of device; often its release is too new or too old.",
        next_command=DOCTOR,
        source="HabanaAI/hccl_demo#44",
    ),
    Row(
        id="acquire_generic_failure",
        pattern=r"synStatus\W{0,3}26\b.{0,40}Device acquire failed",
        error=HPUDriverError,
        cause="The driver refuses the library: their releases differ, or the container lacks devices or rights.",
        next_command=DOCTOR,
        source="huggingface/optimum-habana#1611, HabanaAI/vllm-fork#344",
    ),
    Row(
        id="graph_compile_failed",
        pattern=r"Graph compile failed",
        error=TrainingStepError,
        cause="The graph compiler cannot translate an operation, or its graph does not fit on the device.",
        next_command=GRAPH_LOG,
        source="HabanaAI/vllm-fork#484, huggingface/optimum-habana#1426",
    ),
    Row(
        id="node_create_failed",
        pattern=r"synNodeCreate\w{0,20} failed for node",
        error=TrainingStepError,
        cause="The named operation has no kernel for these shapes or dtypes in this release.",
        next_command=ON_CPU,
        source="huggingface/optimum-habana#1293, #614; hiyouga/LlamaFactory#7275",
    ),
    Row(
        id="workspace_allocation",
        pattern=r"workspace Allocation of size|Allocation failure for workspace size",
        error=HPUMemoryError,
        cause="The workspace of a compiled graph does not fit beside the tensors that are alive.",
        next_command=SMALLER,
        source=f"HabanaAI/Model-References#10; {_BRIDGE}: device.cpp",
    ),
    Row(
        id="device_allocation",
        pattern=r"Allocation failed for size ?::|Allocation failure for persistant Tensor|synDeviceMalloc failed",
        types=("torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"),
        error=HPUMemoryError,
        cause="A tensor does not fit into the device's memory, which is full or in pieces.",
        next_command=SMALLER,
        source=f"mila-iqia/milabench#301, huggingface/optimum-habana#2214; {_BRIDGE}: device_memory.cpp",
    ),
    Row(
        id="pinned_host_allocation",
        pattern=r"Host malloc failed|synHostMalloc failed",
        error=InsufficientMemoryError,
        cause="Host memory that the device can read is exhausted: pinned batches, or too few huge pages.",
        next_command="free -h; grep -i huge /proc/meminfo",
        source=f"{_BRIDGE}: device.cpp, host_memory.cpp, PinnedMemoryAllocator.cpp",
    ),
    Row(
        id="huge_pages",
        pattern=r"Cannot allocate HPs in host memory",
        error=InsufficientMemoryError,
        cause="No huge pages are free; SynapseAI goes on with small pages, slower.",
        next_command="grep -i huge /proc/meminfo; sysctl vm.nr_hugepages",
        source="SynapseAI: buffer_allocator.cpp (HabanaAI/Intel_Gaudi3_Software)",
    ),
    Row(
        id="critical_device_error",
        pattern=r"detected a device critical error that requires a restart",
        error=HPUDriverError,
        cause="The device failed; the process is being killed and has to start again, maybe on another device.",
        next_command=f"{DEVICE_LOG}; {DMESG}",
        source="mila-iqia/milabench#356; SynapseAI: dfa_defines.hpp",
    ),
    Row(
        id="hardware_interrupt",
        pattern=r"HW error interrupt|Critical HW error detected|Critical Firmware error detected",
        error=HPUDriverError,
        cause="Hardware or firmware of the device reported an error of its own.",
        next_command=DMESG,
        source="SynapseAI: dfa_base.cpp (HabanaAI/Intel_Gaudi3_Software)",
    ),
    Row(
        id="device_timeout",
        pattern=r"Compute or dma timeout|Timeout detected on compute/pdma streams|cs timeout detected",
        error=HPUDriverError,
        cause="Work on the device did not end in time: a kernel hangs, or another rank does not answer.",
        next_command=DEVICE_LOG,
        source="SynapseAI: dfa_base.cpp (HabanaAI/Intel_Gaudi3_Software)",
    ),
    Row(
        id="heartbeat_failed",
        pattern=r"Device heartbeat failed! PCI link is|habanalabs.{0,80}Device heartbeat failed",
        error=HPUDriverError,
        cause="The device's firmware no longer answers the driver, which will reset it.",
        next_command=DMESG,
        source="Linux: drivers/accel/habanalabs/common/device.c",
    ),
    Row(
        id="hard_reset",
        pattern=r"Device is going to hard reset|aborted due to device reset",
        error=HPUDriverError,
        cause="The driver resets the device; the process has to start again.",
        next_command=DMESG,
        source="SynapseAI: runtime/common/device (HabanaAI/Intel_Gaudi3_Software)",
    ),
    Row(
        id="graph_capture_stream",
        pattern=r"Capture must end on the same stream|GRAPH::.{0,10}Capture (?:already )?in progress",
        error=TrainingStepError,
        cause="An HPU graph is captured across streams, or inside another capture.",
        next_command="capture forward, backward and step in one torch.hpu.graph block, with no mark_step inside",
        source=f"huggingface/optimum-habana#1038; {_BRIDGE}: HPUGraph.cpp",
    ),
)


# Without a status code, which would say more.
ACQUIRE = (
    Row(
        id="acquire_failed",
        pattern=r"Device acquire failed",
        error=HPUNotAvailableError,
        cause="No device is free, or driver and library differ in their releases; the text does not say which.",
        next_command=f"{DEVICES}; {DOCTOR}",
        source="opea-project/GenAIExamples#137, huggingface/optimum-habana#288, huggingface/tgi-gaudi#182",
    ),
)
