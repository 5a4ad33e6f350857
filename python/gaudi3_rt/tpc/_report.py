"""What a run of a kernel tells: what it did, or what it may not do."""

from dataclasses import dataclass


class KernelError(RuntimeError):
    """What a kernel did that it may not do, with kernel, member, tensor and coordinates."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel's main: its name, and ``tensor`` or its scalar type in TPC-C."""

    name: str
    type: str


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        members: members of the index space.
        boxes: (offset, size) of the boxes, in the order in which they were begun; with ``check`` of the second pass.
        checked: whether the run was in checking mode.
        dropped: by tensor, lanes of stores that were outside it, and so were dropped.
        padded: by tensor, lanes of loads that were outside it, and so read the pad value.
        reread: by tensor, lanes that a member loaded after it had stored them; only with ``check``. Hardware keeps that
            order within the vector pipe.
        order_matters: the bits may depend on the order of members: random numbers, or floating-point sums in memory.
        vector_memory: bytes of vector local memory that the kernel's variables take.
        scalar_memory: bytes of scalar local memory.
        printed: what the kernel printed, box after box.
        seed: from which order, boxes, random numbers and perturbations came.
    """

    members: int
    boxes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    checked: bool
    dropped: dict[str, int]
    padded: dict[str, int]
    reread: dict[str, int]
    order_matters: bool
    vector_memory: int
    scalar_memory: int
    printed: str
    seed: int
