"""What the tests of emulated kernels share: kernels written where they are tested."""

import functools
import hashlib

import pytest

from gaudi3_rt import tpc


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    """Compiles a kernel from its text."""
    folder = tmp_path_factory.mktemp("kernels")

    @functools.cache
    def compile_text(text, arch="gaudi3", **defines):
        source = folder / f"kernel_{hashlib.sha256(text.encode()).hexdigest()[:8]}.c"
        source.write_text(text)
        return tpc.compile(source, arch=arch, defines=defines)

    return compile_text
