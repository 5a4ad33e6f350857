"""How long does ``import gaudi3_rt`` take on top of ``import torch``?"""

from __future__ import annotations

import subprocess
import sys

from harness import OURS, TORCH, Lab, Row, Wanted

BOTH = "torch, then ours"

# Prints the time of the first import and of the second.
CODE = """
import time
begin = time.perf_counter()
import torch
between = time.perf_counter()
{second}
print(between - begin, time.perf_counter() - between)
"""


def _import(second: str) -> tuple[float, float]:
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", CODE.format(second=second)], check=True, capture_output=True, text=True
    )
    first, rest = done.stdout.split()
    return float(first), float(rest)


def test_import(lab: Lab) -> None:
    """Fresh processes, with and without our import in turn."""
    torch_alone: list[float] = []
    ours: list[float] = []
    both: list[float] = []

    def with_ours() -> None:
        first, rest = _import("import gaudi3_rt")
        ours.append(rest)
        both.append(first + rest)

    _import("import gaudi3_rt")  # reads the files into the page cache
    lab.benchmark.group = "import"
    lab.benchmark.pedantic(with_ours, setup=lambda: torch_alone.append(sum(_import("pass"))), rounds=lab.scale.imports)

    samples = {OURS: ours, TORCH: torch_alone, BOTH: both}
    lab.note(samples)
    lab.rows.append(Row("import torch, then ours", "", samples, ours=BOTH))
    lab.rows.append(Row("what our import adds", "", samples, rival="", wanted=[Wanted("ms", 150.0)]))
