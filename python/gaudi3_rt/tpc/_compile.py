"""How a TPC-C file becomes a shared library: the system's C++ compiler, the emulator's headers, a cache."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gaudi3_rt import _config

Defines: TypeAlias = Mapping[str, str | int | float | bool | None]

HEADERS = Path(__file__).parent / "emulator"
_COMPILERS = ("c++", "g++", "clang++")
# What tpc-clang defines for each, as far as public sources say; GAUDI3_RT_ARCH is ours.
ARCHS: dict[str, tuple[str, ...]] = {
    "gaudi": ("GAUDI3_RT_ARCH=1", "__gaudi__", "__gaudi_plus__"),
    "gaudi2": ("GAUDI3_RT_ARCH=2", "__gaudi2__", "__gaudi_plus__", "__greco_plus__", "__gaudi2_plus__"),
    "gaudi3": ("GAUDI3_RT_ARCH=3", "__gaudi_plus__", "__greco_plus__", "__gaudi2_plus__"),
}
_ALWAYS_DEFINED = ("__TPC__", "MAX_TENSORS=16", "MAX_VLM=81920", "MAX_SLM=16384")
# A sum of products is fused only where the kernel says so; TPC-C has no words for operators and narrows in braces.
_FLAGS = (
    "-std=c++20",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-fast-math",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-operator-names",
    "-fno-zero-initialized-in-bss",
    "-Wno-narrowing",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-fmax-errors=20",
)
# GCC 12 may use MMX registers and not give them back, which breaks x87 arithmetic elsewhere in the process.
_MACHINE_FLAGS = ("-mno-mmx",) if platform.machine() in {"x86_64", "AMD64"} else ()
_LINK_FLAGS = ("-fPIC", "-shared", "-fvisibility=hidden")
_CHECKING_FLAGS = ("-O1", "-DGAUDI3_RT_TPC_CHECKING=1")
_FAST_FLAGS = ("-O3", "-DGAUDI3_RT_TPC_CHECKING=0")
# The kernel has a namespace, so that it may use any name that the C library or the emulator has, too.
_WRAPPER = """\
#include "tpc.h"
namespace gaudi3_rt::tpc { struct KernelFollows; }
namespace tpc_kernel {
#define main gaudi3_rt_tpc_main
#include "{source}"
GAUDI3_RT_TPC_KERNEL
}
"""
_MAIN = re.compile(r"\bgaudi3_rt_tpc_main\s*\(([^)]*)\)")
# What reads the vendor's tables, which take a part of vector local memory.
_TABLES = re.compile(
    r"\b(?:v_)?(?:exp|expm1|log|log2|pow|pow2|reciprocal|sqrt|rsqrt|div|tanh|sigmoid|sin|cos|mod)(?:_fast)?_(?:f32|bf16|f16)\b"
    r"|\bv_\w+_reduce_(?!nolut)\w+|\bv_\w+_lookup\w*"
)
# TPC-C's long is an int. Strings stay, long long stays, and `long int` or `long unsigned` lose the word.
_LONG = re.compile(
    r"""(?P<kept>"(?:\\.|[^"\\])*"|\blong\s+long\b)|(?P<gone>\blong(?=\s+(?:(?:un)?signed|int)\b)|(?<=\bint)\s+long\b)|\blong\b"""
)
_FILL = "-ftrivial-auto-var-init=pattern"  # what a kernel has not set is then the same in every run
_REFUSED = re.compile(r"(?:static assertion failed|static_assert failed).*?[:\"] ?\"?((?:a parameter of )?main .+)")
_REFUSED_TYPE = re.compile(r"gaudi3_rt::tpc::Parameter<(.+?)>['\u2019]")
_UNKNOWN = re.compile(r"error: (?:'(\w+)' was not declared in this scope|use of undeclared identifier '(\w+)')")


class CompileError(RuntimeError):
    """A kernel that does not compile. The text has the compiler's messages with the kernel's file and lines."""


def find_compiler() -> str:
    """The C++ compiler: ``$CXX``, else the first of c++, g++ and clang++ that is installed.

    Raises:
        CompileError: there is none.
    """
    named = _config.compiler()
    for name in (named,) if named else _COMPILERS:
        if path := shutil.which(name):
            return path
    message = (
        f"$CXX is {named!r}, which is not a program" if named else f"none of {', '.join(_COMPILERS)} is installed"
    ) + "; an emulated kernel is compiled by a C++20 compiler (Debian/Ubuntu: apt install g++)"
    raise CompileError(message)


def cache_dir() -> Path:
    """Where compiled kernels are kept: ``$XDG_CACHE_HOME/gaudi3_rt/tpc``, by default in ``~/.cache``."""
    return _config.cache_home() / "gaudi3_rt" / "tpc"


@functools.lru_cache
def _version(compiler: str, _modified: float) -> str:
    run = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    return run.stdout


@functools.lru_cache
def _fill_flags(compiler: str, _modified: float) -> tuple[str, ...]:
    """What gives variables a value that nothing has set, if the compiler can (g++ 12, clang 8)."""
    probe = [compiler, _FILL, "-x", "c++", "-E", os.devnull]
    run = subprocess.run(probe, capture_output=True, check=False)  # noqa: S603
    return () if run.returncode else (_FILL,)


