"""Sources with one wrong line, compiled."""

import ctypes
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from _problems import ROOT, run_tool

FLAGS = ["-std=c++17", "-O0", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-fPIC"]


def build_mutants(mutants, shim, sources, tmp_path_factory):
    """The library of each mutant by name, of the shim and sources, compiled two at a time; skips without g++.

    A mutant is (file below csrc, what it says, what the mutant says instead, tables): the text has to stand there once,
    and of those tables of registry.h only the entries given are compiled. The table "TREE" is that of sums along trees,
    which has no entries.
    """
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    system = _precompile_system_headers(tmp_path_factory.mktemp("system"))
    folders = [tmp_path_factory.mktemp("mutant") for _ in mutants]

    def build(folder, mutant):
        return _build(system, folder, *mutant, shim, sources)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(mutants, pool.map(build, folders, mutants.values()), strict=True))


def entries_of(file):
    """The entries of the table of kernels whose formulas a file below csrc defines."""
    registry, formulas = ((ROOT / "csrc" / name).read_text(encoding="utf-8") for name in ("registry.h", file))
    (table,) = re.findall(r"#define GAUDI3_RT_KERNELS\(X\)((?:.*\\\n)+.*)", registry)
    types = re.findall(r"^struct (\w+)", formulas, re.MULTILINE)
    return " ".join(entry for entry, type_ in re.findall(r"(X\(\w+, (\w+).*?\))", table) if type_ in types)


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


def _build(system, folder, file, old, new, tables, shim, sources):
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    _replace(folder / "csrc" / file, re.escape(old), new)
    for table, entries in tables.items():
        if table == "TREE":
            _replace(folder / "csrc" / "isa" / "body.h", r"\btree_sum_chunk,", "nullptr,")
        else:
            head = rf"#define GAUDI3_RT_{table}(X)"
            _replace(folder / "csrc" / "registry.h", rf"{re.escape(head)} *(?:.*\\\n)+.*", f"{head} {entries}")
    (folder / "shim.cpp").write_text(shim, encoding="utf-8")
    inputs = [folder / "shim.cpp", *(folder / name for name in sources)]
    built = run_tool("g++", *FLAGS, "-shared", f"-I{folder}", "-include", system, *inputs, "-o", folder / "mutant.so")
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(folder / "mutant.so"))


def _replace(file, pattern, new):
    text, count = re.subn(pattern, lambda _: new, file.read_text(encoding="utf-8"))
    assert count == 1, f"{file.name} has to contain this once: {pattern}"
    file.write_text(text, encoding="utf-8")
