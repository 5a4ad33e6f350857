"""TPC kernels on any CPU: compiles an unmodified TPC-C file and executes it over its index space, emulated.

>>> from gaudi3_rt import tpc
>>> kernel = tpc.compile("kernel.c", arch="gaudi3")
>>> report = kernel.run(inputs=[x], outputs=[y], index_space=(n,), access=[...])

What is emulated exactly, what is perturbed and what is refused is said in ``docs/tpc.md``.
"""

from gaudi3_rt.tpc._access import WHOLE, Access
from gaudi3_rt.tpc._compile import CompileError
from gaudi3_rt.tpc._kernel import Kernel, compile  # noqa: A004 (as in re.compile)
from gaudi3_rt.tpc._kernel_library import has_compiled_kernels, kernel_library
from gaudi3_rt.tpc._report import KernelError, Parameter, Report

__all__ = [
    "WHOLE",
    "Access",
    "CompileError",
    "Kernel",
    "KernelError",
    "Parameter",
    "Report",
    "compile",
    "has_compiled_kernels",
    "kernel_library",
]
