"""What a member of the index space may touch of a tensor: the access pattern that glue code declares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Access:
    """The elements of one dimension of a tensor that member ``i`` of an index-space dimension may touch.

    They are ``a * i + start`` to ``a * i + end``, inclusive; a fraction counts as touching the whole element. It may
    reach past the tensor. The fields are those of the glue interface's ``DimIndexSpaceMapping``, and so are the
    defaults: a dimension that nothing is said about has element 0 alone.

    Attributes:
        index_dim: the dimension of the index space.
        a: elements by which a member is further than the one before.
        start: first element of member 0 (``start_b``).
        end: last element of member 0 (``end_b``).
        all_required: every member may touch all elements; the rest is ignored then.
    """

    index_dim: int = 0
    a: float = 0.0
    start: float = 0.0
    end: float = 0.0
    all_required: bool = False

    def __post_init__(self) -> None:
        """Refuses an index-space dimension that there is not.

        Raises:
            ValueError: ``index_dim`` is not 0 to 4.
        """
        if not 0 <= self.index_dim < MAX_DIMS:
            message = f"index_dim is {self.index_dim}; an index space has dimensions 0 to {MAX_DIMS - 1}"
            raise ValueError(message)


MAX_DIMS = 5
WHOLE = Access(all_required=True)
_ALL = (WHOLE,) * MAX_DIMS

# For each tensor, inputs first: None for all of it, or for each of its dimensions what a member may touch.
AccessPatterns: TypeAlias = Sequence[Sequence[Access] | None]


def check_access(access: AccessPatterns | None, names: list[str], ranks: list[int]) -> list[tuple[Access, ...]] | None:
    """The pattern of each tensor; of one that was given None, that allows all.

    Raises:
        TypeError: a pattern is not made of Access.
        ValueError: a wrong number of patterns, or of dimensions in one.
    """
    if access is None:
        return None
    if len(access) != len(names):
        message = f"access has {len(access)} patterns; there are {len(names)} tensors ({', '.join(names)})"
        raise ValueError(message)
    patterns = []
    for given, name, rank in zip(access, names, ranks, strict=True):
        if isinstance(given, Access):
            message = f"access of {name} is one Access; give a list of one for each dimension, or None"
            raise TypeError(message)
        pattern = _ALL if given is None else tuple(given)
        if given is not None and len(pattern) > max(rank, 1):
            message = f"access has {len(pattern)} dimensions for {name}, which has {rank}"
            raise ValueError(message)
        if not all(isinstance(a, Access) for a in pattern):
            message = f"access of {name} is {given!r}; give one Access for each dimension, or None"
            raise TypeError(message)
        patterns.append(pattern)
    return patterns
