"""How many instruction bundles a TPC compiler makes of each kernel, and how fast that could be (``make tpc-asm``).

The estimate: a TPC starts one bundle a clock and never waits, and all TPCs together have the whole bandwidth of the
memory. Bundles are counted in the kernel's outermost loop; what is around it runs once an invocation.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gaudi3_rt import _core

FOLDER = Path(__file__).parent
TABLE = FOLDER / "assembly.md"
ARCHITECTURE = "gaudi2"
LANES = 64  # of f32 in a vector
SHARDS = 2  # that are summed up; the loop for them has the fewest bundles
MEMBER_VECTORS = _core.TPC_MEMBER_ELEMENTS // LANES
BYTES = {"f32": 4, "i32": 4, "bf16": 2, "i8": 1, "u8": 1}
LABEL = re.compile(r"([.\w$]+):")
LOOP = re.compile(r"\bloop\s.*,\s*([.\w$]+)$")  # the label is where the loop ends
JUMP = re.compile(r"\bjmp[ra]\s+([.\w$]+)")
LOAD = re.compile(r"\bld_tnsr\b")
STORE = re.compile(r"\bst_tnsr\b(?! partial)")


@dataclass(frozen=True)
class Machine:
    """Published figures of a Gaudi; the clock of Gaudi 3 follows from its peak of 28.7 TFLOPS in bf16."""

    name: str
    tpcs: int
    hertz: float
    bytes_per_second: float

    def bundles(self, n_bytes: float) -> float:
        """Clocks of a TPC in which its share of the bandwidth moves this many bytes."""
        return n_bytes * self.tpcs * self.hertz / self.bytes_per_second


MACHINES = (Machine("Gaudi 2", 24, 1.8e9, 2.46e12), Machine("Gaudi 3", 64, 1.75e9, 3.67e12))


@dataclass(frozen=True)
class Loop:
    """Bundles of a listing, from ``begin`` to before ``end``."""

    begin: int
    end: int

    def holds(self, other: Loop) -> bool:
        """Whether the other one lies inside."""
        return self != other and self.begin <= other.begin and other.end <= self.end


def parse(listing: str) -> tuple[list[str], list[Loop]]:
    """The bundles of a listing, each a line of instructions, and its loops.

    Instructions between braces are one bundle; any other is one by itself.
    """
    bundles: list[str] = []
    labels: dict[str, int] = {}
    together: list[str] | None = None
    for raw in listing.splitlines():
        line = raw.split("//")[0].strip()
        if label := LABEL.fullmatch(line):
            labels[label[1]] = len(bundles)
        elif line == "{":
            together = []
        elif line == "}":
            bundles.append("\n".join(together or []))
            together = None
        elif line and not line.startswith("."):
            (bundles if together is None else together).append(line)
    loops = []
    for i, bundle in enumerate(bundles):
        for line in bundle.splitlines():
            if (loop := LOOP.search(line)) and loop[1] in labels:
                loops.append(Loop(i + 1, labels[loop[1]]))
            elif (jump := JUMP.search(line)) and labels.get(jump[1], i + 1) <= i:
                loops.append(Loop(labels[jump[1]], i + 1))
    return bundles, loops


def count(pattern: re.Pattern[str], bundles: list[str]) -> int:
    """Instructions that match."""
    return sum(len(pattern.findall(bundle)) for bundle in bundles)


def cut(operands: list[_core.TpcOperand]) -> list[_core.TpcOperand]:
    """Those of which a member touches its share alone."""
    return [operand for operand in operands if operand["access"] in {"elements", "rows"}]


def bytes_per_element(kernel: _core.TpcKernel) -> float:
    """What has to be read and written for each element; of shards, two."""
    scales = [operand for operand in kernel["inputs"] + kernel["outputs"] if operand["access"] == "scales"]
    once = cut(kernel["inputs"]) + cut(kernel["outputs"])
    per_block = sum(BYTES[operand["dtype"]] for operand in scales) / _core.TPC_BLOCK_ELEMENTS
    return sum(BYTES[operand["dtype"]] * (SHARDS if operand["access"] == "rows" else 1) for operand in once) + per_block


def vectors(kernel: _core.TpcKernel, bundles: list[str]) -> float:
    """With how many times 64 elements these bundles deal: by their stores, where they have none by their loads."""
    for pattern, operands in ((STORE, cut(kernel["outputs"])), (LOAD, cut(kernel["inputs"]))):
        if operands and (n := count(pattern, bundles)):
            return n / sum(BYTES[operand["dtype"]] / BYTES["f32"] for operand in operands)
    msg = f"{kernel['name']}: a loop that neither loads nor stores elements"
    raise ValueError(msg)


def bundles_per_vector(kernel: _core.TpcKernel, listing: str) -> float:
    """Bundles of the outermost loop for each 64 elements.

    Around a loop inside it stands what is done once a member, or once for the elements that are stored there and not
    inside. Of several such loops the one that deals with most at a time is the body; the others take up a remainder
    that a member does not have. A second outermost loop is for the last member, which reaches past the end and costs
    more.
    """
    bundles, loops = parse(listing)
    costs = []
    for outer in loops:
        if any(other.holds(outer) for other in loops):
            continue
        inside = [loop for loop in loops if outer.holds(loop)]
        within = range(outer.begin, outer.end)
        outside = [bundles[i] for i in within if not any(loop.begin <= i < loop.end for loop in inside)]
        if inside:
            body = max((bundles[loop.begin : loop.end] for loop in inside), key=lambda body: vectors(kernel, body))
            stored = count(STORE, outside) and not count(STORE, body)
            per = vectors(kernel, outside) if stored else MEMBER_VECTORS
            costs.append(len(outside) / per + len(body) / vectors(kernel, body))
        else:
            costs.append(len(outside) / vectors(kernel, outside))
    return min(costs)


def compile_kernel(compiler: str, kernel: _core.TpcKernel) -> str:
    """The listing that the compiler makes.

    Raises:
        SystemExit: it refuses the kernel.
    """
    macros = [f"-D{macro}" for macro in [*kernel["defines"], f"GAUDI3_RT_ARCH={ARCHITECTURE[-1]}"]]
    options = ["-Wall", "-Werror", "-O2", "-target", "tpc", f"-march={ARCHITECTURE}", f"-I{FOLDER}", *macros]
    run = subprocess.run(
        [compiler, *options, str(FOLDER / kernel["source"]), "-S", "-o", "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"{compiler} refuses {kernel['name']}:\n{run.stderr}")
    return run.stdout


def row(kernel: _core.TpcKernel, listing: str) -> list[str]:
    """A kernel's cells; a kernel that finishes a reduction has no elements to be counted by."""
    if kernel["single_member"]:
        return [f"`{kernel['name']}`", *["-"] * (2 + len(MACHINES))]
    n_bytes, bundles = bytes_per_element(kernel), bundles_per_vector(kernel, listing)
    shares = [min(1.0, machine.bundles(n_bytes * LANES) / bundles) for machine in MACHINES]
    return [f"`{kernel['name']}`", f"{n_bytes:.3g}", f"{bundles:.1f}", *(f"{share:.0%}" for share in shares)]


