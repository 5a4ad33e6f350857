"""The builds for vector widths, which of them runs, and how a step behaves inside its process: threads, GIL, memory."""

import ctypes.util
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _problems
import pytest
import torch
from _problems import problem, run_python, run_tool, step

from gaudi3_rt import _core

# Vector registers that a build must use, and that it must not. Those of MMX are those of x87, which breaks for others.
REGISTERS = {"scalar": ([], ["mm", "ymm", "zmm"]), "avx2": (["ymm"], ["mm", "zmm"]), "avx512": (["zmm"], ["mm"])}


def object_of(isa):
    """The newest object file of a build, as `make` leaves it."""
    found = _problems.ROOT.glob(f"build/*/CMakeFiles/isa_{isa}.dir/**/*.o")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        pytest.fail(f"build/ has no object file of isa_{isa}: run this with `make test`, which builds the package here")
    return newest


def need(tool):
    """Fails where a tool is missing that comes with every compiler."""
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is not installed (Debian/Ubuntu: binutils)")


# The object files


def test_an_object_exports_one_symbol(isa):
    """An object gives the linker its table and nothing else.

    An inline function shared with another object would be kept once, perhaps as AVX-512, for all builds.
    """
    need("nm")
    symbols = run_tool("nm", "--defined-only", "--extern-only", "--format=posix", object_of(isa)).stdout.split("\n")
    assert [line.split()[0] for line in symbols if line] == [f"gaudi3_rt_table_{isa}"]


def test_an_object_uses_its_own_registers(isa):
    """The instructions are those of the build's name: no wider register than it says, and the widest is used."""
    need("objdump")
    code = run_tool("objdump", "--disassemble", "--no-show-raw-insn", object_of(isa)).stdout
    used, unused = REGISTERS[isa] if "%" in code else ([], [])
    assert re.search(r"<.*step_chunk.*>:", code), "the kernels have to be in this object"
    assert all(f"%{register}" in code for register in used)
    assert not any(f"%{register}" in code for register in unused)


def test_the_scalar_build_runs_everywhere():
    """The list of builds ends in the scalar one, and none is in it twice."""
    assert _core.isas()[-1] == "scalar"
    assert len(set(_core.isas())) == len(_core.isas())


def test_the_list_says_which_build_it_is(isa):
    """The name comes from the compiler's own macros in the object that runs."""
    assert _core.TensorList(isa, torch.Tensor).isa == isa


# The choice

FORCED = """
import gaudi3_rt, torch
p = torch.nn.Parameter(torch.ones(9))
p.grad = torch.ones(9)
optimizer = gaudi3_rt.optim.FusedAdamW([p])
optimizer.step()
print(gaudi3_rt.build_info().isa, optimizer._batch._list.isa)
"""
REFUSED = """
import gaudi3_rt, torch
for refused in (gaudi3_rt.build_info, lambda: gaudi3_rt.optim.FusedAdamW([torch.nn.Parameter(torch.ones(9))])):
    try:
        refused()
    except ValueError as error:
        print(error)
"""


# Runs each script in a fork of an interpreter that has imported torch, which takes long, and nothing of ours.
FORKS = """
import os, sys, torch, torch._dynamo
for script, environment in SCRIPTS:
    child = os.fork()
    if child == 0:
        assert "GAUDI3_RT_ISA" not in os.environ and not any(module.startswith("gaudi3_rt") for module in sys.modules)
        assert len(os.listdir("/proc/self/task")) == 1
        os.environ.update(environment)
        exec(script)
        print("---", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def run_forks(scripts):
    """What each of these (script, its environment) prints in a process of its own."""
    run = run_python(FORKS.replace("SCRIPTS", repr(scripts)))
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    printed = run.stdout.split("---\n")[:-1]
    assert len(printed) == len(scripts)
    return printed


@pytest.fixture(scope="module")
def forced():
    """What processes print with GAUDI3_RT_ISA set to each build's name, to none of them, and unset."""
    names = [*_core.isas(), "mmx"]
    scripts = [(REFUSED if name == "mmx" else FORCED, {"GAUDI3_RT_ISA": name}) for name in names]
    return dict(zip([*names, None], run_forks([*scripts, (FORCED, {})]), strict=True))


def test_the_variable_forces_a_build(forced, isa):
    """GAUDI3_RT_ISA=name makes the optimizer step with that build; the object that runs says so itself."""
    assert forced[isa].split() == [isa, isa]


def test_unset_the_fastest_build_runs(forced):
    """Without the variable the first of the possible builds runs."""
    assert forced[None].split() == [_core.isas()[0]] * 2


def test_an_impossible_build_is_an_error(forced):
    """A name that cannot run is refused with those that can, wherever it is first needed; nothing falls back."""
    lines = forced["mmx"].splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "GAUDI3_RT_ISA='mmx'" in line
        assert all(name in line for name in _core.isas())


SOFT_FMA = f"""
import ctypes, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
libm = ctypes.CDLL({ctypes.util.find_library("m")!r})
address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
import torch
from _problems import assert_same_bits, problem, step
from gaudi3_rt import _core
for flush in (False, True):
    for kernel in _core.kernels():
        for special in (0.0, 0.3):
            got = problem(kernel, [5000], special=special)
            for operand in got.operands:
                operand[0][::3] *= 1e-38
            want = got.clone()
            torch.set_flush_denormal(flush)
            step("scalar", got)
            step(_core.isas()[0], want)
            torch.set_flush_denormal(False)
            assert_same_bits(got, want, f"{{kernel}}, flush={{flush}}")
print(address(libm.fmaf) - address(libm.ldexpf))
"""


