"""What sources of telemetry have in common: a board's description, a reading, and the error that there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gaudi3_rt._protocols import Telemetry


class SourceError(Exception):
    """A source cannot be read; the message says how it failed."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a source says of one HPU; None where it does not say."""

    module: int
    name: str | None = None
    serial: str | None = None
    uuid: str | None = None
    bus_id: str | None = None
    driver_version: str | None = None
    firmware_version: str | None = None
    memory_total: int | None = None


class Source(Protocol):
    """A way to read sensors. Methods raise :class:`SourceError`, nothing else."""

    def boards(self) -> list[Board]: ...
    def telemetry(self, module: int) -> Telemetry: ...
    def close(self) -> None: ...