def digest() -> str:
    """Of all that the listings follow from."""
    sources = sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def page(version: str, rows: list[list[str]]) -> str:
    """The text of the table's file."""
    header = ["kernel", "bytes/element", "bundles/vector", *(f"{machine.name}, estimated" for machine in MACHINES)]
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    machines = "; ".join(
        f"{m.name} {m.tpcs} TPCs, {m.hertz / 1e9:g} GHz, {m.bytes_per_second / 1e12:g} TB/s" for m in MACHINES
    )
    return f"""# What a TPC compiler makes of the kernels

Written by `make tpc-asm`. Every kernel was compiled for {ARCHITECTURE} by {version}; a test compares the
sources with those that were compiled: sha256 {digest()}.

- bytes/element: read and written in memory; by `reduce_shards`, of {SHARDS} shards.
- bundles/vector: instruction bundles of the loop for each 64 elements, counted in the listing, with what is done once a
  member in equal parts.
- estimated: the share of the memory's bandwidth that the kernel could use if a TPC started one bundle a clock and never
  waited, by published figures ({machines}). 100% means: as
  fast as the memory. Nothing of this was measured, and no Gaudi was at hand.

{chr(10).join(lines)}
"""


def main() -> None:
    """Compiles, prints the page, and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compiler", help="tpc-clang")
    parser.add_argument("--output", type=Path, default=TABLE, help="file for the table")
    args = parser.parse_args()
    version = subprocess.run([args.compiler, "--version"], capture_output=True, text=True, check=True).stdout
    kernels = _core.tpc_kernels()
    with ThreadPoolExecutor() as pool:
        listings = pool.map(functools.partial(compile_kernel, args.compiler), kernels)
        rows = [row(kernel, listing) for kernel, listing in zip(kernels, listings, strict=True)]
    text = page(version.splitlines()[0], rows)
    sys.stdout.write(text)
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
