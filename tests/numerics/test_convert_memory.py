"""Conversion of files needs less memory than one tensor beside them, whatever it does to the tensors."""

import json
import os
import subprocess
import sys

import pytest

MEASURED = """
import json, os, pathlib, sys, tempfile
import torch
from _convert_layouts import saved_by
from gaudi3_rt.numerics.convert import Options, convert_file

torch.set_num_threads(1)
os.fsync = lambda _: None  # takes time and no memory
COLUMNS = 2048
PAGE = os.sysconf("SC_PAGESIZE")
folder = pathlib.Path(sys.argv[1])
cases = json.loads(sys.argv[2])
statm = os.open("/proc/self/statm", os.O_RDONLY)


def used():  # memory that no file has
    _, resident, of_files, *_ = map(int, os.pread(statm, 100, 0).split())
    return (resident - of_files) * PAGE


def saved(name, rows, dtype, ranks, permuted):
    made = []
    for rank in range(ranks):
        pair = [(1e-3 * torch.rand(rows // ranks, COLUMNS)).to(dtype) for _ in range(2)]
        pair = [one.t().contiguous().t() for one in pair] if permuted else pair
        made.append(folder / f"{name}{rank}.pt")
        torch.save(saved_by("apex", [pair], 10), made[-1])
    return made


def peak(sources, target, options):
    most = [used()]
    before = most[0]

    def look(*_):
        most[0] = max(most[0], used())

    sys.setprofile(look)  # at every call and return: nothing is made and forgotten in between
    try:
        convert_file(sources, target, options, overwrite=True)
    finally:
        sys.setprofile(None)
    return most[0] - before


found = {}
for name, case in cases.items():
    dtype = getattr(torch, case.pop("dtype", "float32"))
    ranks, permuted = case.pop("ranks", 1), case.pop("permuted", False)
    moments_dtype = getattr(torch, case.pop("moments_dtype", "float32"))
    rows = int(sys.argv[3]) * 2**20 // 4 // COLUMNS
    options = Options(allow_lossy=True, steps=2, moments_dtype=moments_dtype, **case)
    small, large = (saved(kind, size, dtype, ranks, permuted) for kind, size in (("small", 240), ("large", rows)))
    peak(small, folder / "out.pt", options)  # whatever is imported at the first use
    found[name] = peak(large, folder / "out.pt", options)
print(json.dumps(found))
"""

CASES = {
    "rounded, in another order": {"moments_dtype": "bfloat16", "permuted": True},
    "codes, of joined ranks": {"ranks": 3, "target": "bitsandbytes", "moments_dtype": "uint8"},
    "cut flat": {"shards": 2, "sharding": "flat"},
}
TENSOR = 24
"""MiB of the largest tensor, in float32."""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process uses is read from Linux's /proc")
def test_memory_beside_the_file(tmp_path):
    """Less than the largest tensor, the certificate and all; a conversion of whole tensors takes two and more."""
    prompt = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])])  # noqa: PTH120
    done = subprocess.run(  # noqa: S603 (ours)
        [sys.executable, "-c", MEASURED, tmp_path, json.dumps(CASES), str(TENSOR)],
        check=True,
        timeout=600,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **prompt, "PYTHONPATH": path},
    )
    tensors = {name: round(used / TENSOR / 2**20, 2) for name, used in json.loads(done.stdout).items()}
    assert tensors.keys() == CASES.keys()
    assert max(tensors.values()) < 1, tensors
