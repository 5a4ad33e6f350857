"""An "hpu" device that is not there: host memory, Habana's bridge and the graph compiler played, kernels emulated.

The operators are the real ones (csrc/hpu/ops.cpp), and so are the kernel library and the kernels. What is played is
what lies between them: hpu_stand_in/ has the device and the bridge, ``execute`` here is the graph compiler.
"""

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.utils.cpp_extension
from _cmake import configure
from _graph_compiler import DATA_TYPES, FAILED, SUCCESS, Call, infer, open_library, patterns_of
from _problems import ROOT, run_tool
from _tpc_kernels import DTYPES, compiled

STAND_IN = ROOT / "tests" / "hpu_stand_in"
FLAGS = ["-std=c++20", "-O0", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
NAMES = {torch_dtype: name for name, torch_dtype in DTYPES.items()}


def build(folder):
    """Builds the operators as CMake does where the bridge is installed; returns their library."""
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
    run = run_tool("cmake", "--build", folder / "build", "--target", "gaudi3_rt_hpu")
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


def register_device():
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
