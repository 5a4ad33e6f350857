"""The machine under examination, as every section is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi3_rt.device import _machine

READ_LIMIT = 1 << 20
"""Bytes of a file below /proc or /sys that are read at most."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where to look.

    Attributes:
        root: folder with ``dev``, ``proc``, ``sys`` and ``usr``.
        environment: variables of the process that is to train.
        checkpoint_dir: where checkpoints go; None if it was not said.
    """

    root: Path
    environment: Mapping[str, str]
    checkpoint_dir: Path | None = None

    @property
    def modules(self) -> list[_machine.Module]:
        """All HPUs that have a device node, whether this process may use them or not."""
        return _machine.modules(self.root)

    def meminfo(self) -> dict[str, int]:
        """``/proc/meminfo``: in bytes, or in pages where a line has no unit; without lines that have no number."""
        try:
            with (self.root / "proc/meminfo").open(encoding="utf-8", errors="replace") as file:
                lines = file.read(READ_LIMIT).splitlines()
        except OSError:
            return {}
        found = {}
        for line in lines:
            name, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isascii() and words[0].isdigit():
                found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
        return found
