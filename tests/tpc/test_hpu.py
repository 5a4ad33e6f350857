"""Optimizers on an "hpu" device step with the TPC kernels once these are loaded, in place, and as on a CPU."""

import logging
import os
import sys

import pytest
import torch
from _graph_compiler import SUCCESS, infer, open_library
from _hpu import SHAPES, assert_close, parameters
from _operands import shapes
from _tpc_kernels import DTYPES, KERNELS

import gaudi3_rt.hpu
from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedLAMB, FusedLARS, FusedLion, FusedSGD
from gaudi3_rt.optim import _hpu as ours

CASES = {
    "adamw": (FusedAdamW, {"lr": 1e-2}, ["adamw"]),
    "adamw_amsgrad": (FusedAdamW, {"lr": 1e-2, "amsgrad": True}, ["adamw_amsgrad"]),
    "adam": (FusedAdam, {"lr": 1e-2, "weight_decay": 0.1}, ["adam"]),
    "sgd": (FusedSGD, {"lr": 1e-2}, ["sgd"]),
    "sgd_momentum": (FusedSGD, {"lr": 1e-2, "momentum": 0.9}, ["sgd_momentum"]),
    "sgd_nesterov": (FusedSGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True}, ["sgd_nesterov"]),
    "lion": (FusedLion, {"lr": 1e-2, "weight_decay": 0.1}, ["lion"]),
    "adagrad": (FusedAdagrad, {"lr": 1e-2}, ["adagrad"]),
    "lamb": (FusedLAMB, {"lr": 1e-2, "max_grad_norm": None}, ["lamb_first", "lamb_ratio", "lamb_second"]),
    "lars": (FusedLARS, {"lr": 1e-2, "momentum": 0.9}, ["lars_first", "lars_ratio", "lars_second"]),
}


pytestmark = pytest.mark.usefixtures("calls")


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_on_a_cpu(name, calls, caplog):
    """Three steps with a schedule; every parameter by its kernels, in their order; nothing is said."""
    optimizer_type, options, kernels = CASES[name]
    there, here = parameters("hpu"), parameters("cpu")
    optimizers = [optimizer_type(params, **options) for params in (there, here)]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for lr in (1e-2, 3e-3, 1e-3):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
    assert not caplog.records
    assert [kernel for kernel, _ in calls] == [f"{kernel}_f32" for kernel in kernels] * len(SHAPES) * 3
    for p, q in zip(there, here, strict=True):
        assert_close(p.detach(), q.detach())
        states = [optimizer.state[x] for optimizer, x in zip(optimizers, (p, q), strict=True)]
        assert list(states[0]) == list(states[1])
        for key, value in states[1].items():
            if key == "step":
                assert float(states[0][key]) == float(value) == 3
            else:
                assert_close(states[0][key], value)


def test_operands_and_scalars(calls):
    """Flat float32 rows in the table's order; constants and the gradients' factor as a tensor, one for a group."""
    params = parameters("hpu")
    before = [p.detach().cpu().reshape(-1) for p in params]
    optimizer = FusedAdamW(params, lr=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.25, maximize=True)
    optimizer.step()
    hyper = [0.5, 0.8, 0.9, 1e-3, 0.25]
    scalars = torch.tensor([*_core.kernel_constants("adamw", hyper, 1), -1.0])
    for p, value, (name, inputs) in zip(params, before, calls, strict=True):
        assert name == "adamw_f32"
        assert len(inputs) == len(KERNELS[name]["inputs"])
        param, grad, exp_avg, exp_avg_sq, constants = inputs
        assert torch.equal(param, value)
        assert torch.equal(grad, p.grad.cpu().reshape(-1))
        assert exp_avg.shape == exp_avg_sq.shape == param.shape
        assert not exp_avg.any()
        assert not exp_avg_sq.any()
        assert torch.equal(constants, scalars)


