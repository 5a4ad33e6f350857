"""Communication hooks for DistributedDataParallel, with torch's names and calling rules, that work on every backend.

``model.register_comm_hook(state, hook)`` as with those of ``torch.distributed.algorithms.ddp_comm_hooks``; the state is
a process group, or ``None`` for the default one. Gradients become the mean over ranks, as without a hook.
"""

# DDP compares annotations with types, so they may not be strings: no `from __future__ import annotations` here.

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket, ProcessGroup  # type: ignore[attr-defined]
from torch.futures import Future
from torch.utils.weak import WeakTensorKeyDictionary

from gaudi3_rt.reduce._buckets import pack_, unpack_
from gaudi3_rt.reduce._ddp import BucketQueue

__all__ = [
    "Int8CompressState",
    "allreduce_hook",
    "bf16_compress_hook",
    "bf16_compress_wrapper",
    "fp16_compress_hook",
    "fp16_compress_wrapper",
    "int8_compress_hook",
    "tree_hook",
]

Hook: TypeAlias = Callable[[Any, GradBucket], Future[Tensor]]


def allreduce_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """One ``all_reduce`` in the dtype of the gradients: what DDP does without a hook, with the same bits."""
    group = BucketQueue.of(process_group).group
    buffer = bucket.buffer()
    buffer.mul_(1 / group.size())  # as DDP, which multiplies by the reciprocal
    future: Future[list[Tensor]] = dist.all_reduce(buffer, group=group, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def tree_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """The mean in the dtype of the gradients, summed in float32 in one order of ranks.

    The order is the tree of ``reduce_shards`` over the ranks. So a result depends neither on the sizes of buckets, nor
    on threads, nor on what arrives first; with bfloat16 gradients it is rounded once.
    """
    return _mean_of_floats(process_group, bucket, bucket.buffer().dtype)


def bf16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Gradients travel as bfloat16 and are summed in float32.

    A value is rounded to bfloat16 once as it is sent, and once as a mean, whatever the number of ranks. The sum has the
    order of ``tree_hook``.
    """
    return _mean_of_floats(process_group, bucket, torch.bfloat16)


def fp16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Gradients travel as float16, divided by the number of ranks before they are sent, and are summed in float32.

    Rounded as in ``bf16_compress_hook``. A gradient whose quotient is beyond 65504 becomes infinite, as with torch's.
    """
    return _mean_of_floats(process_group, bucket, torch.float16, scale_first=True)


# DDP refuses hooks of these names by their __name__, unless NCCL or XCCL is there to sum bfloat16; these need neither.
bf16_compress_hook.__name__ = "gaudi3_rt_bf16_compress_hook"


def _mean_of_floats(
    process_group: ProcessGroup | None, bucket: GradBucket, dtype: torch.dtype, *, scale_first: bool = False
) -> Future[Tensor]:
    queue, buffer = BucketQueue.of(process_group), bucket.buffer()
    stages = queue.mean_of_floats(buffer, dtype, scale_first=scale_first)
    return queue.start(stages, buffer, is_last=bucket.is_last())


# Wrappers


def bf16_compress_wrapper(hook: Hook) -> Hook:
    """A hook that gives another hook the bucket as bfloat16, and casts what that one returns back.

    Around ``tree_hook`` it is ``bf16_compress_hook``; around a hook that sums by ``all_reduce``, the backend's sum
    rounds on its way.
    """
    return _compress_wrapper(hook, torch.bfloat16)


def fp16_compress_wrapper(hook: Hook) -> Hook:
    """As ``bf16_compress_wrapper``, with float16."""
    return _compress_wrapper(hook, torch.float16)


def _compress_wrapper(hook: Hook, dtype: torch.dtype) -> Hook:
    def compressing_hook(state: Any, bucket: GradBucket) -> Future[Tensor]:
        buffer = bucket.buffer()
        bucket.set_buffer(pack_(torch.empty_like(buffer, dtype=dtype), [buffer]))

        def decompress(done: Future[Tensor]) -> Tensor:
            unpack_([buffer], done.value())
            return buffer

        return hook(state, bucket).then(decompress)

    return compressing_hook


# int8


class Int8CompressState:
    """What ``int8_compress_hook`` keeps between steps: for each parameter, what the wire has lost of its gradients.

    Kept by parameter and not by bucket, since DDP builds its buckets anew after the first backward. Each rank has its
    own; it takes four bytes an element.
    """

    def __init__(
        self,
        process_group: ProcessGroup | None = None,
        *,
        use_error_feedback: bool = True,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        """Starts without errors.

        Args:
            process_group: ``None`` for the default one.
            use_error_feedback: adds what was lost to the next gradient, so that nothing is lost for ever.
            named_parameters: ``model.named_parameters()``; needed for ``state_dict`` alone, which is by name.
        """
        self.process_group = process_group
        self.use_error_feedback = use_error_feedback
        self._names = {} if named_parameters is None else dict(named_parameters)
        self._residuals: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self._flat: MutableMapping[Tensor, tuple[list[int], Tensor]] = WeakTensorKeyDictionary()

    def residual(self, parameters: list[Tensor]) -> Tensor | None:
        """One float32 tensor for all parameters of a bucket, in their order; ``None`` without error feedback."""
        if not self.use_error_feedback:
            return None
        layout = [id(parameter) for parameter in parameters]
        known, flat = self._flat.get(parameters[0], ([], None))
        if flat is not None and known == layout:
            return flat
        parts = [
            torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device) if part is None else part
            for parameter in parameters
            for part in [self._residuals.get(parameter)]
        ]
        flat = torch.cat(parts)
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parts]), strict=True):
            self._residuals[parameter] = part
            self._flat.pop(parameter, None)  # of an earlier layout
        self._flat[parameters[0]] = layout, flat
        return flat

    def state_dict(self) -> dict[str, Any]:
        """This rank's residuals by the names of parameters, copied.

        Raises:
            ValueError: no names were given to the constructor.
        """
        self._check_names()
        return {
            "use_error_feedback": self.use_error_feedback,
            "residuals": {
                name: part.detach().clone().reshape(parameter.shape)
                for name, parameter in self._names.items()
                for part in [self._residuals.get(parameter)]
                if part is not None
            },
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from saved residuals, of this rank; a parameter that has none there starts without.

        Raises:
            ValueError: no names were given to the constructor, or one that is loaded is unknown or of another shape.
                Nothing has changed then.
        """
        self._check_names()
        loaded: Mapping[str, Tensor] = state_dict["residuals"]
        for name, saved in loaded.items():
            parameter = self._names.get(name)
            if parameter is None or parameter.shape != saved.shape:
                here = "not among the named parameters" if parameter is None else f"of shape {tuple(parameter.shape)}"
                msg = f"the residual of {name!r}, of shape {tuple(saved.shape)}, is for a parameter that is {here}"
                raise ValueError(msg)
        self.use_error_feedback = bool(state_dict["use_error_feedback"])
        self._residuals.clear()
        self._flat.clear()
        for name, saved in loaded.items():
            parameter = self._names[name]
            self._residuals[parameter] = saved.detach().to(parameter.device, torch.float32, copy=True).reshape(-1)

    def _check_names(self) -> None:
        if not self._names:
            msg = "residuals are saved by name: make the state with named_parameters=model.named_parameters()"
            raise ValueError(msg)


def int8_compress_hook(state: Int8CompressState, bucket: GradBucket) -> Future[Tensor]:
    """Gradients travel as int8 in blocks of 256 with one float32 scale each, and are summed in float32.

    A value is rounded once as it is sent and once as a mean; what either loses is added to the next gradient (error
    feedback). A block with a value that is not finite arrives as NaN.
    """
    queue, buffer = BucketQueue.of(state.process_group), bucket.buffer()
    stages = queue.mean_of_int8(buffer, state.residual(bucket.parameters()))
    return queue.start(stages, buffer, is_last=bucket.is_last())
