"""The table of bundles counts what a listing says, and belongs to the sources as they are."""

import importlib.util
import stat
import sys

import pytest
from _problems import run_tool
from _tpc_kernels import FOLDER, KERNELS, MEMBER

# Two vectors of adamw_f32 an iteration: eight loads, six stores.
FLAT = """
main:
	NOP
	loop %S4, %S5, 512, <, .LBB0_3
.LBB0_2:                                // %for.body
{
	ld_tnsr  %V0, 0x1, %I7
	mul.f32   %V1, %V0, %V0
}
	ld_tnsr  %V0, 0x1, %I7
	ld_tnsr  %V0, 0x1, %I7  // once more
	ld_tnsr  %V0, 0x1, %I7
{
	ld_tnsr  %V0, 0x1, %I7
	st_tnsr  0x5, %I7, %V1
}
	ld_tnsr  %V0, 0x1, %I7
	ld_tnsr  %V0, 0x1, %I7
	ld_tnsr  %V0, 0x1, %I7
	st_tnsr  0x5, %I7, %V1
	st_tnsr  0x5, %I7, %V1
	st_tnsr  0x5, %I7, %V1
	st_tnsr  0x5, %I7, %V1
	st_tnsr  0x5, %I7, %V1
.LBB0_3:
	halt
	.ascii	"loop %S1, %S2, 1, <, .LBB0_2"
"""
# A member of sum_squares_f32: a loop of two vectors, the loop of a remainder, and four bundles around them.
NESTED = """
main:
.LBB0_1:
	NOP
	loop %S4, %S5, 512, <, .LBB0_3
	ld_tnsr  %V0, 0x1, %I7
	ld_tnsr  %V0, 0x1, %I7
	mac.f32  %V1, %V0, %V0
.LBB0_3:
	loop %S4, %S5, 512, <, .LBB0_4
	ld_tnsr  %V0, 0x1, %I7
.LBB0_4:
	st_tnsr partial 0x3,  %I4, %V9, %ST_PARTIAL_REG
	jmpr .LBB0_1, %SP1
.LBB0_5:
	loop %S4, %S5, 512, <, .LBB0_6
	ld_tnsr  %V0, 0x1, %I7
	NOP
	NOP
.LBB0_6:
	halt
"""
# Two vectors of reduce_shards_f32: of two shards, and of many, where a loop over more of them has the stores around it.
SHARDS = """
main:
{two}
.LBB0_1:
	ld_tnsr  %V0, 0x0, %I7
	ld_tnsr  %V1, 0x0, %I8
	loop %S4, %S5, 512, <, .LBB0_2
	ld_tnsr  %V2, 0x0, %I7
	ld_tnsr  %V3, 0x0, %I8
	add.f32  %V0, %V0, %V2
	add.f32  %V1, %V1, %V3
.LBB0_2:
	st_tnsr  0x2, %I7, %V0
	st_tnsr  0x2, %I8, %V1
	jmpr .LBB0_1, %SP1
	halt
"""
TWO_SHARDS = """
	loop %S4, %S5, 512, <, .LBB0_3
	ld_tnsr  %V0, 0x0, %I7
	ld_tnsr  %V1, 0x0, %I8
	ld_tnsr  %V2, 0x0, %I9
{
	ld_tnsr  %V3, 0x0, %I10
	add.f32  %V0, %V0, %V2
}
	add.f32  %V1, %V1, %V3
	st_tnsr  0x2, %I7, %V0
	st_tnsr  0x2, %I8, %V1
.LBB0_3:
"""
COMPILER = """#!{python}
import sys
if "--version" in sys.argv:
    print("stand-in 1.0")
elif "{refused}" in sys.argv:
    sys.exit("error: stand-in refuses")
else:
    assert {{"-march=gaudi2", "-S", "-Werror"}} <= set(sys.argv)
    print({listing!r})
"""


