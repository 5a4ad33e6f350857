"""Imports point one way: services know what is below them, and not one another."""

import ast
from pathlib import Path

import pytest
from _problems import ROOT

PACKAGE = ROOT / "python" / "gaudi3_rt"
SERVICES = (
    "audit", "config", "device", "health", "log", "memory", "metrics", "monitor", "retry", "testing", "validation",
)  # fmt: skip
ABOVE = {"cli", "doctor", "endpoints", "report"}
BELOW = {"errors", "events"}
KNOWS = {"config": {"health"}}
"""The configuration of a run holds the settings of its checks, as it holds those of its optimizer."""


def imported(file: Path) -> set[str]:
    """Which parts of the package a module imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "gaudi3_rt":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gaudi3_rt."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gaudi3_rt.")}
    return names


def files(part: str) -> list[Path]:
    """The modules of a part of the package."""
    found = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    assert all(file.exists() for file in found)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_services_do_not_know_one_another(service):
    """Errors, events, private modules, and optimizers where a service is about them."""
    above = {*SERVICES, *ABOVE} - {service} - KNOWS.get(service, set())
    for file in files(service):
        assert not imported(file) & above, file


@pytest.mark.parametrize("part", sorted(BELOW))
def test_what_is_below_knows_no_service(part):
    """Neither errors nor events import what emits or raises them."""
    for file in files(part):
        assert not imported(file) & {*SERVICES, *ABOVE}, file


def test_one_module_reads_the_environment():
    """What decides on behaviour is found in one place; the bridge's variable is taken back where the bridge is."""
    allowed = {"_config.py": 99, "device/_hpu.py": 1}
    for file in sorted(PACKAGE.rglob("*.py")):
        words = [
            node
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
        ]
        assert len(words) <= allowed.get(str(file.relative_to(PACKAGE)), 0), file


def test_no_service_is_missing():
    """A new package has to be listed here, or to stand above the services."""
    others = {"compat", "grads", "numerics", "optim", "reduce", "tpc", *ABOVE, *BELOW}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - others <= set(SERVICES)
