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
        ("void other(tensor t) {}", r"^the file has no function main; a kernel begins at void main\(.*\)$"),
        ("void main(tensor t, float *p) {}", r"^main has a parameter of type float\*: .* must be a tensor, int, .*$"),
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
    """Of several at a time one compiles, and each can run the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log, counting = tmp_path / "log", tmp_path / "compiler"
    counting.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {_compile.find_compiler()} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("CXX", str(counting))
    with ThreadPoolExecutor(3) as pool:
        kernels = list(pool.map(lambda _: tpc.compile(source, defines={"VALUE": 5}), range(3)))
        assert list(pool.map(value, kernels)) == [5, 5, 5]
    assert log.read_text().count(" -shared ") == 1
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


LONG = """
typedef long int int32_t;
typedef unsigned long uint32_of_mine;
typedef long unsigned int uint32_t;
typedef long long int64_of_mine;
__local__ long words[2];
static long next(long x) { return x + 1; }
void main(tensor from, tensor to, long given, unsigned long many) {
  int5 c = {0};
  words[1] = next(given);
  __global__ int32_t* address = (__global__ int32_t*)gen_addr(c, from);
  uint32_of_mine wraps = 0xffffffff;
  uint32_t high = many;
  int values[8] = {sizeof(long), sizeof(unsigned long), sizeof(int64_of_mine), sizeof(words), words[1] < 0, *address,
                   (++wraps == 0), (high > 0)};
  for (int i = 0; i < 8; i++) { c[0] = i; s_i32_st_tnsr_s(c, to, values[i]); }
  printf("a long %d", 1);
}
"""


@pytest.mark.parametrize("check", [True, False])
def test_long_has_32_bits(tmp_path, check):
    """Under each name, also where a kernel says itself what its int32_t is; a text that has the word keeps it."""
    path = tmp_path / "long.c"
    path.write_text(LONG)
    kernel = tpc.compile(path)
    assert [p.type for p in kernel.parameters] == ["tensor", "tensor", "int", "unsigned"]
    to = np.zeros(8, np.int32)
    report = kernel.run([np.int32([77, 1])], [to], [2**31 - 1, 2**32 - 1], index_space=(1,), check=check)
    assert to.tolist() == [4, 4, 8, 8, 1, 77, 1, 1]
    assert (report.printed, report.scalar_memory) == ("a long 1", 8)


def test_errors_have_their_line_where_long_is_replaced(tmp_path):
    """As without it."""
    path = tmp_path / "broken.c"
    path.write_text("\nlong x;\n\nvoid main(tensor t) { v_f32_frobnicate_b(); }")
    with pytest.raises(tpc.CompileError, match=r"not declared: v_f32_frobnicate_b(.|\n)*broken.c:4:\d+: error"):
        tpc.compile(path)


def test_names_of_the_c_library_are_free(tmp_path):
    """For functions and variables of a kernel; so are those of the vendor's headers."""
    path = tmp_path / "names.c"
    path.write_text("""
    #include <math.h>
    #include <stdint.h>
    typedef char int8_t;
    __local__ float64 y1[2];
    __local__ float64 gamma;
    __local__ int index[2];
    union both { float64 f; int64 i; };
    static float64 exp(float64 x) { return x + 1.f; }
    static float64 v_f32_reduce_add(float64 x) { return x * 2.f; }
    void main(tensor to) {
      int5 c = {0};
      y1[1] = 2.f;
      gamma = exp(y1[1]);
      index[0] = 4;
      union both u;
      u.f = v_f32_reduce_add(gamma) + index[0];
      u.i ^= 0x80000000;
      v_f32_st_tnsr(c, to, u.f);
    }
    """)
    to = np.zeros(64, np.float32)
    report = tpc.compile(path).run([], [to], index_space=(1,))
    assert (to == -10).all()
    assert (report.vector_memory, report.scalar_memory) == (3 * 256, 8)


def test_what_was_not_set_has_one_value(tmp_path):
    """In checking mode, if the compiler can: a kernel that uses it has equal results, far from any that is right."""
    path = tmp_path / "unset.c"
    path.write_text("void main(tensor to) { int5 c = {0}; float64 v; v_f32_st_tnsr(c, to, v); }")
    kernel = tpc.compile(path)
    compiler = _compile.find_compiler()
    if not _compile._fill_flags(compiler, 0.0):
        pytest.skip("the compiler does not fill variables")
    to = np.zeros(64, np.float32)
    kernel.run([], [to], index_space=(1,))
    assert len(set(to.view(np.uint32).tolist())) == 1
    assert not (np.abs(to) < 1e30).any()
