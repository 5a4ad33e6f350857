"""Is a process alive and making progress? By a heartbeat of this process, a file that it writes to, or its number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import PrivateAttr

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock
from gaudi3_rt._section import Broken, PathText, Positive, Text, form, setting
from gaudi3_rt.health._check import Check
from gaudi3_rt.health._heartbeat import TRAINING, Heartbeat, heartbeat
from gaudi3_rt.health._limits import ordered
from gaudi3_rt.health._status import HealthStatus, Outcome, Verdict

_LONGEST_PID_FILE = 32


class ProcessCheck(Check):
    """A loop of this process, or another process.

    Before the first beat, and after the loop has ended as it should, nothing is missed: a first step may compile for
    minutes.
    """

    type: Literal["process"] = setting("process", "A loop, or another process.")
    heartbeat: Annotated[Text, form(r"[A-Za-z0-9_.-]{1,63}", "up to 63 letters, digits and _ . -")] | None = setting(
        TRAINING, "Name of a heartbeat of this process; training beats with every step. null for none."
    )
    heartbeat_file: PathText | None = setting(
        None, "A file that the process writes to or touches, such as its history; null for none."
    )
    pid_file: PathText | None = setting(None, "A file with the number of a process that has to be there; null: none.")
    stale_warning_seconds: Positive | None = setting(
        None, "Age of the last beat that is worth a warning; null: not watched.", "seconds"
    )
    stale_critical_seconds: Positive | None = setting(
        None, "Age of the last beat that is critical; null: not watched.", "seconds"
    )

    _beating: Heartbeat | None = PrivateAttr(default=None)
    _subscriptions: ExitStack = PrivateAttr(default_factory=ExitStack)

    def _broken(self) -> Iterator[Broken]:
        yield from ordered(self, "stale_warning_seconds", "stale_critical_seconds")
        if "heartbeat" in self.model_fields_set and self.heartbeat is not None and self._is_another:
            yield Broken(("heartbeat",), self.heartbeat, "is of this process; heartbeat_file and pid_file of another")
        if not self._is_another and self.heartbeat is None:
            yield Broken(("heartbeat",), None, "give a heartbeat, a heartbeat_file or a pid_file")
        if not self._is_another and self.stale_warning_seconds is None and self.stale_critical_seconds is None:
            message = "give stale_warning_seconds or stale_critical_seconds, or nothing would be watched"
            yield Broken(("stale_critical_seconds",), None, message)

    @property
    def _is_another(self) -> bool:
        return self.heartbeat_file is not None or self.pid_file is not None

    def open(self) -> None:
        """Steps that are completed beat, and the end of a run ends it."""
        if self._is_another or self.heartbeat is None:
            return
        own = heartbeat(self.heartbeat)
        if self.heartbeat == TRAINING:
            self._subscriptions.enter_context(
                events.subscribe(lambda _: own.beat(), events.StepCompleted, events.TrainingResumed, inline=True)
            )
            self._subscriptions.enter_context(events.subscribe(lambda _: own.stop(), events.RunFinished, inline=True))

    def close(self) -> None:
        """No more."""
        self._subscriptions.close()

    def run(self, clock: Clock) -> Outcome:
        """Looks how old the last sign of life is."""
        verdict = Verdict()
        if not self._is_another:
            self._judge_age(verdict, heartbeat(self.heartbeat or TRAINING).age_seconds)
        if self.pid_file is not None:
            _judge_process(verdict, Path(self.pid_file))
        if self.heartbeat_file is not None:
            try:
                age = clock.time() - Path(self.heartbeat_file).stat().st_mtime
            except FileNotFoundError:
                self._judge_age(verdict, None)
            else:
                self._judge_age(verdict, max(age, 0.0))
        return verdict.outcome(detail=", ".join(filter(None, (self.pid_file, self.heartbeat_file))))

    def _judge_age(self, verdict: Verdict, age: float | None) -> None:
        if age is None:
            verdict.note("no heartbeat is due: it has not begun, or has ended")
            return
        verdict.figures["heartbeat_age_seconds"] = round(age, 3)
        verdict.limit(
            f"last heartbeat {age:.1f} s ago",
            age,
            warning=self.stale_warning_seconds,
            critical=self.stale_critical_seconds,
            form=lambda value: f"{value:g} s",
        )


def _judge_process(verdict: Verdict, file: Path) -> None:
    try:
        with file.open(encoding="ascii") as stream:
            pid = int(stream.read(_LONGEST_PID_FILE))
        state = psutil.Process(pid).status()
    except (FileNotFoundError, psutil.NoSuchProcess):
        verdict.find(HealthStatus.CRITICAL, "the process is not there")
    except ValueError:
        verdict.find(HealthStatus.UNKNOWN, "the file holds no number of a process")
    else:
        if state in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            verdict.find(HealthStatus.CRITICAL, "the process has ended and is still listed")
        elif state == psutil.STATUS_STOPPED:
            verdict.find(HealthStatus.CRITICAL, "the process is stopped")
        else:
            verdict.note("the process is there")
