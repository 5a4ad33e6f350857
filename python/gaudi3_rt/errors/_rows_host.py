"""Rows for the host: memory, file systems, limits, checkpoints, and what Python and torch say of them."""

from __future__ import annotations

from gaudi3_rt.errors._rows import DOCTOR, ON_CPU, Row
from gaudi3_rt.errors._types import (
    CheckpointCorruptError,
    CheckpointError,
    GradientOverflowError,
    HPUDriverError,
    HPUNotAvailableError,
    InsufficientMemoryError,
    InsufficientStorageError,
    ResourceError,
)

_TORCH = "torch 2.13.0+cpu, provoked"
_ERRNO = "Python: errno, os.strerror"
_OLDER = "resume from an older checkpoint, and compare this file's size and digest with its origin"
_DISK = "df -h . ; df -i . ; quota -s"

IMPORTS = (
    Row(
        id="plugin_replaced",
        pattern=r"(?:habana|synapse)\S{0,200}: undefined symbol|undefined symbol.{0,200}habana",
        error=HPUDriverError,
        cause="Gaudi's plugin was built for another torch: pip may have put stock torch in the place of Gaudi's.",
        next_command=DOCTOR,
        source="huggingface/tgi-gaudi#246",
    ),
    Row(
        id="plugin_missing",
        pattern=r"No module named '?(?:habana_frameworks|torch\.hpu)",
        error=HPUNotAvailableError,
        cause="Gaudi's PyTorch plugin is not installed in this environment, or was not imported.",
        next_command=DOCTOR,
        source=f"Lightning-Universe/lightning-transformers#282; {_TORCH}",
    ),
    Row(
        id="backend_extension",
        pattern=r"Failed to load the backend extension",
        error=HPUDriverError,
        cause="import torch loads the device's plugin, which failed: it fits neither this torch nor these libraries.",
        next_command=f"{DOCTOR}; the error above this one says what the plugin lacks",
        source="torch: torch/__init__.py, _import_device_backends",
    ),
    Row(
        id="hlml_missing",
        pattern=r"Failed to load libhlml|HLMLError_(?:Uninitialized|DriverNotLoaded)",
        types=("pyhlml.hlml_error.HLMLError_Uninitialized",),
        error=HPUDriverError,
        cause="The driver's management library is missing, or the driver is not loaded.",
        next_command=DOCTOR,
        source="habana-pyhlml 1.24, provoked without a driver",
    ),
)

MEMORY = (
    Row(
        id="shared_memory",
        pattern=r"killed by signal: Bus error|workers are out of shared memory",
        error=InsufficientMemoryError,
        cause="Shared memory is full: the batches of the data-loader workers pass through it.",
        next_command="df -h /dev/shm; docker run --ipc=host, or an emptyDir of medium Memory in Kubernetes",
        source="torch: torch/csrc/DataLoader.cpp",
    ),
    Row(
        id="killed_out_of_memory",
        pattern=r"exit ?code {0,3}:? {0,3}(?:-9|137)\b|\bOOM-?Killed\b|oom-kill:"
        r"|Out of memory: Killed process|signal: Killed",
        error=InsufficientMemoryError,
        cause="The process got SIGKILL: most often from the kernel, because memory was exhausted.",
        next_command="dmesg -T | grep -i -E 'oom|killed process'; kubectl describe pod",
        source="Linux: mm/oom_kill.c; torchrun, provoked with SIGKILL; Kubernetes: OOMKilled",
    ),
    Row(
        id="memlock",
        pattern=r"RLIMIT_MEMLOCK",
        error=ResourceError,
        cause="Too little memory may be locked for the network devices.",
        next_command="ulimit -l; then raise memlock, e.g. docker run --ulimit memlock=-1",
        source="rdma-core: libibverbs/init.c",
    ),
    Row(
        id="host_memory",
        pattern=r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc|\bMemoryError\b"
        r"|Cannot allocate memory|\[Errno 12\]",
        types=("MemoryError",),
        errnos=("ENOMEM",),
        error=InsufficientMemoryError,
        cause="The host's memory is exhausted, or a limit of this process or container is reached.",
        next_command="free -h; ulimit -v; cat /sys/fs/cgroup/memory.max",
        source=_TORCH,
    ),
)

