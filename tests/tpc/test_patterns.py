"""Every kernel, run by the emulator with the index space and the patterns that the kernel library gives."""

import pytest
import torch
from _graph_compiler import FAILED, GAUDI3, SUCCESS, Call, open_library, patterns_of
from _operands import shapes, tensors
from _tpc_kernels import KERNELS, MEMBER, compiled

SIZES = [1, MEMBER - 1, 3 * MEMBER + 65]


@pytest.fixture(scope="module")
def library():
    """The installed kernel library."""
    return open_library()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n", SIZES)
def test_kernels_keep_to_their_patterns(library, name, n):
    """No member touches what its pattern does not give it, and every output is written whole, as its pattern says.

    The checking run compares every access; two runs on different garbage show what was not written.
    """
    kernel = KERNELS[name]
    call = Call(f"g3rt_{name}", *shapes(kernel, n), device=GAUDI3)
    assert call.run(library) in {SUCCESS, FAILED}
    index_space, access = patterns_of(call)
    results = []
    for garbage in (0, 0x55):
        inputs, outputs = tensors(kernel, n)
        for output in outputs:
            output.view(torch.uint8).fill_(garbage)
        report = compiled(name).run(inputs, outputs, index_space=index_space, access=access, seed=n)
        assert report.checked
        results.append([output.view(torch.uint8) for output in outputs])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
