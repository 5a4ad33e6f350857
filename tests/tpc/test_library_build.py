"""The kernel library carries what a TPC compiler made of every kernel for each architecture, and hands it over."""

import os
import shutil
import stat
from pathlib import Path

import pytest
from _cmake import build, configure
from _graph_compiler import FAILED, GAUDI2, GAUDI3, SMALL_ELF_BUFFER, SUCCESS, Call, open_library
from _operands import shapes
from _problems import run_tool
from _tpc_kernels import KERNELS

LIBRARY_TARGET = "gaudi3_rt_tpc"
LIBRARY = Path("tpc_kernels", "glue", "libgaudi3_rt_tpc.so")

# Stands in for tpc-clang: the "object" says how it was made, and its length differs from kernel to kernel.
COMPILER = """#!/bin/sh
case "$*" in *{refused}*) echo "error: stand-in refuses" >&2; exit 1;; esac
for last; do :; done
printf 'object of %s\\0' "$*" > "$last"
"""


def stand_in(folder, refused="nothing"):
    """A compiler in a folder; it refuses what is called with that word."""
    path = folder / "tpc-clang"
    path.write_text(COMPILER.format(refused=refused), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build folder with a library that carries the stand-in's objects."""
    folder = tmp_path_factory.mktemp("library")
    run = configure(folder, "-DGAUDI3_RT_TPC=ON", f"-DTPC_CLANG={stand_in(folder)}", "-DGAUDI3_RT_WERROR=ON")
    assert run.returncode == 0, run.stderr
    run = build(folder, LIBRARY_TARGET)
    assert run.returncode == 0, run.stderr + run.stdout
    return folder


@pytest.mark.parametrize(("device", "architecture"), [(GAUDI2, "gaudi2"), (GAUDI3, "gaudi3")])
def test_every_program_is_handed_over(built, device, architecture):
    """Too small a buffer is refused with the size that is needed; then the compiler's bytes arrive and no others."""
    library = open_library(built / LIBRARY)
    for name, kernel in KERNELS.items():
        program = (built / LIBRARY.parent / "tpc_objects" / f"{name}_{architecture}.o").read_bytes()
        wanted = [f"-march={architecture}", kernel["source"], f"-DGAUDI3_RT_ARCH={architecture[-1]}"]
        assert all(word in program.decode() for word in [*wanted, *(f"-D{macro} " for macro in kernel["defines"])])

        def call(elf_bytes, name=name, kernel=kernel):
            return Call(f"g3rt_{name}", *shapes(kernel, 700), device=device, elf_bytes=elf_bytes)

        for elf_bytes in (0, len(program) - 1):
            one = call(elf_bytes)
            assert one.run(library) == SMALL_ELF_BUFFER
            assert one.instance.kernel.elf_size == len(program)
            assert one.elf.raw.strip(b"\0") == b"", "nothing is written into a buffer that is too small"
        for elf_bytes in (len(program), len(program) + 9):
            one = call(elf_bytes)
            assert one.run(library) == SUCCESS
            assert one.instance.kernel.elf_size == len(program)
            assert one.elf.raw == program + b"\0" * (elf_bytes - len(program))


def test_a_missing_buffer_is_too_small(built):
    """The graph compiler may ask for the size with no buffer at all."""
    library = open_library(built / LIBRARY)
    one = Call("g3rt_adamw_f32", *shapes(KERNELS["adamw_f32"], 700))
    one.instance.kernel.elf = None
    assert one.run(library) == SMALL_ELF_BUFFER
    assert one.instance.kernel.elf_size > 0


def test_the_library_shows_its_entry_points_alone(built):
    """No other symbol could meet one of another kernel library."""
    symbols = run_tool("nm", "--dynamic", "--defined-only", built / LIBRARY).stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert names == {"GetKernelGuids", "InstantiateTpcKernel", "GetShapeInference", "GetLibVersion"}


def test_the_compiler_is_found_on_the_path(tmp_path):
    """AUTO takes it from there, OFF does not."""
    folder = tmp_path / "bin"
    folder.mkdir()
    compiler = stand_in(folder)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    run = configure(tmp_path / "auto", PATH=path)
    assert f"TPC kernels are compiled with {compiler}" in run.stdout
    run = configure(tmp_path / "off", "-DGAUDI3_RT_TPC=OFF", PATH=path)
    assert run.returncode == 0
    assert "TPC kernels are not compiled" in run.stdout


def test_on_needs_a_compiler(tmp_path):
    """Without one, and with a value that is none of the three, configuration ends by saying what to do."""
    if shutil.which("tpc-clang") is not None:
        pytest.skip("tpc-clang is installed")
    run = configure(tmp_path / "on", "-DGAUDI3_RT_TPC=ON")
    assert run.returncode != 0
    assert "GAUDI3_RT_TPC=ON needs tpc-clang" in run.stderr
    assert "-DTPC_CLANG=/path/to/tpc-clang" in " ".join(run.stderr.split())
    run = configure(tmp_path / "word", "-DGAUDI3_RT_TPC=YES")
    assert run.returncode != 0
    assert "use AUTO, ON or OFF" in run.stderr


def test_what_the_compiler_refuses_ends_the_build(tmp_path):
    """The kernel, the architecture and the compiler's words are shown."""
    assert configure(tmp_path, f"-DTPC_CLANG={stand_in(tmp_path, refused='march=gaudi2')}").returncode == 0
    run = build(tmp_path, LIBRARY_TARGET)
    assert run.returncode != 0
    assert "adamw.c for gaudi2: error: stand-in refuses" in run.stdout + run.stderr
    assert "for gaudi3" not in run.stdout + run.stderr


def test_a_library_without_programs_is_built_without_a_compiler(tmp_path):
    """It answers all but the program."""
    assert configure(tmp_path, "-DGAUDI3_RT_TPC=OFF", "-DGAUDI3_RT_WERROR=ON").returncode == 0
    run = build(tmp_path, LIBRARY_TARGET)
    assert run.returncode == 0, run.stderr + run.stdout
    one = Call("g3rt_adamw_f32", *shapes(KERNELS["adamw_f32"], 700))
    assert one.run(open_library(tmp_path / LIBRARY)) == FAILED
    assert one.instance.geometry[0] == 1


def test_operators_need_the_bridge(tmp_path):
    """Asked for where Habana's bridge is missing, configuration ends by saying what to do; AUTO leaves them out."""
    (tmp_path / "habana_frameworks.py").write_text("raise ImportError('no bridge here')", encoding="utf-8")
    run = configure(tmp_path / "on", "-DGAUDI3_RT_HPU=ON", PYTHONPATH=tmp_path)
    assert run.returncode != 0
    assert "GAUDI3_RT_HPU=ON needs Habana's PyTorch bridge" in " ".join(run.stderr.split())
    assert "no bridge here" in run.stderr
    assert configure(tmp_path / "auto", PYTHONPATH=tmp_path).returncode == 0
    assert build(tmp_path / "auto", "gaudi3_rt_hpu").returncode != 0
