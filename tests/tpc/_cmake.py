"""Configures the project as an installation does, and builds single targets of it."""

import sys
from pathlib import Path

import cmake
import pybind11
from _problems import ROOT, run_tool

CMAKE = Path(cmake.CMAKE_BIN_DIR, "cmake")


def configure(folder, *options, **environment):
    """Runs CMake with these variables in its environment."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    where = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    return run_tool("env", *variables, CMAKE, "-S", ROOT, "-B", folder, *where, *options)


def build(folder, target):
    """Builds a target of a configured folder."""
    return run_tool(CMAKE, "--build", folder, "--target", target)
