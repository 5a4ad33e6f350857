"""Who holds memory is found by owner, each storage once; an allocation failure says it."""

import asyncio
import errno
import functools
import inspect
import json
import os
import warnings

import pytest
import torch
from _memory_series import GB, Script
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from gaudi3_rt import memory
from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt.errors import HPUMemoryError, InsufficientMemoryError, ParameterValidationError
from gaudi3_rt.optim import FusedAdamW


def trained(**options):
    """A model and its optimizer after a step."""
    model = nn.Sequential(nn.Linear(32, 256), nn.BatchNorm1d(256))
    optimizer = FusedAdamW(model.parameters(), **options)
    model(torch.randn(4, 32)).sum().backward()
    optimizer.step()
    return model, optimizer


def by_label(report):
    """Holdings by what they are called."""
    return {holding.label: holding for holding in report.holdings}


def test_every_owner_is_found_by_name():
    """Parameters, gradients, state by key, buffers."""
    model, optimizer = trained(moments_dtype=torch.int8)
    report = memory.report(model=model, optimizer=optimizer, others=False)
    found = by_label(report)
    assert found["parameter: 0.weight"].bytes == 4 * 32 * 256
    assert found["gradient: 0.weight"].bytes == 4 * 32 * 256
    assert found["optimizer state: exp_avg_codes of 0.weight"].bytes == 32 * 256
    assert found["optimizer state: exp_avg_codes of 0.weight"].dtype == "int8"
    assert found["optimizer state: exp_avg of 1.bias"].shape == (256,)
    assert found["buffer: 1.running_mean"].bytes == 4 * 256
    assert [one.bytes for one in report.holdings] == sorted((one.bytes for one in report.holdings), reverse=True)
    assert report.by_owner()["parameter"] == sum(p.nbytes for p in model.parameters())
    assert report.total == sum(report.by_owner().values())


def test_others_are_grouped_by_form():
    """What nobody owns: three losses kept alive."""
    forgotten = [torch.zeros(7, 11, 13, dtype=torch.int16) for _ in range(3)]
    report = memory.report()
    (found,) = (one for one in report.holdings if one.shape == (7, 11, 13) and one.dtype == "int16")
    assert found.owner == "other"
    assert found.bytes == 3 * forgotten[0].nbytes
    assert found.count == 3
    assert "3 of int16 7x11x13" in memory.report(top=10**6).table()


