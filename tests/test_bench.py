"""The benchmarks run, on tiny workloads, and leave a table, a JSON file and a chart."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_benchmarks_run_and_report(tmp_path):
    """All of them in a process of its own, because it runs pytest with other options."""
    before = set((ROOT / "bench").rglob("*"))
    command = [sys.executable, "-m", "pytest", "bench", "--scale", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(  # noqa: S603 (our own command)
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path / "matplotlib")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set((ROOT / "bench").rglob("*")) == before

    result = json.loads((tmp_path / "bench.json").read_text())
    rows = {(row["question"], row["workload"]): row for row in result["rows"]}
    assert {name for question, name in rows if question == "step"} == {"a", "b", "c", "b bf16"}
    for row in rows.values():
        assert row["question"] in done.stdout
        for seconds in row["seconds"].values():
            assert 0 < seconds["min"] <= seconds["p20"] <= seconds["p50"] <= seconds["p80"]
    assert set(rows["step", "a"]["ratios"]) == {"torch/ours", "torch/limit", "limit/ours"}
    assert {"cpu", "threads", "isa", "torch", "commit", "dirty", "load_at_start"} <= result["machine"].keys()
    assert "torch/ours" in done.stdout
    assert ">= 0.95 of limit" in done.stdout

    picture = (tmp_path / "bench.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000