FILES = (
    Row(
        id="disk_full",
        pattern=r"No space left on device|\[Errno 28\]",
        errnos=("ENOSPC",),
        error=InsufficientStorageError,
        cause="The file system has no free space or no free inodes.",
        next_command=_DISK,
        source=_ERRNO,
    ),
    Row(
        id="quota",
        pattern=r"Disk quota exceeded|\[Errno 122\]",
        errnos=("EDQUOT",),
        error=InsufficientStorageError,
        cause="The quota of this user or project is used up.",
        next_command=_DISK,
        source=_ERRNO,
    ),
    Row(
        id="read_only",
        pattern=r"Read-only file system|\[Errno 30\]",
        errnos=("EROFS",),
        error=ResourceError,
        cause="The file system is mounted read-only, by choice or because the kernel found errors on it.",
        next_command="findmnt -T . ; dmesg -T | tail",
        source=_ERRNO,
    ),
    Row(
        id="permission",
        pattern=r"Permission denied|Operation not permitted|\[Errno (?:1|13)\]",
        types=("PermissionError",),
        errnos=("EACCES", "EPERM"),
        error=ResourceError,
        cause="This user may not use the file or device.",
        next_command="id; ls -ld on the named path; for a device: ls -l /dev/accel",
        source=_ERRNO,
    ),
    Row(
        id="open_files",
        pattern=r"Too many open files|\[Errno (?:23|24)\]",
        errnos=("EMFILE", "ENFILE"),
        error=ResourceError,
        cause="The limit of open files is reached, often by tensors that data-loader workers share.",
        next_command="ulimit -n 65536; or torch.multiprocessing.set_sharing_strategy('file_system')",
        source=_ERRNO,
    ),
    Row(
        id="stale_handle",
        pattern=r"Stale file handle|\[Errno 116\]",
        errnos=("ESTALE",),
        error=ResourceError,
        cause="A file on a network file system was replaced or removed on the server.",
        next_command="open the file again; check the mount",
        retryable=True,
        source=_ERRNO,
    ),
    Row(
        id="device_io",
        pattern=r"Input/output error|\[Errno 5\]",
        errnos=("EIO",),
        error=ResourceError,
        cause="A disk, or the server of a network file system, failed.",
        next_command="dmesg -T | tail -50",
        source=_ERRNO,
    ),
)

CHECKPOINTS = (
    Row(
        id="archive_damaged",
        pattern=r"PytorchStreamReader failed|failed finding central directory|invalid header or archive is corrupted"
        r"|SafetensorError|invalid load key",
        types=("safetensors_rust.SafetensorError", "_pickle.UnpicklingError", "zipfile.BadZipFile"),
        error=CheckpointCorruptError,
        cause="The file was cut short while it was written or copied, or is no checkpoint.",
        next_command=_OLDER,
        source=f"{_TORCH}; pytorch/pytorch#170244",
    ),
    Row(
        id="weights_only",
        pattern=r"Weights only load failed",
        error=CheckpointError,
        cause="The file holds Python objects that torch.load does not make with weights_only=True.",
        next_command="torch.serialization.add_safe_globals for classes of your own; never for a file you do not trust",
        source="torch: torch/serialization.py",
    ),
    Row(
        id="state_mismatch",
        pattern=r"Error\(s\) in loading state_dict for|loaded state dict (?:has|contains)",
        error=CheckpointError,
        cause="The checkpoint is of another model or optimizer than the one it is loaded into.",
        next_command="compare the names and shapes of the checkpoint with model.state_dict()",
        source="torch: torch/nn/modules/module.py, torch/optim/optimizer.py",
    ),
)

TRAINING = (
    Row(
        id="gradients_not_finite",
        pattern=r"gradients? .{0,80}(?:is|are) (?:non-finite|not finite)|returned nan values in its \d{1,9}th output",
        types=("FloatingPointError",),
        error=GradientOverflowError,
        cause="A gradient is NaN or infinite: bad data, a learning rate that is too high, or an overflow.",
        next_command="skip the batch or resume from the last good checkpoint; torch.autograd.set_detect_anomaly(True)",
        source=f"{_TORCH}; torch: torch/nn/utils/clip_grad.py, csrc/autograd/engine.cpp",
    ),
    Row(
        id="device_operation_missing",
        pattern=r"Could not run 'aten::|is not currently (?:implemented|supported) (?:for|on) the '?hpu",
        error=HPUDriverError,
        cause="The operation is not there for this device, or the device's plugin was not loaded.",
        next_command=ON_CPU,
        source="torch: the dispatcher's message, provoked",
    ),
)
