"""Options, fixtures and the report of the benchmarks: ``python -m pytest bench``."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import memory_limit
import pytest
import report

ROWS = pytest.StashKey[list[harness.Row]]()
NOTES = pytest.StashKey[list[str]]()
OUT = Path(__file__).parents[1] / "build" / "bench"
LOAD_AT_START = pytest.StashKey[tuple[float, float, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of these benchmarks."""
    group = parser.getgroup("gaudi3_rt benchmarks")
    group.addoption("--scale", choices=sorted(harness.SCALES), default="full", help="size of the workloads")
    group.addoption("--out", type=Path, default=OUT, help="where chart and JSON go (build/bench)")
    group.addoption(
        "--keep", action="store_true", help="keep chart and JSON in bench/results too, with date and commit"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes pytest collect bench_*.py, which it does not look at when it runs the tests."""
    config.addinivalue_line("python_files", "bench_*.py")
    config.stash[ROWS] = []
    config.stash[NOTES] = []
    config.stash[LOAD_AT_START] = os.getloadavg()


def pytest_collection_finish() -> None:
    """Has garbage collections look at what benchmarks make alone, not at all modules, which takes long each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def limit_library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """The compiled loops of the memory limit."""
    return memory_limit.compile_library(request.config.getoption("--out").resolve())


@pytest.fixture
def lab(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[harness.Lab]:
    """What every benchmark needs; afterwards its tensors are freed before the next makes its own."""
    scale = harness.SCALES[request.config.getoption("--scale")]
    yield harness.Lab(benchmark, scale, request.config.stash[ROWS], request.config.stash[NOTES])
    gc.collect()


@pytest.hookimpl(trylast=True)  # after the tables of pytest-benchmark, so that this one is seen
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table and writes chart and JSON."""
    rows = config.stash[ROWS]
    if not rows:
        return
    machine = report.describe_machine(config.stash[LOAD_AT_START])
    terminalreporter.section("against torch and the memory limit")
    terminalreporter.write_line(report.table(rows, machine))
    for note in config.stash[NOTES]:
        terminalreporter.write_line(note)
    for path in report.write(rows, machine, config.getoption("--out"), keep=config.getoption("--keep")):
        terminalreporter.write_line(f"wrote {path}")
