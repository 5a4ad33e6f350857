"""The sources compile without a warning with every compiler at hand, and the extension needs no torch library."""

import re
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest
from _problems import ROOT, run_tool

from gaudi3_rt import _core

CSRC = ROOT / "csrc"
# Without csrc/hpu, whose headers are the vendor's: tests/tpc/test_hpu.py compiles it with a stand-in for them.
SOURCES = sorted(source for source in CSRC.rglob("*.cpp") if source.parent.name != "hpu")
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
COMPILERS = ["g++", "clang++", "clang++-14"]
CROSS = "aarch64-linux-gnu-g++"


def flags():
    """The options that CMakeLists.txt gives all sources."""
    (options,) = re.findall(r"add_compile_options\((-Wall.*)\)", CMAKE)
    return ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", *options.split(), "-Werror"]


def isa_flags(isa):
    """The options that CMakeLists.txt gives the source of one build."""
    (options,) = re.findall(rf"set\(isa_flags_{isa} (.*)\)", CMAKE)
    return [option for option in options.split() if option != '""']


def compile_all(compiler, folder, sources, *, optimize="-O2"):
    """Compiles sources with two processes at a time; returns what the compiler said of each that it refused."""

    def one(source):
        options = isa_flags(source.stem) if source.parent.name == "isa" else []
        if source.parent.name == "python":
            # Syntax and types only: optimising pybind11's templates takes longer than all else together.
            includes = [pybind11.get_include(), sysconfig.get_paths()["include"]]
            macros = ['-DGAUDI3_RT_COMPILER=""', '-DGAUDI3_RT_TPC_COMPILER=""']
            options = ["-fsyntax-only", *macros, *(f"-isystem{path}" for path in includes)]
        return run_tool(compiler, *flags(), optimize, *options, "-c", source, "-o", folder / f"{source.stem}.o")

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(one, sources))
    return [f"{source.name}: {run.stderr}" for source, run in zip(sources, runs, strict=True) if run.returncode != 0]


def need(compiler):
    """Skips the test where the compiler is missing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")


def is_built_with(compiler):
    """Whether `make` has linked the extension with this compiler and -Werror from all sources as they are now."""
    used = f"CMAKE_CXX_COMPILER:FILEPATH={shutil.which(compiler)}\n"
    changed = max(path.stat().st_mtime for path in [ROOT / "CMakeLists.txt", *CSRC.rglob("*.*")])
    return any(
        used in cache and "GAUDI3_RT_WERROR:BOOL=ON\n" in cache and extension.stat().st_mtime > changed
        for extension in ROOT.glob("build/*/_core.*.so")
        for cache in [extension.with_name("CMakeCache.txt").read_text(encoding="utf-8")]
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_sources_compile_without_a_warning(compiler, tmp_path):
    """All C++ sources compile clean with the project's own flags and -Werror."""
    need(compiler)
    assert {"scalar.cpp", "bindings.cpp", "tensor_list.cpp"} <= {source.name for source in SOURCES}
    if not is_built_with(compiler):
        assert compile_all(compiler, tmp_path, SOURCES) == []


def test_sources_compile_for_another_architecture(tmp_path):
    """What lies below the Python bindings compiles for AArch64, with the scalar build alone."""
    need(CROSS)
    sources = [s for s in SOURCES if s.parent.name != "python" and s.stem not in {"avx2", "avx512"}]
    assert compile_all(CROSS, tmp_path, sources) == []


def test_every_source_is_built():
    """CMakeLists.txt names every C++ source; those of the builds it names by their stem."""
    named = set(re.findall(r"csrc/[\w/]+\.cpp", CMAKE))
    isas = set(re.findall(r"isa_flags_(\w+)", CMAKE))
    there = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    assert there == named | {f"csrc/isa/{isa}.cpp" for isa in isas}


def test_headers_stand_alone(tmp_path):
    """Every header that is not a formula compiles by itself."""
    need("g++")
    included = {"arithmetic.h", "random.h", "traits.h", "vectors.h"}  # inside a namespace of their includer
    for header in sorted([*CSRC.glob("*.h")]):
        if header.name not in included:
            run = run_tool("g++", "-std=c++17", "-fsyntax-only", "-Werror", "-include", header, "-xc++", "/dev/null")
            assert run.returncode == 0, run.stderr
    assert not list(tmp_path.iterdir())


def test_the_extension_needs_no_torch():
    """One build serves every torch: no torch library is linked and no torch symbol is looked up."""
    if shutil.which("readelf") is None:
        pytest.fail("readelf is not installed (Debian/Ubuntu: binutils)")
    extension = Path(_core.__file__)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run_tool("readelf", "--dynamic", "--wide", extension).stdout)
    assert any(library.startswith("libgomp") for library in needed)
    assert [library for library in needed if re.match(r"lib(torch|c10|caffe|python|iomp|omp)", library)] == []
    symbols = run_tool("readelf", "--dyn-syms", "--wide", extension).stdout
    undefined = re.findall(r" UND (\S+)", symbols)
    assert any(name.startswith("PyList") for name in undefined)
    assert [name for name in undefined if re.search(r"c10|torch|at6Tensor|THP", name)] == []
    exported = re.findall(r"GLOBAL\s+DEFAULT\s+\d+ (\S+)", symbols)
    assert exported == ["PyInit__core"], "nothing else is visible to other libraries"