@pytest.fixture(scope="module")
def assembly():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("assembly", FOLDER / "assembly.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["assembly"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["assembly"]


def stand_in(folder, refused="nothing"):
    """A compiler that makes the same of every kernel."""
    path = folder / "tpc-clang"
    path.write_text(COMPILER.format(python=sys.executable, refused=refused, listing=FLAT), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_bundles_of_a_loop(assembly):
    """What stands between braces is one, comments and texts are none, what is outside the loop is not counted."""
    bundles, loops = assembly.parse(FLAT)
    assert len(bundles) == 16
    assert [(loop.begin, loop.end) for loop in loops] == [(2, 15)]
    assert assembly.bundles_per_vector(KERNELS["adamw_f32"], FLAT) == 13 / 2


def test_bundles_of_members(assembly):
    """The body and a share of what is around it; the loops of a remainder and of the last member do not count."""
    assert assembly.bundles_per_vector(KERNELS["sum_squares_f32"], NESTED) == 3 / 2 + 5 / (MEMBER / 64)


def test_bundles_of_shards(assembly):
    """What stands around the loop over shards is there for the elements that are stored, not for a whole member.

    Of two loops the one for two shards counts.
    """
    kernel = KERNELS["reduce_shards_f32"]
    assert assembly.bundles_per_vector(kernel, SHARDS.format(two="")) == (6 + 4) / 2
    assert assembly.bundles_per_vector(kernel, SHARDS.format(two=TWO_SHARDS)) == 7 / 2


def test_bytes_per_element(assembly):
    """Scalars are not counted, scales in parts, of shards two."""
    names = ("adamw_f32", "adamw_bf16", "sum_squares_bf16", "reduce_shards_f32", "quantise_int8_block")
    assert [assembly.bytes_per_element(KERNELS[name]) for name in names] == [28, 28, 2, 12, 5 + 8 / 256]


def test_estimated_share(assembly):
    """By hand: 28 bytes of 64 elements are 1792, of which a TPC gets 3.67e12 / 64 / 1.75e9 = 32.77 a clock: 54.7."""
    assert assembly.MACHINES[1].bundles(28 * 64) == pytest.approx(54.7, rel=1e-3)
    assert assembly.MACHINES[0].bundles(28 * 64) == pytest.approx(31.5, rel=1e-3)
    assert assembly.row(KERNELS["adamw_f32"], FLAT) == ["`adamw_f32`", "28", "6.5", "100%", "100%"]
    slow = FLAT.replace("%for.body", "%for.body" + 90 * "\n\tNOP")
    assert assembly.row(KERNELS["adamw_f32"], slow)[2:] == ["51.5", "61%", "100%"]


def test_page(tmp_path):
    """Every kernel is compiled and has its line; what is printed is kept."""
    target = tmp_path / "table.md"
    run = run_tool(sys.executable, FOLDER / "assembly.py", stand_in(tmp_path), "--output", target)
    assert run.returncode == 0, run.stderr
    assert run.stdout == target.read_text(encoding="utf-8")
    assert "stand-in 1.0" in run.stdout
    assert [line.split("`")[1] for line in run.stdout.splitlines() if line.startswith("| `")] == list(KERNELS)


def test_refused_kernel(tmp_path):
    """The compiler's words arrive, and the table of before stays."""
    target = tmp_path / "table.md"
    target.write_text("before", encoding="utf-8")
    run = run_tool(sys.executable, FOLDER / "assembly.py", stand_in(tmp_path, "-DAMSGRAD"), "--output", target)
    assert run.returncode == 1
    assert "refuses adamw_amsgrad_f32" in run.stderr
    assert "stand-in refuses" in run.stderr
    assert target.read_text(encoding="utf-8") == "before"


def test_table_is_of_these_sources(assembly):
    """A kernel that has changed was not the one that was counted: `make tpc-asm` has to be run again."""
    text = assembly.TABLE.read_text(encoding="utf-8")
    assert f"sha256 {assembly.digest()}" in text
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == list(KERNELS)


def test_adamw_is_as_fast_as_the_memory(assembly):
    """The loop that matters most: estimated, and no more than 54 bundles for 64 elements."""
    line = next(line for line in assembly.TABLE.read_text(encoding="utf-8").splitlines() if "`adamw_f32`" in line)
    cells = [cell.strip() for cell in line.split("|")]
    assert float(cells[3]) <= 54
    assert cells[5] == "100%"