def test_tensors_of_a_trace_have_no_memory():
    """What torch.compile keeps says that it is on the CPU, and has sizes that are no numbers."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    traced = mode.from_tensor(torch.zeros(7, 11, 17, dtype=torch.int16), static_shapes=False)
    fixed = mode.from_tensor(torch.zeros(7, 11, 19, dtype=torch.int16), static_shapes=True)
    assert traced.device == fixed.device == torch.device("cpu")
    shapes = {one.shape for one in memory.report().holdings}
    assert (7, 11, 19) not in shapes
    assert all(isinstance(size, int) for shape in shapes for size in shape)


def test_shared_storages_count_once():
    """Tied weights, a gradient that is a view of a bucket, a view that is kept elsewhere."""
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    second.weight = first.weight
    model = nn.ModuleDict({"embed": first, "head": second})
    bucket = torch.zeros(1000)
    first.weight.grad = bucket[:256].view(16, 16)
    view = first.weight.detach()[3]
    report = memory.report(model=model)
    found = by_label(report)
    assert found["parameter: embed.weight"].bytes == 4 * 256
    assert found["parameter: embed.weight"].shared_with == ("head.weight",)
    assert found["parameter: embed.weight"].count >= 2
    assert found["gradient: embed.weight"].bytes == bucket.nbytes
    assert not any(
        one.owner == "other" and one.shape in {tuple(view.shape), tuple(bucket.shape)} for one in report.holdings
    )


def test_meta_tensors_hold_nothing_and_sparse_ones_what_they_have():
    """Indices and values."""
    model = nn.ModuleDict({"a": nn.Linear(1000, 1000, device="meta"), "b": nn.Embedding(100, 8, sparse=True)})
    model["b"](torch.tensor([3, 4, 5])).sum().backward()
    report = memory.report(model=model, others=False)
    assert report.by_owner() == {"parameter": 4 * 800, "gradient": 3 * (8 + 4 * 8)}


def test_parameters_that_only_an_optimizer_knows():
    """They have numbers."""
    params = [nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(20))]
    first = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], momentum=0.9)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(30))])
    for param in params:
        param.grad = torch.zeros_like(param)
    first.step()
    found = by_label(memory.report(optimizer=[first, other], others=False))
    assert found["parameter: 0 of group 1"].bytes == 80
    assert found["optimizer state: momentum_buffer of 0 of group 1"].bytes == 80
    assert found["parameter: 0 of group 0 of optimizer 1"].bytes == 120


def test_what_the_device_has_beyond_tensors_is_said():
    """Nobody should take the table for all of it; simulated figures are called so."""
    model, optimizer = trained()
    stats = MemoryStats(allocated=5 * GB, reserved=None, peak=6 * GB, limit=8 * GB, workspace=GB, simulated=True)
    report = memory.report(model=model, optimizer=optimizer, stats=stats, others=False)
    assert report.unseen == 5 * GB - report.total
    text = str(report)
    assert text.startswith("allocated 4.66 GiB of 7.45 GiB (simulated)\npeak 5.59 GiB, workspace 953.67 MiB\n")
    assert "not seen: saved for backward" in text
    assert report.to_dict()["simulated"] is True


def test_the_table_is_at_most_80_columns():
    """With long names, many holdings and others; what is left out is summed."""
    model = nn.Module()
    inner = model
    for _ in range(12):
        inner.transformer_block_with_a_long_name = nn.Module()
        inner = inner.transformer_block_with_a_long_name
    inner.weights = nn.ParameterList(torch.zeros(17, 1000 + i, 3, 1) for i in range(40))
    optimizer = FusedAdamW(model.parameters())
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    stats = MemoryStats(allocated=GB, reserved=GB, peak=GB, limit=128 << 30, workspace=GB, simulated=True)
    report = memory.report(model=model, optimizer=optimizer, stats=stats)
    text = report.table()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{len(report.holdings) - 20} smaller ones" in text
    assert json.loads(json.dumps(report.to_dict()))["total"] == report.total


# Messages as Habana's bridge and torch write them
HPU = "[Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::939524096 (896)MB"
WORKSPACE = "FATAL ERROR :: MODULE:SYNHELPER workspace Allocation of size ::14493510400 failed!"


@pytest.mark.parametrize(
    ("error", "kind", "size"),
    [
        (RuntimeError(HPU), HPUMemoryError, 939524096),
        (RuntimeError(WORKSPACE), HPUMemoryError, 14493510400),
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), HPUMemoryError, None),
        (MemoryError(), InsufficientMemoryError, None),
        (RuntimeError("std::bad_alloc"), InsufficientMemoryError, None),
        (RuntimeError("synStatus=synStatus 4 [Out of Device memory (OOM)]"), HPUMemoryError, None),
        (RuntimeError("synStatus=synStatus 14 [Failed to allocate Device memory]"), HPUMemoryError, None),
        (RuntimeError("hcclOutOfMemory"), HPUMemoryError, None),
        (RuntimeError("synHostMalloc failed"), InsufficientMemoryError, None),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), InsufficientMemoryError, None),
    ],
    ids=[
        *("hpu", "workspace", "OutOfMemoryError", "MemoryError", "bad_alloc"),
        *("status 4", "status 14", "hccl", "pinned", "ENOMEM"),
    ],
)
def test_allocation_failures_are_explained(error, kind, size, caplog):
    """By type or by message; the cause is kept, the report attached and logged."""
    model, optimizer = trained()
    device = Script([95 * GB]) if kind is HPUMemoryError else None
    with pytest.raises(kind) as caught, memory.explain_oom(model, optimizer, device=device):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.context["requested_bytes"] == size
    report = caught.value.context["report"]
    assert "parameter: 0.weight" in by_label(report)
    assert "held by" in caplog.text
    assert caught.value.code == kind.code
    if device is not None:
        assert "on hpu:0; 88.48 GiB of 93.13 GiB are taken" in caught.value.message
    else:
        assert "on this host" in caught.value.message
        assert report.stats.allocated > 0
    context = json.loads(json.dumps(caught.value.to_dict()))["context"]
    assert context["held_bytes"] == report.by_owner()
    assert "0.weight" in context["report"]


def test_what_torch_raises_on_a_cpu_is_known():
    """An allocation that no machine can serve."""
    with pytest.raises(InsufficientMemoryError) as caught, memory.explain_oom():
        torch.empty(1 << 57, dtype=torch.int8)
    assert caught.value.context["requested_bytes"] == 1 << 57
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_it_decorates_functions():
    """A new report each time."""

    @memory.explain_oom()
    def step(fail):
        if fail:
            raise MemoryError
        return 3

    assert step(fail=False) == 3
    for _ in range(2):
        with pytest.raises(InsufficientMemoryError):
            step(fail=True)


def test_it_decorates_async_functions():
    """What they await is covered, too, and they stay async functions."""

    @memory.explain_oom()
    async def step(fail):
        await asyncio.sleep(0)
        if fail:
            raise MemoryError
        return 3

    assert inspect.iscoroutinefunction(step)
    assert asyncio.run(step(fail=False)) == 3
    for _ in range(2):
        with pytest.raises(InsufficientMemoryError):
            asyncio.run(step(fail=True))


def test_it_refuses_generators():
    """Their body runs when the decorated call has long returned."""

    def plain():
        yield 1

    async def asynchronous():
        yield 1

    for function in (plain, asynchronous):
        with pytest.raises(ParameterValidationError, match=r"with explain_oom\(\.\.\.\):' in it"):
            memory.explain_oom()(function)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError(HPU),
        HPUMemoryError("said before"),
        KeyboardInterrupt(),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_anything_else_passes(error):
    """Unchanged."""
    with pytest.raises(type(error)) as caught, memory.explain_oom():
        raise error
    assert caught.value is error
    assert not memory.is_allocation_failure(error)


def test_a_failure_that_was_dealt_with_is_none_of_what_follows():
    """An error that is raised after it is not explained by it."""
    later = RuntimeError("no batch fits")
    later.__context__ = MemoryError()
    with pytest.raises(RuntimeError) as caught, memory.explain_oom():
        raise later
    assert caught.value is later


def test_a_device_that_does_not_answer_does_not_hide_the_failure():
    """The report comes without its figures."""
    device = Script([RuntimeError("gone")])
    with pytest.raises(HPUMemoryError) as caught, memory.explain_oom(device=device):
        raise RuntimeError(HPU)
    assert caught.value.context["report"].stats is None


def test_simulated_failures_are_called_so():
    """In the message too."""
    device = functools.partial(Script, simulated=True)([GB])
    with pytest.raises(HPUMemoryError, match=r"on hpu:0 \(simulated\)"), memory.explain_oom(device=device):
        raise RuntimeError(HPU)


def test_tensors_that_cannot_be_looked_at_do_not_stop_a_report():
    """Lazy modules, nested tensors, those inside of vmap, classes that refuse: anybody's may be alive."""

    class Refusing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *_, **__):
            msg = "not like this"
            raise RuntimeError(msg)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls them a prototype
        nested = torch.nested.nested_tensor([torch.zeros(7, 11, dtype=torch.int16), torch.zeros(7, 13).short()])
    alive = [nn.LazyLinear(3), nested, torch.zeros(3).as_subclass(Refusing)]
    shapes = set()

    def look(x):
        alive.append(x)
        shapes.update((one.shape, one.dtype) for one in memory.report().holdings)
        return x

    torch.func.vmap(look)(torch.zeros(2, 5))
    assert ((7 * 24,), "int16") in shapes
    assert memory.report(model=alive[0], others=False).total == 0


def test_a_report_that_fails_does_not_hide_the_failure():
    """It is explained without names."""

    class Broken(nn.Module):
        def named_parameters(self, **_):
            msg = "not now"
            raise AttributeError(msg)

    with pytest.raises(InsufficientMemoryError) as caught, memory.explain_oom(Broken()):
        raise MemoryError
    assert list(caught.value.context["held_bytes"]) == ["other"]