@pytest.mark.skipif(_core.isas()[0] == "scalar", reason="this CPU runs the scalar build only")
def test_equal_bits_without_fused_instructions():
    """On a CPU without FMA the scalar build gets fmaf from the C library's integers, with the same bits."""
    with ThreadPoolExecutor(2) as pool:
        hidden = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2"}
        usual, soft = pool.map(lambda environment: run_python(SOFT_FMA, **environment), [{}, hidden])
    assert usual.returncode == 0, usual.stderr
    assert soft.returncode == 0, soft.stderr
    if usual.stdout == soft.stdout:
        pytest.skip("the C library cannot be told to hide FMA")


# Threads

# Memory comes from numpy, so that torch wakes no thread to fill it.
THREADS = """
import json, os, numpy, torch
torch.set_num_threads(N_THREADS)
from gaudi3_rt.optim import FusedAdamW
count = lambda: len(os.listdir("/proc/self/task"))
new = lambda: torch.from_numpy(numpy.zeros(1 << 18, numpy.float32))
params = [torch.nn.Parameter(new()) for _ in range(4)]
optimizer = FusedAdamW(params, max_grad_norm=1.0)
for p in params:
    p.grad = new()
    optimizer.state[p] = {"step": torch.tensor(0.0), "exp_avg": new(), "exp_avg_sq": new()}
counts = [count()]
if TORCH_FIRST:
    for _ in range(3):
        torch.ones(1 << 22).mul_(2).sum()
    counts.append(count())
for _ in range(3):
    optimizer.step()
counts.append(count())
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in os.path.basename(line.split()[-1])}
print(json.dumps({"counts": counts, "libraries": sorted(libraries), "torch": os.path.dirname(torch.__file__)}))
"""


@pytest.fixture(scope="module")
def processes():
    """Processes that step: with two threads after torch has used its own, and with one and with two, alone."""
    cases = {"after torch": (2, True), "alone, 1": (1, False), "alone, 2": (2, False)}
    scripts = [THREADS.replace("N_THREADS", str(n)).replace("TORCH_FIRST", str(first)) for n, first in cases.values()]
    printed = run_forks([(script, {}) for script in scripts])
    return {case: json.loads(text) for case, text in zip(cases, printed, strict=True)}


def test_one_openmp_runtime(processes):
    """One OpenMP runtime is mapped after a step, the one that torch brought."""
    for seen in processes.values():
        (library,) = seen["libraries"]
        assert Path(library).is_relative_to(seen["torch"])


def test_no_second_pool(processes):
    """After torch has woken its threads, a step with as many adds none."""
    before, after_torch, after_step = processes["after torch"]["counts"]
    assert after_torch > before, "torch has to have used its threads"
    assert after_step == after_torch


def test_torch_governs_the_number_of_threads(processes):
    """With `torch.set_num_threads(1)` a step starts no thread; with 2, one."""
    before, after = processes["alone, 1"]["counts"]
    assert after == before
    before, after = processes["alone, 2"]["counts"]
    assert after == before + 1


def test_other_threads_run_during_a_step():
    """The GIL is released: a Python thread goes on while another one takes a long step, and not at its ends alone."""
    zeros = [torch.zeros(1 << 24, dtype=torch.float16) for _ in range(4)]
    long = _problems.Problem("adamw", [[x] for x in zeros], [torch.tensor(0.0)])
    began, ended = [], []

    def work():
        began.append(time.perf_counter())
        step("scalar", long)
        ended.append(time.perf_counter())

    worker = threading.Thread(target=work)
    ticks = []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    assert sum(began[0] < tick < ended[0] for tick in ticks) >= 10


def resident(what):
    """A number of bytes from the process's status: VmRSS now, or VmHWM at its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"{what}:\s*(\d+)", status)[1])


@pytest.fixture(scope="module")
def memory():
    """Memory that the process has already, for as many tensors of 16 Mi floats as a step may have."""
    n = max(len(_problems.operand_names(kernel)) for kernel in _core.kernels())
    return [torch.ones(1 << 24) for _ in range(n)]


def test_a_step_needs_no_memory_of_its_own(kernel, isa, memory):
    """Peak memory during a step of 16 Mi elements, of any dtypes, is less than 1 MiB above what the tensors take."""
    names = _problems.operand_names(kernel)
    step(isa, problem(kernel, [1000]), n_threads=2, max_norm=1.0)  # what is made once
    for dtype in _problems.DTYPES:
        tensors = [x.view(dtype)[: 1 << 24].fill_(1) for x, _ in zip(memory, names, strict=False)]
        this = _problems.Problem(kernel, [[x] for x in tensors], [torch.tensor(0.0)])
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
        except OSError as error:
            pytest.skip(f"the kernel does not let the peak be reset: {error}")
        before = resident("VmRSS")
        step(isa, this, n_threads=2, max_norm=1.0)
        assert resident("VmHWM") - before < 2**20
