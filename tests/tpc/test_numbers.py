"""The table says how many numbers a tensor of scalars, keys or factors holds: what kernels read and Python passes."""

import contextlib

import pytest
import torch
from _operands import members, tensors
from _tpc_kernels import KERNELS, compiled

from gaudi3_rt import _core, tpc
from gaudi3_rt.optim import _hpu

N = 70
NUMBERS = [
    (name, i, operand["name"])
    for name, kernel in KERNELS.items()
    for i, operand in enumerate(kernel["inputs"])
    if operand["size"] > 0
]
# These take the scalars of their step, whose last number others read, or load a vector, which may end beyond a tensor.
READ_LESS = {
    *[(name, "scalars") for name in KERNELS if name.startswith(("lamb_ratio", "lamb_second", "lamb_l2_second"))],
    ("lars_ratio_f32", "scalars"),
    ("found_inf_f32", "found_inf"),
}


def steps_of_optimizers():
    """Name and CPU kernel of those that step parameters."""
    return [(name, kernel["cpu"]) for name, kernel in KERNELS.items() if kernel["cpu"] in _core.kernels()]


@pytest.mark.parametrize(("name", "index", "operand"), NUMBERS, ids=[f"{name}-{which}" for name, _, which in NUMBERS])
def test_kernels_read_as_many_as_the_table_says(name, index, operand):
    """With one number less they read beyond the end; with those of the table they do not."""
    kernel = KERNELS[name]
    for missing in (0, 1):
        inputs, outputs = tensors(kernel, N)
        size = kernel["inputs"][index]["size"] - missing
        inputs[index] = inputs[index][:size].clone()
        fails = missing and (name, operand) not in READ_LESS
        message = rf"\(tensor {index}\) at \({size}\), which is outside"
        with pytest.raises(tpc.KernelError, match=message) if fails else contextlib.nullcontext():
            compiled(name).run(inputs, outputs, index_space=(members(kernel, N),))


@pytest.mark.parametrize(("name", "cpu"), steps_of_optimizers(), ids=lambda value: value)
def test_python_passes_as_many_as_the_table_says(name, cpu):
    """The constants of the CPU's kernel, and the factor of the gradients."""
    hyper = [0.5] * len(_core.describe_kernel(cpu)["hyper"])
    sizes = {operand["name"]: operand["size"] for operand in KERNELS[name]["inputs"]}
    assert _hpu.Scalars()(cpu, hyper, 2.0, torch.device("cpu")).shape == (sizes["scalars"],)
