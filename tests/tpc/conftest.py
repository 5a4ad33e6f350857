"""What the tests of emulated kernels share: kernels written where they are tested, and a device that runs ours."""

import functools
import hashlib
import re

import _hpu
import _precompiled
import pytest

from gaudi3_rt import tpc
from gaudi3_rt.optim import _elsewhere, _hpu_grads


@pytest.fixture(scope="session", autouse=True)
def _precompiled_headers(run_home):
    """Kernels compile in half the time."""
    with _precompiled.precompiled(run_home):
        yield


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    """Compiles a kernel from its text; macros that it is given are renamed to what the emulator's headers do not say.

    A compiler does not take the precompiled ones where a macro could change them.
    """
    folder = tmp_path_factory.mktemp("kernels")

    @functools.cache
    def compile_text(text, arch="gaudi3", **defines):
        for name in defines:
            text = re.sub(rf"\b{name}\b", f"TEST_{name}", text)
        source = folder / f"kernel_{hashlib.sha256(text.encode()).hexdigest()[:8]}.c"
        source.write_text(text)
        return tpc.compile(source, arch=arch, defines={f"TEST_{name}": value for name, value in defines.items()})

    return compile_text


@pytest.fixture(scope="module")
def graph_compiler(run_home):
    """An "hpu" device with the operators loaded."""
    with _hpu.loaded(_hpu.build_once(run_home)) as played:
        yield played


@pytest.fixture
def calls(graph_compiler):
    """What the operators were called with in this test, which may be told anew what was announced before."""
    graph_compiler.calls.clear()
    graph_compiler.fails = ""
    _elsewhere._announced.clear()
    _hpu_grads._announced.clear()
    return graph_compiler.calls
