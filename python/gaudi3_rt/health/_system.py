"""Is this machine well? Processors, memory, swap, and open files of this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Literal

import psutil
from pydantic import Field, PrivateAttr

from gaudi3_rt._cpu_times import CpuUtilization
from gaudi3_rt._process_memory import group_memory
from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import MAX_FLOAT, Broken, Ratio, setting
from gaudi3_rt._units import bytes_text
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._limits import ordered
from gaudi3_rt.health._status import Outcome, Verdict, percent

Load = Annotated[float, Field(allow_inf_nan=False, gt=0, le=MAX_FLOAT)]


class SystemResourcesCheck(Check):
    """Memory, swap, processors and open files. Busy processors are no fault of a training, so they have no limits."""

    type: Literal["system_resources"] = setting("system_resources", "This machine.")
    memory_warning_ratio: Ratio | None = setting(
        0.9, "Used share of the machine's or the container's memory that is worth a warning; null: not watched.", "1"
    )
    memory_critical_ratio: Ratio | None = setting(
        0.97, "Used share of the machine's or the container's memory that is critical; null: not watched.", "1"
    )
    swap_warning_ratio: Ratio | None = setting(
        0.5, "Used share of the swap that is worth a warning; null: not watched.", "1"
    )
    swap_critical_ratio: Ratio | None = setting(
        None, "Used share of the swap that is critical; null: not watched.", "1"
    )
    cpu_warning_ratio: Ratio | None = setting(
        None, "Busy share of all processors since the last look that is worth a warning; null: not watched.", "1"
    )
    cpu_critical_ratio: Ratio | None = setting(
        None, "Busy share of all processors since the last look that is critical; null: not watched.", "1"
    )
    load_warning_per_cpu: Load | None = setting(
        None, "Processes that ran or waited in the last minute, for each processor; null: not watched.", "1"
    )
    open_files_warning_ratio: Ratio | None = setting(
        0.9, "Share of the open files that this process may have; null: not watched.", "1"
    )
    open_files_critical_ratio: Ratio | None = setting(
        0.98, "Share of the open files that is critical; null: not watched.", "1"
    )

    _cpu: CpuUtilization = PrivateAttr(default_factory=CpuUtilization)

    def _broken(self) -> Iterator[Broken]:
        for stem in ("memory", "swap", "cpu", "open_files"):
            yield from ordered(self, f"{stem}_warning_ratio", f"{stem}_critical_ratio")

    def run(self, clock: Clock) -> Outcome:  # noqa: ARG002 (readings are of now)
        """Reads the kernel's counters."""
        verdict = Verdict()
        self._judge_memory(verdict)
        self._judge_processors(verdict)
        self._judge_open_files(verdict)
        return verdict.outcome()

    def _judge_memory(self, verdict: Verdict) -> None:
        memory = psutil.virtual_memory()
        used, total, whose = memory.total - memory.available, memory.total, "memory"
        verdict.figures.update(memory_used_bytes=used, memory_total_bytes=total)
        if (group := group_memory()) is not None:
            verdict.figures.update(container_memory_used_bytes=group[0], container_memory_limit_bytes=group[1])
            if group[0] / max(group[1], 1) > used / total:
                (used, total), whose = group, "container's memory"
        ratio = used / max(total, 1)
        text = f"{whose} {percent(ratio)} of {bytes_text(total)}"
        self._limit(verdict, "memory", text, ratio)
        swap = psutil.swap_memory()
        if swap.total:
            verdict.figures.update(swap_used_bytes=swap.used, swap_total_bytes=swap.total)
            ratio = swap.used / swap.total
            self._limit(verdict, "swap", f"swap {percent(ratio)} of {bytes_text(swap.total)}", ratio)

    def _judge_processors(self, verdict: Verdict) -> None:
        if (ratio := self._cpu.read()) is not None:
            verdict.figures["cpu_utilization_ratio"] = round(ratio, 4)
            self._limit(verdict, "cpu", f"processors {percent(ratio)} busy", ratio)
        count = os.cpu_count() or 1
        load = os.getloadavg()[0]
        verdict.figures.update(load_1m=round(load, 2), cpus=count)
        verdict.limit(
            f"load {load:.1f} on {count} processors",
            load / count,
            warning=self.load_warning_per_cpu,
            critical=None,
            form=lambda value: f"{value:g} each",
        )

    def _judge_open_files(self, verdict: Verdict) -> None:
        with contextlib.suppress(psutil.Error, AttributeError, OSError):  # no such counters on this system
            process = psutil.Process()
            limit, _ = process.rlimit(psutil.RLIMIT_NOFILE)
            count = process.num_fds()
            verdict.figures.update(open_files=count, open_files_limit=limit)
            ratio = count / max(limit, 1)
            self._limit(verdict, "open_files", f"{count} of {limit} files open", ratio)

    def _limit(self, verdict: Verdict, stem: str, text: str, ratio: float) -> None:
        warning, critical = (getattr(self, f"{stem}_{word}_ratio") for word in ("warning", "critical"))
        verdict.limit(text, ratio, warning=warning, critical=critical, form=percent)
