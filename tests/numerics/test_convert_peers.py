"""The libraries themselves load what is converted, and go on as their models here say; those that are not here skip."""

import copy

import pytest
import torch
from _convert_layouts import moments, torch_state

from gaudi3_rt.numerics.convert import _torchao, convert_state

SHAPES = ((64, 128), (70,))
STEPS = 3


def trained(make, first_seed=0):
    """Parameters, and an optimizer that has made some updates of them."""
    params = [torch.nn.Parameter(p) for p in start()]
    optimizer = make(params)
    train(optimizer, params, range(first_seed, first_seed + STEPS))
    return params, optimizer


def start():
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(1)
    return [0.02 * torch.randn(shape, generator=generator) for shape in SHAPES]


def train(optimizer, params, seeds):
    """Updates with gradients that depend on the seed alone."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for param in params:
            param.grad = 1e-3 * torch.randn(param.shape, generator=generator)
        optimizer.step()


def cpu_adam(params, **options):
    """DeepSpeed's, compiled at first use."""
    deepspeed = pytest.importorskip("deepspeed.ops.adam")
    return deepspeed.DeepSpeedCPUAdam(params, lr=1e-3, weight_decay=0.01, **options)


def bitsandbytes(params, **options):
    """AdamW of bitsandbytes."""
    return pytest.importorskip("bitsandbytes").optim.AdamW(params, lr=1e-3, weight_decay=0.01, **options)


def torchao(params, **options):
    """AdamW of torchao with 8-bit state, which small parameters do not have."""
    return pytest.importorskip("torchao.optim").AdamW8bit(params, lr=1e-3, weight_decay=0.01, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layout", "make"),
    [("deepspeed", cpu_adam), ("bitsandbytes", bitsandbytes), ("torchao", torchao)],
)
def test_a_library_goes_on_from_torch_and_back(layout, make):
    """Three updates in torch, three in the library, three in torch: as nine in torch, to rounding."""
    whole, reference = trained(lambda params: torch.optim.AdamW(params, weight_decay=0.01))
    params = [torch.nn.Parameter(param.detach().clone()) for param in whole]
    theirs = make(params, **({"block_size": 10**9} if layout == "torchao" else {}))
    consent = {"steps": 1, "allow_lossy": layout == "torchao"}  # its first updates are a few parts in 100,000 others
    theirs.load_state_dict(convert_state(copy.deepcopy(reference.state_dict()), target=layout, **consent).state_dict)
    train(theirs, params, range(3, 6))
    back = convert_state(copy.deepcopy(theirs.state_dict()), optimizer="AdamW", **consent)
    assert back.certificate.source == layout
    resumed = torch.optim.AdamW(params)
    resumed.load_state_dict(back.state_dict)
    train(resumed, params, range(6, 9))
    train(reference, whole, range(3, 9))
    for mine, expected in zip(params, whole, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-7)  # an update is 1e-3


@pytest.mark.filterwarnings("ignore")
def test_codes_of_bitsandbytes_are_its_own():
    """Its decoded moments are ours, and it goes on from codes that were made here."""
    _, theirs = trained(lambda params: bitsandbytes(params, optim_bits=8))
    saved = copy.deepcopy(theirs.state_dict())
    functional = pytest.importorskip("bitsandbytes.functional")
    own = saved["state"][0]["__bnb_optimizer_quant_state__"]
    decoded = convert_state(saved, steps=1).state_dict["state"][0]["exp_avg"]
    expected = functional.dequantize_blockwise(own["state1"], absmax=own["absmax1"], code=own["qmap1"], blocksize=256)
    torch.testing.assert_close(decoded, expected, rtol=1e-6, atol=0)
    coded = convert_state(
        torch_state(moments(SHAPES), [3, 3]), target="bitsandbytes", moments_dtype=torch.uint8, allow_lossy=True
    )
    params = [torch.nn.Parameter(p) for p in start()]
    resumed = bitsandbytes(params, optim_bits=8)
    resumed.load_state_dict(coded.state_dict)
    train(resumed, params, range(2))
    assert resumed.state[params[0]]["state1"].dtype is torch.uint8
    assert all(bool(param.isfinite().all()) for param in params)


@pytest.mark.filterwarnings("ignore")
def test_codes_of_torchao_are_decoded(tmp_path):
    """In memory, and from a file with the stand-in that is used where torchao is not."""
    pytest.importorskip("torchao.optim")
    _, theirs = trained(torchao)
    expected = theirs.state_dict()["state"][0]["exp_avg"].dequantize()
    found = convert_state(theirs.state_dict(), optimizer="AdamW", steps=1, allow_lossy=True)
    assert found.certificate.source == "torchao"
    torch.testing.assert_close(found.state_dict["state"][0]["exp_avg"], expected, rtol=1e-6, atol=0)
    torch.save(theirs.state_dict(), tmp_path / "in.pt")
    inert = [(_torchao.Codes, name) for name in _torchao.CLASSES]
    known = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(inert):
            saved = torch.load(tmp_path / "in.pt", weights_only=True)
    finally:
        torch.serialization.add_safe_globals(known)
    assert type(saved["state"][0]["exp_avg"]) is _torchao.Codes
    again = convert_state(saved, optimizer="AdamW", steps=1, allow_lossy=True)
    torch.testing.assert_close(again.state_dict["state"][0]["exp_avg"], expected, rtol=1e-6, atol=0)
