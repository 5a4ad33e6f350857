"""The registry's names against the files and tables that repeat them: all that is listed exists, and the reverse."""

import re

import pytest
import torch
from _problems import HYPER, ROOT

import gaudi3_rt
from gaudi3_rt import _core
from gaudi3_rt.optim import _elsewhere
from gaudi3_rt.reduce._transfers import COMPOSITES

CSRC = ROOT / "csrc"


def stems(folder):
    """Names of the headers in a folder."""
    return {path.stem for path in (CSRC / folder).glob("*.h")}


def header_of(kernel):
    """The header that a kernel's stem, or the stem that it is a variant of (`adamw_amsgrad`), belongs to."""
    return next((stem for stem in stems("kernels") if kernel == stem or kernel.startswith(f"{stem}_")), None)


def test_every_kernel_has_a_header(kernel):
    """A kernel is written in the header of its stem."""
    assert header_of(kernel), f"kernel '{kernel}' has no header csrc/kernels/{kernel}.h"


def test_every_kernel_header_is_listed():
    """A header under csrc/kernels is in the registry."""
    unlisted = stems("kernels") - {header_of(kernel) for kernel in _core.kernels()}
    assert not unlisted, f"csrc/kernels/ has headers whose kernels are missing in csrc/registry.h: {sorted(unlisted)}"


def test_every_kernel_has_a_composite(kernel):
    """A kernel has the same update in torch operations, for tensors that it does not reach."""
    assert kernel in _elsewhere.COMPOSITES, f"kernel '{kernel}' has no composite in optim._elsewhere.COMPOSITES"


def test_every_composite_has_a_kernel():
    """A composite stands for a kernel that exists."""
    extra = _elsewhere.COMPOSITES.keys() - set(_core.kernels())
    assert not extra, f"COMPOSITES has updates for kernels that csrc/registry.h does not list: {sorted(extra)}"


def test_every_composite_is_the_definition(kernel):
    """In float64 the composite of a kernel is its reference, to within a few roundings."""
    hyper = [HYPER[name][0] for name in _core.describe_kernel(kernel)["hyper"]]
    generator = torch.Generator().manual_seed(0)
    n_states = len(_core.describe_kernel(kernel)["state"])
    rows = [torch.rand(50, dtype=torch.float64, generator=generator) for _ in range(2 + n_states)]
    arrays = [row.numpy().copy() for row in rows]
    _core.reference(kernel, hyper, 3.0, arrays)
    _elsewhere.COMPOSITES[kernel](hyper, 3.0, rows[0], rows[1], rows[2:], lambda sums: sums)
    for row, array in zip(rows, arrays, strict=True):
        torch.testing.assert_close(row, torch.from_numpy(array), rtol=1e-14, atol=1e-15)


def test_every_hyper_parameter_has_a_value_to_test_with(kernel):
    """The parity tests know a sensible value for each of a kernel's hyper-parameters."""
    unknown = [name for name in _core.describe_kernel(kernel)["hyper"] if name not in HYPER]
    assert not unknown, f"kernel '{kernel}' has hyper-parameters without a value in tests/_problems.py HYPER: {unknown}"


@pytest.mark.parametrize("folder", ["reductions", "maps", "transfers", "wires"])
def test_what_is_listed_has_one_header_each(folder):
    """A reduction, map, transfer or wire is written in the header of its name, and every such header is listed."""
    listed = getattr(_core, folder)
    differ = set(listed()) ^ stems(folder)
    assert not differ, f"csrc/registry.h and csrc/{folder}/ differ in {sorted(differ)}"


def test_every_transfer_has_a_composite():
    """A transfer has the same in torch operations, for tensors that it does not reach."""
    assert COMPOSITES.keys() == set(_core.transfers())


def test_every_codec_header_is_used():
    """The registry includes all headers of csrc/codecs, and names a type of each."""
    registry = (ROOT / "csrc/registry.h").read_text(encoding="utf-8")
    for stem in stems("codecs"):
        assert f'"codecs/{stem}.h"' in registry, f"csrc/registry.h does not include csrc/codecs/{stem}.h"
        types = re.findall(r"^struct (\w+)", (ROOT / f"csrc/codecs/{stem}.h").read_text(encoding="utf-8"), re.MULTILINE)
        used = [name for name in types if re.search(rf"X\(\w+, .*\b{name}\b", registry)]
        assert used, f"csrc/registry.h lists no type of csrc/codecs/{stem}.h"


def test_build_info_lists_the_registry():
    """`gaudi3_rt.build_info()` tells what is in the registry, in its order."""
    info = gaudi3_rt.build_info()
    assert (list(info.kernels), list(info.reductions)) == (_core.kernels(), _core.reductions())
    assert (list(info.transfers), list(info.wires)) == (_core.transfers(), _core.wires())
    assert (list(info.codecs), list(info.isas)) == (_core.codecs(), _core.isas())
    assert info.compiler == _core.COMPILER
