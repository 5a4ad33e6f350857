"""Metrics as a file, for node-exporter's textfile collector: where nothing can scrape the process itself."""

from __future__ import annotations

import logging
import math
import os
import threading
from pathlib import Path

from typing_extensions import Self

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics._metrics import Metrics

LAST = 5.0
"""Seconds that a write has to end when a writer is closed."""

_log = logging.getLogger(__name__)


class TextfileWriter:
    """Writes ``gaudi3_rt_rank<R>.prom`` in a folder at an interval, while its block runs; the file is always whole.

    At the end the file is removed, as node-exporter would expose its last figures for ever; what a killed process
    leaves is seen by the age of the file, ``node_textfile_mtime_seconds``. A write that fails is logged once, and tried
    again at the next interval. A forked child writes nothing.

    Args:
        metrics: whose; their block has to be open.
        folder: what node-exporter was given as ``--collector.textfile.directory``.
        interval_seconds: between writes. Prometheus sees no more than its own scrapes of node-exporter.
        keep: leave the last file where it is.

    Raises:
        ParameterValidationError: the folder is none, or the interval is no finite number above 0.

    Attributes:
        path: of the file.
    """

    def __init__(
        self, metrics: Metrics, folder: str | os.PathLike[str], *, interval_seconds: float = 15.0, keep: bool = False
    ) -> None:
        if not 0 < interval_seconds < math.inf:
            msg = f"interval_seconds={interval_seconds!r}: must be a number of seconds above 0"
            raise ParameterValidationError(msg)
        if not Path(folder).is_dir():
            msg = f"{os.fspath(folder)!r} is no folder; give node-exporter's --collector.textfile.directory"
            raise ParameterValidationError(msg)
        self.path = Path(folder) / f"gaudi3_rt_rank{metrics.rank}.prom"
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._keep = keep
        self._stop = threading.Event()
        self._is_failing = False
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        if self._thread is not None:
            msg = "this writer is already running; make another one, or leave its with block first"
            raise ParameterValidationError(msg)
        self._pid, self._stop = os.getpid(), threading.Event()
        thread = threading.Thread(target=self._run, args=(self._stop,), name="metrics as a file", daemon=True)
        thread.start()
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is None or os.getpid() != self._pid:
            return
        self._stop.set()
        thread.join(LAST)
        if thread.is_alive():
            _log.warning("%s: a write has not ended after %g s; it is left behind", self.path, LAST)
        elif self._keep:
            self._metrics.flush()
            self._write()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._write()
            stop.wait(self._interval_seconds)
        if not self._keep:  # here, so that a write that was left behind leaves nothing behind
            self._remove()

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", self.path, error)

    def _write(self) -> None:
        try:
            self._metrics.write_textfile(self.path)
        except Exception as error:  # noqa: BLE001 (a reading may fail, too, and the next one may not)
            if not self._is_failing:
                self._is_failing = True
                _log.warning("%s cannot be written (%s); it is tried again", self.path, error)
        else:
            self._is_failing = False
