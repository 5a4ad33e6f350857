"""The axes of the tests: a test that takes `kernel`, `isa`, `reduction` or `dtype` runs for every one.

All come from the registry, so what is listed there is tested. Module scope is what hypothesis asks of fixtures that
stay the same from example to example, and keeps the tests of a file together.
"""

import os
import signal

import _fuzz
import _problems
import hypothesis.configuration
import pytest
import torch

from gaudi3_rt import _core

_fuzz.register_profiles()

# What takes longest, so that no process of a run is left alone with it at the end; first what mostly waits.
FIRST = [
    "test_reducer_failures.py",
    "test_patterns.py",
    "test_mutants.py",
    "test_memory.py",
    "test_examples.py",
    "test_bench.py",
    "test_parity.py",
    "test_build.py",
    "test_reducer_ranks.py",
    "test_plan.py",
    "test_isa.py",
    "test_compile_kernels.py",
    "test_reduce_mutants.py",
    "test_kernels_mutants.py",
    "test_hpu_grads.py",
    "test_compile.py",
]


def pytest_xdist_auto_num_workers():
    """One more than there are cores, for tests that wait for timeouts of processes that died."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files of ``FIRST`` come first; within files nothing changes."""
    order = {name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_home(tmp_path_factory):
    """Keeps hypothesis's cache out of the source tree."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="session")
def run_home(tmp_path_factory):
    """A folder that the processes of a run share."""
    home = tmp_path_factory.getbasetemp()
    return home.parent if "PYTEST_XDIST_WORKER" in os.environ else home


@pytest.fixture(scope="session", autouse=True)
def _cache_home(run_home):
    """Keeps what is compiled for the emulator out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run_home / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _interrupts():
    """Has programs that tests start end on SIGINT, which a shell makes its background jobs ignore, and they inherit."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", params=_core.kernels())
def kernel(request):
    """Name of a kernel."""
    return request.param


@pytest.fixture(scope="module", params=[k for k in _core.kernels() if not _core.describe_kernel(k)["two_passes"]])
def elementwise_kernel(request):
    """Name of a kernel that steps each element by itself, without norms of the tensor."""
    return request.param


@pytest.fixture(scope="module", params=_core.isas())
def isa(request):
    """Name of a build that can run here."""
    return request.param


@pytest.fixture(scope="module", params=_core.reductions())
def reduction(request):
    """Name of a reduction."""
    return request.param


@pytest.fixture(scope="module", params=_core.transfers())
def transfer(request):
    """Name of a function from one tensor to another."""
    return request.param


@pytest.fixture(scope="module", params=_core.wires())
def wire(request):
    """Name of a form in which gradients are sent."""
    return request.param


@pytest.fixture(scope="module", params=_problems.DTYPES, ids=str)
def dtype(request):
    """A dtype that operands may be stored in."""
    return request.param


@pytest.fixture(autouse=True)
def _torch_settings():
    """Gives torch back its number of threads and its treatment of denormals, whatever the test did to them."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    torch.set_flush_denormal(False)
