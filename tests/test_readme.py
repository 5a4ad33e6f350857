"""What the documents show is true: their code runs, its output is what is pasted, and their commands exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from gaudi3_rt import build_info

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN_BY_PROGRAMS = {"audit_peers.md"}  # with what they printed, in an environment with other libraries
EXAMPLES = {
    path.name: examples
    for path in DOCUMENTS
    if path.name not in WRITTEN_BY_PROGRAMS and (examples := BLOCK.findall(path.read_text()))
}


@pytest.mark.parametrize("page", EXAMPLES)
def test_code_runs_and_prints_what_is_pasted(page, tmp_path, monkeypatch):
    """A page's blocks one after the other, in an empty folder.

    Words are equal; numbers agree to 2 %, since a matrix product of torch depends on the CPU.
    """
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for code, output in EXAMPLES[page]:
        printed = io.StringIO()
        torch.manual_seed(0)
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)  # noqa: S102 (our own documents)
        if not output:
            continue
        got, pasted = printed.getvalue().strip(), output.strip()
        assert NUMBER.sub("#", got) == NUMBER.sub("#", pasted)
        for x, y in zip(NUMBER.findall(got), NUMBER.findall(pasted), strict=True):
            assert float(x) == pytest.approx(float(y), rel=0.02)


def test_there_are_examples():
    """An empty list would let the test above pass."""
    assert {"README.md", "storage.md", "tpc.md"} <= EXAMPLES.keys()


def test_commands_exist():
    """Every `make` target that a document names is in the Makefile."""
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    named = {
        name for path in DOCUMENTS for name in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", path.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_files_exist():
    """Every path in backticks that looks like one of ours is there."""
    pattern = re.compile(r"`((?:csrc|python|tests|bench|examples|docs)/[\w./-]+)`")
    for path in DOCUMENTS:
        for name in pattern.findall(path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_status_table_lists_every_kernel():
    """A kernel cannot be added without saying what of it has been tested."""
    text = (ROOT / "README.md").read_text()
    for kernel in build_info().kernels:
        assert f"`{kernel}`" in text
