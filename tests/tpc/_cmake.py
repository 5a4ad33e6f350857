"""Configures the project as an installation does, to build single targets of it."""

import shutil
import sys

import pybind11
import pytest
from _problems import ROOT, run_tool


def configure(folder, *options, **environment):
    """Runs CMake with these variables in its environment; skips the test where CMake is missing."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    variables = [f"{name}={value}" for name, value in environment.items()]
    where = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    return run_tool("env", *variables, "cmake", "-S", ROOT, "-B", folder, *where, *options)
