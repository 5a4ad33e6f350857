"""Importing the package: no side effects, nothing that its user did not ask for."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys, threading
import torch
before = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task")), set(sys.modules)
import gaudi3_rt
after = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task"))
print(json.dumps({
    "same": [x == y for x, y in zip(before, after)],
    "new": sorted({name.split(".")[0] for name in set(sys.modules) - before[3]}),
    "version": gaudi3_rt.__version__,
}))
"""


@pytest.fixture(scope="module")
def probe():
    """What a fresh interpreter says."""
    result = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def test_import_changes_nothing(probe):
    """Environment variables, Python threads and operating-system threads are as before."""
    assert probe["same"] == [True, True, True]


def test_import_brings_no_optional_or_vendor_package(probe):
    """Only the package itself and what torch had not imported of the standard library."""
    foreign = set(probe["new"]) - sys.stdlib_module_names - {"torch", "numpy", "__mp_main__"}
    assert foreign == {"gaudi3_rt"}


def test_version_is_that_of_the_distribution(probe):
    """One place says the version: pyproject.toml."""
    assert probe["version"].count(".") == 2


def test_services_are_imported_when_used():
    """Every public name can be had from the package, and a wrong one is an AttributeError."""
    code = "import gaudi3_rt; [getattr(gaudi3_rt, name) for name in gaudi3_rt.__all__]; print(hasattr(gaudi3_rt, 'x'))"
    result = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_torch_is_imported_before_the_kernels():
    """Also by someone who imports the extension alone: its OpenMP runtime must be the one torch brings."""
    code = "import gaudi3_rt._core, sys; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 (our own code)
