"""How long training waits for its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class TimedData(Generic[_T]):
    """An iterable, such as a data loader, whose waits are counted; made by :meth:`TrainingMonitor.data`.

    Everything else is the loader's: its length, its attributes.
    """

    def __init__(self, data: Iterable[_T], monotonic: Callable[[], float], waited: Callable[[float], None]) -> None:
        self._data = data
        self._monotonic = monotonic
        self._waited = waited

    def __iter__(self) -> Iterator[_T]:
        monotonic, waited = self._monotonic, self._waited
        start = monotonic()
        batches = iter(self._data)  # starts workers
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            waited(monotonic() - start)
            yield batch
            start = monotonic()

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]  # its own TypeError if it has no length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)