def test_groups_and_counts_have_scalars_of_their_own(calls):
    """Parameters share constants only where learning rate and number of the step are the same."""
    params = parameters("hpu", [(5,), (6,), (7,)])
    optimizer = FusedAdamW([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lr=1e-2)
    params[1].grad, later = None, params[1].grad
    optimizer.step()
    params[1].grad = later
    calls.clear()
    optimizer.step()
    for (_, inputs), (lr, t) in zip(calls, [(1e-2, 2), (1e-2, 1), (0.5, 2)], strict=True):
        hyper = [lr, 0.9, 0.999, 1e-8, 1e-2]
        assert torch.equal(inputs[-1], torch.tensor([*_core.kernel_constants("adamw", hyper, t), 1.0]))


def test_results_are_written_in_place():
    """Addresses, views and identities stay; autograd's version counters count; gradients are left alone."""
    (p,) = parameters("hpu", [(3, 5)])
    flat = p.detach().view(-1)
    grad = p.grad.clone()
    optimizer = FusedAdamW([p], lr=1e-2)
    optimizer.step()
    state = dict(optimizer.state[p])
    before = p.data_ptr(), p._version, flat.cpu(), {key: value._version for key, value in state.items()}
    optimizer.step()
    assert p.data_ptr() == before[0]
    assert p._version > before[1]
    assert p.requires_grad
    assert p.is_leaf
    assert torch.equal(flat.cpu(), p.detach().cpu().view(-1))
    assert not torch.equal(flat.cpu(), before[2])
    assert torch.equal(p.grad.cpu(), grad.cpu())
    for key, value in optimizer.state[p].items():
        assert value is state[key]
        assert value._version > before[3][key]


def test_a_state_dict_is_that_of_torch():
    """It loads into torch's class, on the CPU, which goes on as if it had taken the steps itself."""
    there, here = parameters("hpu"), parameters("cpu")
    fused, torchs = FusedAdamW(there, lr=1e-2), torch.optim.AdamW(here, lr=1e-2)
    for optimizer in (fused, torchs):
        optimizer.step()
    saved = fused.state_dict()
    continued = parameters("cpu")
    for p, q in zip(continued, there, strict=True):
        p.data.copy_(q.detach().cpu())
    loaded = torch.optim.AdamW(continued, lr=1e-2)
    loaded.load_state_dict(saved)
    for optimizer in (loaded, torchs):
        optimizer.step()
    for p, q in zip(continued, here, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_tensors_that_are_not_rows_in_memory(calls):
    """A transposed parameter with a gradient of another layout; an empty one needs no kernel."""

    def make(device):
        p = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).to(device).t())
        p.grad = torch.linspace(-1, 1, 12).reshape(4, 3).to(device)
        empty = torch.nn.Parameter(torch.empty(0, 3).to(device))
        empty.grad = torch.empty(0, 3).to(device)
        return [p, empty]

    there, here = make("hpu"), make("cpu")
    for params in (there, here):
        FusedAdamW(params, lr=1e-2).step()
    assert [name for name, _ in calls] == ["adamw_f32"]
    assert there[0].stride() == here[0].stride() == (1, 4)
    assert_close(there[0].detach(), here[0].detach())


def test_bf16_gradients_have_kernels_of_their_own(calls):
    """A float32 parameter with a bfloat16 gradient is stepped by the kernel that reads it."""
    there, here = parameters("hpu"), parameters("cpu")
    for params in (there, here):
        for p in params:
            p.grad = None
            p.grad_dtype = torch.bfloat16
            p.grad = torch.linspace(-1, 1, p.numel()).reshape(p.shape).to(p.device, torch.bfloat16)
        FusedLAMB(params, lr=1e-2, max_grad_norm=None).step()
    assert [name for name, _ in calls] == ["lamb_first_bf16", "lamb_ratio_f32", "lamb_second_bf16"] * len(SHAPES)
    for p, q in zip(there, here, strict=True):
        assert_close(p.detach(), q.detach())


def test_an_error_on_the_device_changes_nothing(graph_compiler):
    """Results are copied back when all kernels of a step are done."""
    params = parameters("hpu", [(5,)])
    optimizer = FusedLAMB(params, lr=1e-2, max_grad_norm=None)
    optimizer.step()
    kept = [x.cpu().clone() for x in (params[0].detach(), *optimizer.state[params[0]].values())]
    graph_compiler.fails = "lamb_second_f32"
    with pytest.raises(RuntimeError, match="the device is gone"):
        optimizer.step()
    for x, y in zip((params[0].detach(), *optimizer.state[params[0]].values()), kept, strict=True):
        assert torch.equal(x.cpu(), y)


def test_what_has_no_operator_is_stepped_by_the_composite(calls, caplog):
    """float16 parameters; said once."""
    params = [torch.nn.Parameter(p.detach().to(torch.float16)) for p in parameters("hpu")]
    for p in params:
        p.grad = torch.ones_like(p)
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for _ in range(2):
            FusedAdamW(params, lr=1e-2).step()
    (record,) = caplog.records
    assert "no kernel for torch.float16 tensors on device 'hpu'" in record.message
    assert "load()" not in record.message
    assert not calls


@pytest.mark.parametrize("name", CASES)
def test_without_the_operators_the_composite_steps(name, calls, caplog, monkeypatch):
    """The same update; one line says so and how to load them."""
    monkeypatch.setattr(ours, "_loaded", False)
    optimizer_type, options, _ = CASES[name]
    there, here = parameters("hpu"), parameters("cpu")
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"):
        for params in (there, here):
            optimizer = optimizer_type(params, **options)
            optimizer.step()
            optimizer.step()
    (record,) = caplog.records
    assert "no kernel for torch.float32 tensors on device 'hpu'" in record.message
    assert "gaudi3_rt.hpu.load()" in record.message
    assert not calls
    for p, q in zip(there, here, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2e-6, atol=1e-7)


