"""Every error of gaudi3_rt, by category: the thousands of a code. A code is never given to another error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gaudi3_rt.errors._base import Gaudi3RTError


class ConfigurationError(Gaudi3RTError):
    """A configuration cannot be used."""

    code = 1000
    category = "configuration"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Run: gaudi3-rt config check FILE",)


class InvalidConfigurationError(ConfigurationError):
    """A value of a configuration is not allowed."""

    code = 1001
    default_suggestions = (
        "Correct the named value; gaudi3-rt config show --origin says where it came from",
        "Run: gaudi3-rt config schema, for what is allowed",
    )


class MissingConfigurationError(ConfigurationError):
    """A value that is needed was given nowhere."""

    code = 1002
    default_suggestions = (
        "Give the named value in the file, as GAUDI3_RT_..., or as an argument",
        "Run: gaudi3-rt config schema, for what there is",
    )


class HardwareError(Gaudi3RTError):
    """A device or its driver does not do what was asked."""

    code = 2000
    category = "hardware"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Run: gaudi3-rt doctor",)


class HPUNotAvailableError(HardwareError):
    """Fewer devices can be had than were asked for.

    Args:
        message: as for every error.
        requested_devices: what was asked for, e.g. ``"hpu:0,2"`` or ``8``.
        available_devices: names of the devices that could be had.
        **rest: as for every error.
    """

    code = 2001
    default_suggestions = (
        "Run: gaudi3-rt devices, for what there is and who holds it",
        "Check HABANA_VISIBLE_DEVICES and HABANA_VISIBLE_MODULES",
        "Run: gaudi3-rt doctor, if a device is missing",
    )

    def __init__(
        self,
        message: str,
        requested_devices: str | int | None = None,
        available_devices: Sequence[str] = (),
        **rest: Any,
    ) -> None:
        context: dict[str, Any] = {}
        if requested_devices is not None:
            context = {"requested_devices": requested_devices, "available_devices": list(available_devices)}
        super().__init__(message, context={**context, **(rest.pop("context", None) or {})}, **rest)
        self.requested_devices = requested_devices
        self.available_devices = tuple(available_devices)


class HPUMemoryError(HardwareError):
    """A device's memory is exhausted."""

    code = 2002
    default_suggestions = (
        "Use a smaller batch, shorter sequences, or recompute activations; the same shapes fail again",
        "Put gaudi3_rt.memory.explain_oom around the step: it says who holds the memory",
    )


class HPUDriverError(HardwareError):
    """The driver or its library failed, or its version does not fit."""

    code = 2003
    default_suggestions = (
        "Run: gaudi3-rt doctor, which compares driver, firmware, plugin and torch",
        "Read: dmesg -T | grep -i habanalabs, and the logs in $HABANA_LOGS",
    )


class TrainingError(Gaudi3RTError):
    """A step of training failed."""

    code = 3000
    category = "training"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Resume from the last checkpoint after the cause is removed",)


class TrainingStepError(TrainingError):
    """A forward or backward pass failed."""

    code = 3001
    default_suggestions = ("Repeat the step on the CPU: an error there too is in the model or the data",)


class GradientOverflowError(TrainingError):
    """Gradients are not finite."""

    code = 3002
    default_suggestions = (
        "Skip the step, or resume from the last good checkpoint",
        "Lower the learning rate or the loss scale, or clip the gradients",
        "Look for bad values in the batch",
    )


class OptimizerError(TrainingError):
    """An optimizer cannot make its step."""

    code = 3003
    default_suggestions = ("Check that every parameter has a gradient of its own shape and dtype",)


class ValidationError(Gaudi3RTError):
    """A value given to a function of this package is not allowed."""

    code = 4000
    category = "validation"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Correct the named value",)


class ParameterValidationError(ValidationError, ValueError):
    """An argument is not allowed; also a ``ValueError``."""

    code = 4001


class DataValidationError(ValidationError, ValueError):
    """Data do not have the announced form; also a ``ValueError``."""

    code = 4002


class ResourceError(Gaudi3RTError):
    """The machine lacks something."""

    code = 5000
    category = "resource"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Free what the message names, or raise its limit",)


class InsufficientMemoryError(ResourceError):
    """The host's memory does not suffice."""

    code = 5001
    default_suggestions = (
        "Use fewer data-loader workers, smaller batches, or a machine with more memory",
        "Run: free -h, and dmesg -T | grep -i oom, for who used it",
    )


class InsufficientStorageError(ResourceError):
    """A file system is full, or a quota is reached."""

    code = 5002
    default_suggestions = (
        "Run: df -h and df -i on the named folder, and quota -s",
        "Keep fewer checkpoints, or write to another file system",
    )


class NetworkError(Gaudi3RTError):
    """Something at the other end of a network did not answer as it should."""

    code = 6000
    category = "network"
    default_retryable = True
    default_suggestions: ClassVar[tuple[str, ...]] = ("Check that the other machine is up and can be reached",)


class NetworkConnectionError(NetworkError):
    """A connection could not be made or broke."""

    code = 6001
    default_suggestions = ("Check address, port and firewall, and that the other side is running",)


class ServiceUnavailableError(NetworkError):
    """A service refuses for now."""

    code = 6002
    default_suggestions = ("Wait; the service may say for how long",)


class CheckpointError(Gaudi3RTError):
    """A checkpoint cannot be written or read."""

    code = 7000
    category = "checkpoint"
    default_suggestions: ClassVar[tuple[str, ...]] = ("Check path, free space and permissions of the folder",)


class CheckpointCorruptError(CheckpointError):
    """A checkpoint is not what was written."""

    code = 7001
    default_suggestions = (
        "Resume from an older checkpoint; do not retry this one",
        "Compare its size and digest with those of the place that it came from",
    )


class CheckpointNotFoundError(CheckpointError):
    """There is no such checkpoint."""

    code = 7002
    default_suggestions = ("Check the path, and list the folder for steps that exist",)


class UnrecognizedError(Gaudi3RTError):
    """An error of other software that this package does not know."""

    code = 9001
    default_suggestions = (
        "Read the first error in the log: later ones often only follow from it",
        "Give gaudi3-rt explain the whole log instead of one line: gaudi3-rt explain - < train.log",
        "Run: gaudi3-rt doctor",
    )
