"""Compiles every kernel for every architecture with a TPC compiler and writes C++ that carries the results."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ARCHITECTURES = ("gaudi2", "gaudi3")  # in the order of kArchitectures in elfs.h


def compile_kernel(compiler: str, source: Path, defines: str, architecture: str, target: Path) -> str:
    """Returns what the compiler said if it refused."""
    macros = [f"-D{macro}" for macro in [*defines.split(), f"GAUDI3_RT_ARCH={architecture[-1]}"]]
    command = [compiler, "-Wall", "-Werror", "-O2", f"-march={architecture}", f"-I{source.parent}", *macros]
    run = subprocess.run([*command, str(source), "-c", "-o", str(target)], capture_output=True, text=True, check=False)
    return f"{source.name} for {architecture}: {run.stderr.strip()}" if run.returncode else ""


def main() -> None:
    """Reads the kernels from a program that lists them; ends with what the compiler refused, if anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--list", required=True, help="program that prints name, source and defines of each kernel")
    parser.add_argument("--sources", type=Path, required=True, help="folder of the kernels")
    parser.add_argument("--objects", type=Path, required=True, help="folder for what is compiled")
    parser.add_argument("--output", type=Path, required=True, help="the C++ file")
    args = parser.parse_args()

    listed = subprocess.run([args.list], capture_output=True, text=True, check=True).stdout
    args.objects.mkdir(parents=True, exist_ok=True)
    assembly, declarations, rows, refused = [], [], [], []
    for kernel in listed.splitlines():
        name, source, defines = kernel.split("\t")
        row = []
        for architecture in ARCHITECTURES:
            target = (args.objects / f"{name}_{architecture}.o").resolve()
            refused.append(compile_kernel(args.compiler, args.sources / source, defines, architecture, target))
            symbol = f"gaudi3_rt_elf_{name}_{architecture}"
            lines = (".p2align 4", f"{symbol}:", f'.incbin \\"{target}\\"', f"{symbol}_end:")
            assembly += [f'    "{line}\\n"' for line in lines]
            declarations.append(f"extern const unsigned char {symbol}[], {symbol}_end[];")
            row.append(f"{{{symbol}, {symbol}_end}}")
        rows.append(f"    {{{', '.join(row)}}},")
    if any(refused):
        sys.exit("\n".join(filter(None, refused)))

    text = f"""// Written by embed.py.
#include "{Path(__file__).resolve().parent / "elfs.h"}"

// Local symbols: the library shows none of them. The section is the one of constants.
asm(
    ".pushsection .rodata\\n"
{chr(10).join(assembly)}
    ".popsection\\n");

extern "C" {{
{chr(10).join(declarations)}
}}

namespace gaudi3_rt::tpc {{
const Elf kElfs[kKernelCount][std::size(kArchitectures)] = {{
{chr(10).join(rows)}
}};
}}  // namespace gaudi3_rt::tpc
"""
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
