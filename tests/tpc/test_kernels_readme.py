"""The table of tpc_kernels/README.md says what the registry and the tests say."""

from _tpc_kernels import FOLDER, KERNELS

from gaudi3_rt import _core

# Outputs that are formed in another order or precision than the CPU's.
WITHIN_BOUNDS = {"sums", "param_sums", "update_sums", "grad_sums", "total", "norm", "coefficient", "ratio"}
HEADER = ["kernel", "reference", "cpu", "tpc emulated", "tpc compiled", "Gaudi hardware"]


def row(name, kernel):
    """A kernel's line."""
    outputs = {operand["name"] for operand in kernel["outputs"]}
    bounded = outputs & WITHIN_BOUNDS
    emulated = (
        "equal bits" if not bounded else "within bounds" if bounded == outputs else "equal bits; sums within bounds"
    )
    has_reference = kernel["cpu"] in {*_core.kernels(), *_core.reductions(), *_core.maps(), *_core.transfers()}
    reference = "csrc" if has_reference else "test"
    compiled = "for Gaudi 2" if f"| `{name}` |" in (FOLDER / "assembly.md").read_text(encoding="utf-8") else "no"
    return [f"`{name}`", reference, f"`{kernel['cpu']}`" if kernel["cpu"] else "none", emulated, compiled, "no"]


def table():
    """The lines of the whole table."""
    rows = [HEADER, ["---"] * len(HEADER), *(row(name, kernel) for name, kernel in KERNELS.items())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def test_status_table():
    """Each cell, for every kernel of the registry."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert text.endswith(table() + "\n"), f"the status table should be:\n{table()}"
