"""Compiling: what is an error and how it reads, what the cache knows a kernel by, and what a package brings along."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gaudi3_rt import tpc
from gaudi3_rt.tpc import _compile

ROOT = Path(__file__).parents[2]
EMPTY = "void main(tensor to) { int5 c = {0}; float64 v = VALUE; v_f32_st_tnsr(c, to, v); }\n"


@pytest.fixture
def source(tmp_path):
    """A kernel file."""
    path = tmp_path / "store.c"
    path.write_text(EMPTY)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\nvoid main(tensor t) {\n  int5 c = {0};\n  v_f32_frobnicate_b(v_f32_ld_tnsr_b(c, t));\n}",
            r"not declared: v_f32_frobnicate_b; an intrinsic of that name is not emulated(.|\n)*broken.c:4:3: error",
        ),
        ("\n\nvoid main(tensor t) { float64 x = ; }", r"does not compile(.|\n)*broken.c:3:35: error"),
        ('#include "missing.h"\nvoid main() {}', r"broken.c:1:10: fatal error: missing.h"),
        ("void other(tensor t) {}", "the file has no function main"),
        ("void main(tensor t, float *p) {}", "must be a tensor, int, unsigned, float, bf16"),
        ("void main(tensor t, float64 v) {}", "must be a tensor, int, unsigned, float, bf16"),
        ("void main(tensor t, double v) {}", "must be a tensor, int, unsigned, float, bf16"),
        ("void main(tensor t, long long v) {}", "must be a tensor, int, unsigned, float, bf16"),
        ("int main(tensor t) { return 0; }", "main must return void"),
        (f"void main({', '.join(f'tensor t{i}' for i in range(17))}) {{}}", "at most 16 tensors"),
        (f"void main({', '.join(f'int i{i}' for i in range(33))}) {{}}", "at most 32 scalars"),
    ],
)
def test_errors(tmp_path, text, message):
    """They come with the kernel's file and line, and say what they come down to."""
    broken = tmp_path / "broken.c"
    broken.write_text(text)
    with pytest.raises(tpc.CompileError, match=message):
        tpc.compile(broken)


def test_bad_arguments(source):
    """Files, architectures and macros that there are not."""
    with pytest.raises(FileNotFoundError, match="there is no kernel file"):
        tpc.compile(source.with_name("none.c"))
    with pytest.raises(ValueError, match="arch is 'gaudi9'; it is one of gaudi, gaudi2, gaudi3"):
        tpc.compile(source, arch="gaudi9")
    with pytest.raises(ValueError, match="no name of a macro"):
        tpc.compile(source, defines={"A B": 1})


def test_no_compiler(source, monkeypatch):
    """Says what to install."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(tpc.CompileError, match=r"none of c\+\+, g\+\+, clang\+\+ is installed; .*apt install"):
        tpc.compile(source)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(tpc.CompileError, match=r"\$CXX is 'no-such-compiler', which is not a program"):
        tpc.compile(source)


def value(kernel):
    """What it stores."""
    to = np.zeros(1, np.float32)
    kernel.run([], [to], index_space=(1,))
    return float(to[0])


def test_cache(source, tmp_path, monkeypatch):
    """Everything that changes a kernel changes its place in the cache; what is there is not compiled again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    include = tmp_path / "include"
    include.mkdir()
    header = include / "value.h"
    header.write_text("#define TWO 2\n")
    source.write_text(f'#include "value.h"\n{EMPTY}')
    folder = tmp_path / "cache" / "gaudi3_rt" / "tpc"

    def libraries():
        return {p.name for p in folder.iterdir()}

    compile_ = {"defines": {"VALUE": "TWO"}, "include_dirs": [include]}
    assert value(tpc.compile(source, **compile_)) == 2
    first = libraries()
    assert len(first) == 1
    before = (folder / next(iter(first))).stat().st_mtime_ns
    assert value(tpc.compile(source, **compile_)) == 2
    assert libraries() == first
    assert (folder / next(iter(first))).stat().st_mtime_ns == before
    assert value(tpc.compile(source, **(compile_ | {"defines": {"VALUE": "TWO + 1"}}))) == 3
    header.write_text("#define TWO 4\n")
    assert value(tpc.compile(source, **compile_)) == 4
    tpc.compile(source, arch="gaudi2", **compile_)
    assert len(libraries()) == 4


def test_compiling_at_once(source, tmp_path, monkeypatch):
    """Several at a time end with one library, and each can run it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadPoolExecutor(3) as pool:
        kernels = list(pool.map(lambda _: tpc.compile(source, defines={"VALUE": 5}), range(3)))
        assert list(pool.map(value, kernels)) == [5, 5, 5]
    assert len(list((tmp_path / "cache" / "gaudi3_rt" / "tpc").iterdir())) == 1


@pytest.mark.parametrize(
    ("arch", "defined"), [("gaudi", (1, 1, 0, 0)), ("gaudi2", (2, 0, 1, 1)), ("gaudi3", (3, 0, 0, 1))]
)
def test_architectures(tmp_path, arch, defined):
    """Define the macros that are known of them."""
    path = tmp_path / "macros.c"
    path.write_text("""
    void main(tensor to) {
      int values[4] = {GAUDI3_RT_ARCH};
    #ifdef __gaudi__
      values[1] = 1;
    #endif
    #ifdef __gaudi2__
      values[2] = 1;
    #endif
    #ifdef __gaudi2_plus__
      values[3] = 1;
    #endif
      for (int i = 0; i < 4; i++) { int5 c = {i}; s_i32_st_tnsr_s(c, to, values[i]); }
    }
    """)
    to = np.zeros(4, np.int32)
    tpc.compile(path, arch=arch).run([], [to], index_space=(1,))
    assert tuple(to.tolist()) == defined


def test_headers_are_in_the_package():
    """All of them: kernels are compiled without the source tree."""
    shipped = {p.name for p in _compile.HEADERS.iterdir()}
    assert shipped == {p.name for p in (ROOT / "tpc_kernels" / "emulator").iterdir()}
    assert ROOT / "tpc_kernels" not in _compile.HEADERS.parents


def test_runs_far_from_the_source_tree(source, tmp_path):
    """In a process that sees the installed package and nothing else of ours."""
    shutil.copy(source, tmp_path / "kernel.c")
    code = (
        "import numpy, gaudi3_rt.tpc as t\n"
        "k = t.compile('kernel.c', defines={'VALUE': 3}); y = numpy.zeros(8, 'f4')\n"
        "k.run([], [y], index_space=(1,)); print(y.tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.strip() == str([3.0] * 8)