def _command(arch: str, defines: Defines, include_dirs: Sequence[Path], flags: Sequence[str]) -> list[str]:
    if arch not in ARCHS:
        message = f"arch is {arch!r}; it is one of {', '.join(ARCHS)}"
        raise ValueError(message)
    command = [find_compiler(), *_FLAGS, *_MACHINE_FLAGS, *flags, "-isystem", str(HEADERS)]
    command += [f"-I{Path(d).resolve()}" for d in include_dirs]
    command += [f"-D{d}" for d in (*_ALWAYS_DEFINED, *ARCHS[arch])]
    for name, value in defines.items():
        if not name.isidentifier():
            message = f"defines has {name!r}, which is no name of a macro"
            raise ValueError(message)
        command.append(f"-D{name}" if value is None else f"-D{name}={int(value) if value is True else value}")
    return command


def _compiler_run(command: list[str], text: str, folder: Path, suffix: str = ".cpp") -> str:
    environment = {**_config.environment(), "LC_ALL": "C"}
    source = folder / f"kernel{suffix}"
    source.write_text(text)
    run = subprocess.run(  # noqa: S603
        [*command, str(source)], capture_output=True, text=True, check=False, env=environment
    )
    if run.returncode:
        raise CompileError(_explain(run.stderr, folder))
    return run.stdout


def _explain(errors: str, folder: Path) -> str:
    """The compiler's messages, first what they come down to."""
    unknown = {a or b for a, b in _UNKNOWN.findall(errors)}
    lines = [line for line in errors.splitlines() if str(folder) not in line or "error" in line]
    if "gaudi3_rt_tpc_main" in unknown:
        return "the file has no function main; a kernel begins at void main(tensor ..., and scalars)"
    if refused := _REFUSED.search(errors):
        seen = _REFUSED_TYPE.search(errors)
        return (f"main has a parameter of type {seen[1]}: " if seen else "") + refused[1].strip('"')
    if unknown:
        head = f"not declared: {', '.join(sorted(unknown))}; an intrinsic of that name is not emulated"
    else:
        head = "the kernel does not compile"
    return "\n".join([head, *lines]).replace("tpc_kernel::", "").replace("gaudi3_rt_tpc_main", "main")


def _with_long_of_32_bits(text: str) -> str:
    """A preprocessed file in which the kernel's long is int."""
    emulator, marker, kernel = text.partition("KernelFollows")
    return emulator + marker + _LONG.sub(lambda m: m["kept"] or ("" if m["gone"] else "int"), kernel)


@dataclass(frozen=True)
class Build:
    """A compiled kernel.

    Attributes:
        library: the shared library in the cache.
        parameter_names: of main, as far as they can be read.
        uses_tables: whether it uses functions of the vendor that read tables.
    """

    library: Path
    parameter_names: list[str]
    uses_tables: bool


def build(source: Path, arch: str, defines: Defines, include_dirs: Sequence[Path], *, check: bool) -> Build:
    """Compiles a kernel, unless the cache has it.

    The cache knows it by the preprocessed text, so by everything that it includes, and by compiler and flags. Of
    processes and threads that want the same kernel at once, one compiles it and the others wait.

    Raises:
        CompileError: it does not compile, or there is no compiler.
        FileNotFoundError: there is no such file.
        ValueError: ``arch`` or a name in ``defines`` is not known.
    """
    if not source.is_file():
        message = f"there is no kernel file {source}"
        raise FileNotFoundError(message)
    command = _command(arch, defines, include_dirs, _CHECKING_FLAGS if check else _FAST_FLAGS)
    compiler = (command[0], Path(command[0]).stat().st_mtime)
    if check:
        command += _fill_flags(*compiler)
    wrapper = _WRAPPER.replace("{source}", str(source.resolve()).replace("\\", "\\\\").replace('"', '\\"'))
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        text = _compiler_run([*command, "-E", "-P"], wrapper, folder)
        version = _version(*compiler)
        key = hashlib.sha256("\0".join([text, version, *command[1:], *_LINK_FLAGS]).encode()).hexdigest()
        library = cache / f"{source.stem}-{key[:32]}.so"
        with _alone(library):
            if not library.exists():
                built = folder / library.name
                link = [*command, *_LINK_FLAGS, "-o", str(built)]
                if _with_long_of_32_bits(text) == text:
                    _compiler_run(link, wrapper, folder)
                else:  # the compiler's messages are a little worse, since it does not see macros
                    lines = _compiler_run([*command, "-E"], wrapper, folder)
                    _compiler_run(link, _with_long_of_32_bits(lines), folder, ".ii")
                built.replace(library)
    kernel = text.partition("KernelFollows")[2]
    return Build(library, _parameter_names(kernel), _TABLES.search(kernel) is not None)


@contextlib.contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Nobody else is in here for this library."""
    if library.exists():
        yield
        return
    path = library.with_suffix(".lock")
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # who waits for it has it open, and finds the library


def _parameter_names(kernel: str) -> list[str]:
    found = _MAIN.search(kernel)
    if found is None:
        return []
    return [words[-1] if (words := re.findall(r"\w+", p)) else "" for p in found[1].split(",")]
