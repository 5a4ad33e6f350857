"""An "hpu" device that is not there: host memory, Habana's bridge and the graph compiler played, kernels emulated.

The operators are the real ones (csrc/hpu/ops.cpp), and so are the kernel library and the kernels. What is played is
what lies between them: hpu_stand_in/ has the device and the bridge, ``execute`` here is the graph compiler.
"""

import contextlib
import fcntl
import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from _cmake import build, configure
from _graph_compiler import DATA_TYPES, FAILED, SUCCESS, Call, infer, open_library, patterns_of
from _problems import ROOT, run_tool
from _tpc_kernels import DTYPES, compiled
from torch.utils._python_dispatch import TorchDispatchMode

import gaudi3_rt.hpu
from gaudi3_rt import _core, tpc
from gaudi3_rt.optim import _hpu as ours

STAND_IN = ROOT / "tests" / "hpu_stand_in"
FLAGS = ["-std=c++20", "-O0", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
NAMES = {torch_dtype: name for name, torch_dtype in DTYPES.items()}


def build_once(home):
    """The library of the operators, which all processes of a run share: the first one builds it."""
    with (home / "hpu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        library = home / "hpu.path"
        if not library.exists():
            folder = home / "hpu"
            folder.mkdir()
            library.write_text(str(_build(folder)), encoding="utf-8")
    return library.read_text(encoding="utf-8")


def _build(folder):
    """Builds the operators as CMake does where the bridge is installed."""
    import torch.utils.cpp_extension  # noqa: PLC0415 (slow, and for the process that builds alone)

    includes = [f"-isystem{path}" for path in torch.utils.cpp_extension.include_paths()]
    macro = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    links = [*(f"-L{path}" for path in torch.utils.cpp_extension.library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    plugin = [*FLAGS, macro, *includes, STAND_IN / "device.cpp", "-o", folder / "libhabana_pytorch2_plugin.so", *links]
    package = folder / "habana_frameworks" / "torch" / "utils"
    package.mkdir(parents=True)
    (package / "lib_utils.py").write_text(
        f"def get_include_dir(): return {str(STAND_IN)!r}\ndef get_lib_dir(): return {str(folder)!r}\n",
        encoding="utf-8",
    )
    with ThreadPoolExecutor(2) as pool:
        plugin_built = pool.submit(run_tool, "g++", *plugin)
        configured = configure(folder / "build", "-DGAUDI3_RT_HPU=ON", "-DGAUDI3_RT_WERROR=ON", PYTHONPATH=folder)
        run = plugin_built.result()
    assert run.returncode == 0, run.stderr
    assert configured.returncode == 0, configured.stderr
    run = build(folder / "build", "gaudi3_rt_hpu")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "build" / "csrc" / "hpu" / "libgaudi3_rt_hpu.so"


@dataclass
class GraphCompiler:
    """Runs each operator's kernel in the emulator, by what the kernel library answers; remembers the calls.

    Attributes:
        calls: name of the kernel and its inputs, on the CPU.
        fails: raise an error instead of running kernels of this name.
    """

    calls: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    fails: str = ""

    def execute(self, guid, inputs):
        """The outputs."""
        name = guid.removeprefix("g3rt_")
        inputs = [tensor.cpu() for tensor in inputs]
        self.calls.append((name, inputs))
        if name == self.fails:
            msg = "the device is gone"
            raise RuntimeError(msg)
        library = open_library()
        given = [(tuple(tensor.shape), NAMES[tensor.dtype]) for tensor in inputs]
        status, geometries = infer(library, guid, given)
        assert status == SUCCESS
        words = {bit: name for name, bit in DATA_TYPES.items()}
        made = [((geometry.max_sizes[0],), words[geometry.data_type]) for geometry in geometries]
        call = Call(guid, given, made)
        assert call.run(library) in {SUCCESS, FAILED}
        index_space, access = patterns_of(call)
        outputs = [torch.empty(shape, dtype=DTYPES[dtype]) for shape, dtype in made]
        compiled(name).run(inputs, outputs, index_space=index_space, access=access)
        return [output.to("hpu") for output in outputs]


@contextlib.contextmanager
def loaded(library):
    """Loads the operators as a user loads them; gives the graph compiler that plays the device."""
    _register_device()
    played = GraphCompiler()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("habana_frameworks", "habana_frameworks.torch", "habana_frameworks.torch.core"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setattr(_core, "TPC_COMPILER", "stand-in")
        patch.setenv("GC_KERNEL_PATH", f"{tpc.kernel_library()}:/usr/lib/habanalabs/libtpc_kernels.so")
        patch.setattr(ours, "_loaded", False)
        environment = dict(os.environ)
        gaudi3_rt.hpu.load(library)
        assert dict(os.environ) == environment
        assert gaudi3_rt.hpu.is_loaded()
        operators = torch.library.Library("gaudi3_rt_stand_in", "IMPL")
        operators.impl("execute", played.execute, "HPU")
        yield played
        operators._destroy()


def _register_device():
    """Tells torch of the device; an import of torch.hpu is what it does first."""
    module = types.ModuleType("torch.hpu")
    module._lazy_init = lambda: None
    module._is_in_bad_fork = lambda: False
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    sys.modules["torch.hpu"] = module
    if not hasattr(torch, "hpu"):
        torch._register_device_module("hpu", module)


class Waits(TorchDispatchMode):
    """Counts how often the host asks for what is on the device, which makes it wait until all is done.

    Attributes:
        count: so far.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, _, args=(), kwargs=None):
        """Notes operations that read on the host what is on the device."""
        kwargs = kwargs or {}
        aten = torch.ops.aten
        devices = [arg.device.type for arg in args if isinstance(arg, torch.Tensor)]
        if function is aten._local_scalar_dense.default or function is aten.equal.default:
            self.count += "hpu" in devices
        elif function is aten._to_copy.default:
            self.count += devices == ["hpu"] and torch.device(kwargs.get("device") or "hpu").type == "cpu"
        elif function is aten.copy_.default:
            self.count += devices == ["cpu", "hpu"]
        return function(*args, **kwargs)


SHAPES = [(4, 6), (700,), ()]


def parameters(device, shapes=SHAPES, dtype=torch.float32):
    """Equal parameters at each call, with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(device, dtype)
    return params


def assert_close(on_hpu, on_cpu, rtol=5e-7, atol=1e-9):
    """Equal, by default up to the last place or two: roots and quotients of the two differ by at most one."""
    assert on_hpu.device.type == "hpu"
    torch.testing.assert_close(on_hpu.detach().cpu(), on_cpu.detach(), rtol=rtol, atol=atol)