# The operators


def test_every_kernel_is_an_operator():
    """Names, order of operands and number of results are the table's, and all inputs are tensors."""
    for name, kernel in KERNELS.items():
        schema = getattr(torch.ops.gaudi3_rt_hpu, name).default._schema
        assert [argument.name for argument in schema.arguments] == [operand["name"] for operand in kernel["inputs"]]
        assert {str(argument.type) for argument in schema.arguments} == {"Tensor"}
        assert len(schema.returns) == len(kernel["outputs"])
        assert not schema.is_mutable


@pytest.mark.parametrize("n", [0, 1, 600])
def test_shapes_without_data(n):
    """torch.compile learns from meta tensors what the kernel library infers."""
    library = open_library()
    for name, kernel in KERNELS.items():
        given, _ = shapes(kernel, n)
        inputs = [torch.empty(shape, dtype=DTYPES[dtype], device="meta") for shape, dtype in given]
        results = getattr(torch.ops.gaudi3_rt_hpu, name)(*inputs)
        results = [results] if isinstance(results, torch.Tensor) else results
        status, geometries = infer(library, f"g3rt_{name}", given)
        assert status == SUCCESS
        assert [tuple(result.shape) for result in results] == [(one.max_sizes[0],) for one in geometries]
        assert [result.dtype for result in results] == [DTYPES[one["dtype"]] for one in kernel["outputs"]]
        assert {result.device.type for result in results} == {"meta"}


@pytest.mark.parametrize("device", ["hpu", "meta"])
def test_operators_refuse_what_no_kernel_takes(device, calls):
    """Wrong dtypes, sizes and shapes, before anything is queued."""
    row = torch.ones(600).to(device)
    adamw = torch.ops.gaudi3_rt_hpu.adamw_f32
    for wrong, message in (
        (row.to(torch.bfloat16), "grad is BFloat16; it must be Float"),
        (row[:599], r"grad has shape \[599\]; it must be \[600\]"),
        (row.view(2, 300), r"grad has shape \[2, 300\]; it must be \[600\] \(flatten it\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            adamw(row, wrong, row, row, row[:9])
    with pytest.raises(RuntimeError, match=r"scalars has shape \[8\]; it must be \[9\]"):
        adamw(row, row, row, row, row[:8])
    for n_shards in (0, _core.TPC_MAX_SHARDS + 1):
        with pytest.raises(RuntimeError, match=rf"shards has {n_shards} rows; it must have 1 to 64"):
            torch.ops.gaudi3_rt_hpu.reduce_shards_f32(torch.ones(n_shards, 600).to(device), row[:1])
    assert not calls


# Loading


@pytest.fixture
def unloaded(monkeypatch, tmp_path):
    """As before loading; an empty file is there for the library."""
    monkeypatch.setattr(ours, "_loaded", False)
    path = tmp_path / "library.so"
    path.touch()
    return path


def test_loading_needs_the_operators(unloaded):
    """A path to nothing, and a package that was built without the bridge."""
    for arguments in ([unloaded.with_name("none.so")], []):
        with pytest.raises(RuntimeError, match=r"there are no HPU operators at .*--no-build-isolation"):
            gaudi3_rt.hpu.load(*arguments)
    assert not gaudi3_rt.hpu.is_loaded()


def test_loading_needs_compiled_kernels(unloaded, monkeypatch):
    """A kernel library without programs would fail at the first step."""
    monkeypatch.setattr(_core, "TPC_COMPILER", "")
    with pytest.raises(RuntimeError, match=r"has no compiled kernels.*tpc-clang"):
        gaudi3_rt.hpu.load(unloaded)


@pytest.mark.parametrize("value", [None, "", "/usr/lib/habanalabs/libtpc_kernels.so"])
def test_loading_needs_the_kernel_path(unloaded, monkeypatch, value):
    """The graph compiler would not find the kernels; the variable is not written for the user."""
    monkeypatch.delenv("GC_KERNEL_PATH")
    if value is not None:
        monkeypatch.setenv("GC_KERNEL_PATH", value)
    with pytest.raises(RuntimeError, match=rf"GC_KERNEL_PATH='{value or ''}' does not name .*libgaudi3_rt_tpc.so"):
        gaudi3_rt.hpu.load(unloaded)
    assert os.environ.get("GC_KERNEL_PATH") == value


def test_loading_needs_the_bridge(unloaded, monkeypatch):
    """Where habana_frameworks cannot be imported."""
    monkeypatch.setitem(sys.modules, "habana_frameworks.torch.core", None)
    with pytest.raises(RuntimeError, match="bridge cannot be imported"):
        gaudi3_rt.hpu.load(unloaded)


def test_loading_again_does_nothing(tmp_path):
    """Not even look at the path."""
    gaudi3_rt.hpu.load(tmp_path / "none.so")
