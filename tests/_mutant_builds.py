"""Sources with one wrong line, compiled."""

import ctypes
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from _problems import ROOT, run_tool

FLAGS = ["-std=c++17", "-O0", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-fPIC"]


def build_mutants(mutants, shim, sources, tmp_path_factory, kernels=None):
    """The library of each mutant by name, of the shim and sources, compiled two at a time; skips without g++.

    A mutant is a file below csrc, what it says, which has to stand there once, and what the mutant says instead.
    kernels: the X(stem, Type) of those kernels of optimizers that are compiled; all if it is None.
    """
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    system = _precompile_system_headers(tmp_path_factory.mktemp("system"))
    folders = [tmp_path_factory.mktemp("mutant") for _ in mutants]

    def build(folder, mutant):
        return _build(system, folder, *mutant, shim, sources, kernels)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(mutants, pool.map(build, folders, mutants.values()), strict=True))


def _precompile_system_headers(folder):
    """Has the compiler parse the system's headers of all sources once; returns a header to be included first."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "csrc").rglob("*.[hc]*")]
    names = sorted(set(re.findall(r"#include (<\w+>)", "\n".join(texts))))
    system = folder / "system.h"
    intrinsics = "#if defined(__x86_64__)\n#include <immintrin.h>\n#endif\n"
    system.write_text(intrinsics + "".join(f"#include {name}\n" for name in names), encoding="utf-8")
    run = run_tool("g++", *FLAGS, "-xc++-header", system, "-o", folder / "system.h.gch")
    assert run.returncode == 0, run.stderr
    return system


def _build(system, folder, file, old, new, shim, sources, kernels):
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    if kernels is not None:
        registry = folder / "csrc" / "registry.h"
        text, count = re.subn(
            r"(#define GAUDI3_RT_KERNELS\(X\)) (?:.*\\\n)+.*", rf"\1 {kernels}", registry.read_text(encoding="utf-8")
        )
        assert count == 1
        registry.write_text(text, encoding="utf-8")
    source = (folder / "csrc" / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"csrc/{file} has to contain this text once: {old!r}"
    (folder / "csrc" / file).write_text(source.replace(old, new), encoding="utf-8")
    (folder / "shim.cpp").write_text(shim, encoding="utf-8")
    inputs = [folder / "shim.cpp", *(folder / name for name in sources)]
    built = run_tool("g++", *FLAGS, "-shared", f"-I{folder}", "-include", system, *inputs, "-o", folder / "mutant.so")
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(folder / "mutant.so"))
