"""The benchmarks run, on tiny workloads, and leave a table, a file with the figures, and a chart."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PEERS = ("bitsandbytes", "deepspeed", "pytorch_optimizer", "timm", "torchao")
CPU_ADAM = """\
import torch

class DeepSpeedCPUAdam(torch.optim.AdamW):
    def __init__(self, params, adamw_mode, **options):
        super().__init__(params, **options)
"""
TIRED = """
    def step(self):
        if next(iter(self.state.values()), {}).get("step") == 3:
            raise RuntimeError("enough\\nof this")
        super().step()
"""


def run(tmp_path, *command, modules=None):
    """A run on tiny workloads, with stand-ins for modules, which leaves nothing behind in the source tree."""
    stubs = tmp_path / "stubs"
    for name, code in (modules or {}).items():
        *packages, module = name.split(".")
        folder = stubs.joinpath(*packages)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(len(packages)):
            stubs.joinpath(*packages[: i + 1], "__init__.py").touch()
        folder.joinpath(f"{module}.py").write_text(code)
    before = set((ROOT / "bench").rglob("*"))
    # A worker of pytest-xdist says so in its environment; pytest-benchmark, run by that worker, takes itself for one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, *command, "--scale", "tiny", "--out", str(tmp_path)],
        cwd=ROOT,
        env={
            **inherited,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(stubs),
            "MPLCONFIGDIR": str(tmp_path.parent / "matplotlib"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert set((ROOT / "bench").rglob("*")) == before
    return done


def race_peers(tmp_path, *options, modules=None):
    """A run against peers that cannot be imported, except for stand-ins; returns its end and its figures."""
    found = modules or {}
    absent = {peer for peer in PEERS if not any(name.startswith(peer) for name in found)}
    missing = {peer: f"raise ModuleNotFoundError('there is no {peer} here')" for peer in absent}
    done = run(tmp_path, "bench/peers.py", *options, modules=missing | found)
    with (tmp_path / "peers.csv").open(newline="") as file:
        lines = {(line["question"], line["tensors"], line["rival"]): line for line in csv.DictReader(file)}
    return done, lines


def assert_picture(file):
    """The file is a chart with something on it."""
    picture = file.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000


def test_benchmarks_run_and_report(tmp_path):
    """All of them in a process of its own, because it runs pytest with other options."""
    done = run(tmp_path, "-m", "pytest", "bench", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr

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

    assert_picture(tmp_path / "bench.png")
    assert_picture(tmp_path / "reduce_error.png")
    raced = {"bf16 hook, against torch bf16 hook", "reducer, tree, against reducer, all_reduce"}
    assert {(question, "") for question in raced | {"added to backward: bf16 hook, against DDP"}} <= rows.keys()
    assert "did not run" not in done.stdout


def test_lost_peers_are_listed(tmp_path):
    """One crashes when it is imported, one raises an error in the rounds; the race goes on without them."""
    question = "AdamW, float32"
    modules = {"bitsandbytes": "import os; os.abort()", "deepspeed.ops.adam": CPU_ADAM + TIRED}
    done, lines = race_peers(tmp_path, "--only", question, modules=modules)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("a", "b", "c"):
        rivals = {rival: line for (_, tensors, rival), line in lines.items() if tensors == name}
        ran = {rival for rival, line in rivals.items() if not line["error"]}
        assert ran == {"ours", "torch fused", "torch foreach", "limit"}
        assert rivals["bitsandbytes AdamW"]["error"] == "died: SIGABRT"
        assert rivals["DeepSpeed CPUAdam"]["error"] == "RuntimeError: enough"
        assert len({rivals[rival]["rounds"] for rival in ran}) == 1
        assert rivals["DeepSpeed CPUAdam"]["rounds"] == "0"
        for rival in ran:
            line = rivals[rival]
            assert 0 < float(line["min_ms"]) <= float(line["p20_ms"]) <= float(line["p50_ms"]) <= float(line["p80_ms"])
            assert float(line["gb_per_s"]) > 0
        medians = {rival: float(rivals[rival]["p50_ms"]) for rival in ("torch fused", "torch foreach")}
        best = min(medians, key=medians.get)
        assert {rival for rival in rivals if rivals[rival]["best_peer"] == "True"} == {best}
        assert rivals["torch fused"]["results"].startswith("equal")
        assert float(rivals["ours"]["share_of_limit"]) > 0
    assert float(lines[question, "a", "ours"]["ideal_bytes"]) == 28 * (1 << 14)
    assert {"cpu", "threads", "isa", "torch", "commit", "dirty"} <= lines[question, "a", "ours"].keys()
    assert "died: SIGABRT" in done.stdout
    assert ">= 8.00x best peer" in done.stdout
    assert_picture(tmp_path / "peers.png")


def test_a_peer_with_other_results_fails(tmp_path):
    """A peer that is said to compute the same as ours must."""
    modules = {"deepspeed.ops.adam": CPU_ADAM + "        self.param_groups[0]['lr'] *= 1.01\n"}
    done, lines = race_peers(tmp_path, "--only", "AdamW, float32", "--tensors", "a", modules=modules)
    assert done.returncode == 1
    assert lines["AdamW, float32", "a", "DeepSpeed CPUAdam"]["results"].startswith("DIFFER")
    assert lines["AdamW, float32", "a", "torch fused"]["results"].startswith("equal")
    assert "ERROR AdamW, float32, a: DeepSpeed CPUAdam differs from ours" in done.stdout


def test_one_of_ours_that_is_missing_fails(tmp_path):
    """It is not passed over, as a peer is."""
    modules = {"sitecustomize": "import gaudi3_rt.optim\ndel gaudi3_rt.optim.FusedAdamW\n"}
    done, lines = race_peers(tmp_path, "--only", "AdamW, float32", "--tensors", "a", modules=modules)
    assert done.returncode == 1
    assert "ERROR AdamW, float32, a: ours: AttributeError: module 'gaudi3_rt.optim'" in done.stdout
    assert float(lines["AdamW, float32", "a", "torch fused"]["p50_ms"]) > 0


def test_every_question_is_asked(tmp_path):
    """Each on many small tensors in little, without peers but torch."""
    done, lines = race_peers(tmp_path, "--tensors", "c")
    assert done.returncode == 0, done.stdout + done.stderr
    lost = {line["error"] for line in lines.values() if line["error"]}
    absent = {f"ModuleNotFoundError: there is no {peer} here" for peer in PEERS if peer != "timm"}
    assert lost == absent | {"ModuleNotFoundError: No module named 'timm'"}  # found without running its __init__
    # Two moments of float32 and a counter, which is of a tensor; so small ones are not quantised.
    states = [float(line["state_bytes"]) for (_, _, rival), line in lines.items() if rival == "ours"]
    assert max(states) < 9


def test_coded_state_is_measured(tmp_path):
    """A large tensor with int8 moments is seen to take two bytes and a little more."""
    done, lines = race_peers(tmp_path, "--only", "int8", "--tensors", "a")
    assert done.returncode == 0, done.stdout + done.stderr
    (state,) = {float(line["state_bytes"]) for (_, _, rival), line in lines.items() if rival == "ours"}
    assert 2 < state < 3


def test_memory_traffic_reaches_every_word_once(tmp_path, monkeypatch):
    """Told to clear what it updates, it clears all of that and nothing else; as it is, it changes nothing."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    memory_limit = importlib.import_module("memory_limit")
    library = memory_limit.compile_library(tmp_path)
    sizes = [1, 31, 1000, 3 * memory_limit.CHUNK_WORDS + 5]
    read, wide = ([torch.ones(n, dtype=torch.int64) for n in sizes] for _ in range(2))
    narrow = [torch.ones(-(-n // 4), dtype=torch.int64) for n in sizes]
    around = torch.ones(sum(sizes) + 2, dtype=torch.int64)
    inside = list(around[1:-1].split(sizes))
    traffic = memory_limit.Traffic(library, read=[read], update=[wide, narrow, inside])

    traffic.run()
    assert all((tensor == 1).all() for tensor in [*read, *wide, *narrow, around])
    assert library.touch(traffic._spans, traffic._count, 1, 3, 2, 2**64 - 1) == sum(sizes)
    assert all((tensor == 0).all() for tensor in [*wide, *narrow, *inside])
    assert all((tensor == 1).all() for tensor in [*read, around[[0, -1]]])

    total = memory_limit.Traffic(library, read=[read])
    assert library.read_one(total._spans, total._count, 2) == sum(sizes)
