"""Can this folder still be written to? Free space, free inodes, and a file that is written and gone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import AsInteger, Broken, PathText, Ratio, setting
from gaudi3_rt._units import bytes_text
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._limits import ordered
from gaudi3_rt.health._status import HealthStatus, Outcome, Verdict, percent

_PROBE = bytes(4096)
_PREFIX = ".gaudi3_rt-health-"


class FileSystemCheck(Check):
    """A folder and the file system that it is on, such as where checkpoints go."""

    type: Literal["file_system"] = setting("file_system", "A folder and its file system.")
    path: PathText = setting(..., "The folder. It is never shown over the network.")
    free_warning_ratio: Ratio | None = setting(
        0.1, "Free share of the file system down to which it is worth a warning; null: not watched.", "1"
    )
    free_critical_ratio: Ratio | None = setting(
        0.02, "Free share of the file system down to which it is critical; null: not watched.", "1"
    )
    min_free_bytes: Annotated[int, Field(ge=0, lt=2**63), AsInteger] | None = setting(
        None, "Free space that is critical if there is less, such as the size of a checkpoint; null: none.", "bytes"
    )
    free_inodes_warning_ratio: Ratio | None = setting(
        0.05, "Free share of the inodes down to which it is worth a warning; null: not watched.", "1"
    )
    writable: bool = setting(True, "Write a file of 4 KiB there, which no name leads to and which is gone at once.")

    def _broken(self) -> Iterator[Broken]:
        yield from ordered(self, "free_warning_ratio", "free_critical_ratio", falling=True)

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (as it is now)
        """Asks the file system, and writes if it is to."""
        verdict = Verdict()
        try:
            self._judge_space(verdict)
            if self.writable:
                _write(self.path)
                verdict.note("writable")
        except OSError as error:
            verdict.find(HealthStatus.CRITICAL, f"cannot be used: {os.strerror(error.errno or 0)}")
        return verdict.outcome(detail=self.path)

    def _judge_space(self, verdict: Verdict) -> None:
        found = os.statvfs(self.path)
        total = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize  # without what is root's, as df
        free = found.f_bavail * found.f_frsize
        if total > 0:  # /proc and the like have none
            verdict.figures.update(free_bytes=free, total_bytes=total)
            text = f"{bytes_text(free)} of {bytes_text(total)} free, {percent(free / total)}"
            if self.min_free_bytes is not None and free < self.min_free_bytes:
                verdict.find(HealthStatus.CRITICAL, f"{text}; {bytes_text(self.min_free_bytes)} are needed")
            else:
                verdict.limit(
                    text,
                    free / total,
                    warning=self.free_warning_ratio,
                    critical=self.free_critical_ratio,
                    form=percent,
                    low=True,
                )
        if found.f_files > 0:  # some file systems make them as they are needed
            verdict.figures.update(free_inodes=found.f_favail, total_inodes=found.f_files)
            ratio = found.f_favail / found.f_files
            if self.free_inodes_warning_ratio is not None and ratio <= self.free_inodes_warning_ratio:
                verdict.find(HealthStatus.DEGRADED, f"{percent(ratio)} of its inodes are free")


def _write(path: str) -> None:
    """Where the kernel can, the file never has a name, so that not even a kill leaves it behind."""
    with tempfile.TemporaryFile(dir=path, prefix=_PREFIX, buffering=0) as file:
        if file.write(_PROBE) != len(_PROBE):
            raise OSError(28, os.strerror(28))  # ENOSPC: a part of it is no write
