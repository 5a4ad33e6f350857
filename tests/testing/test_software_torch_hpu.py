"""torch.hpu on a software HPU: names, types and relations of results are the bridge's."""

import sys

import pytest
import torch

from gaudi3_rt.testing import SoftwareHPU

KEYS = [
    "Limit",
    "InUse",
    "MaxInUse",
    "NumAllocs",
    "NumFrees",
    "ActiveAllocs",
    "MaxAllocSize",
    "TotalSystemAllocs",
    "TotalSystemFrees",
    "TotalActiveAllocs",
]
MIB = 2**20


@pytest.fixture
def hpu():
    """Two devices of 64 MiB; the process has the second."""
    return SoftwareHPU(2, memory="64 MiB")


@pytest.fixture
def table(hpu):
    """Of the second device."""
    return hpu.torch_hpu(1)


def test_memory(hpu, table):
    """The ten native keys in their order, and the functions that read them."""
    device = hpu.device(1)
    with device.allocate("3 MiB"):
        device.allocate("1 MiB")
    stats = table.memory_stats()
    assert list(stats) == KEYS
    assert [*stats.values()] == [64 * MIB, MIB, 4 * MIB, 2, 1, 1, 3 * MIB, 2, 1, 1]
    assert table.memory_allocated() == table.memory_usage("hpu") == MIB
    assert table.max_memory_allocated(0) == 4 * MIB
    assert table.memory_reserved() == table.max_memory_reserved() == 64 * MIB
    assert table.mem_get_info(torch.device("cpu").type and None) == (63 * MIB, 64 * MIB)
    table.reset_peak_memory_stats()
    assert table.max_memory_allocated() == MIB
    assert "MaxAllocSize" in table.memory_summary()


def test_devices(hpu, table):
    """One process has one, which is 0; asking acquires it, as with the bridge."""
    assert (table.is_available(), table.device_count(), table.is_initialized()) == (True, 2, False)
    assert table.current_device() == 0
    assert table.is_initialized()
    assert hpu.device(1).is_open
    assert not hpu.device(0).is_open
    table.set_device(1)
    with table.device(0):
        assert table.is_bf16_supported()
    assert isinstance(table.get_device_capability(), str)
    assert "dramSize=67108864" in table.get_device_properties("hpu:0")


@pytest.mark.parametrize("index", [1, 2, "hpu:1", -1])
def test_an_index_that_a_process_does_not_have(table, index):
    """The bridge's error."""
    with pytest.raises(AssertionError, match="Invalid device id"):
        table.memory_allocated(index)


def test_another_kind_of_device(table):
    """The bridge's error, too."""
    with pytest.raises(ValueError, match="Expected a hpu device, but got: cpu"):
        table.memory_allocated("cpu")


def test_events(hpu, table):
    """Milliseconds on the device's clock."""
    first, second = (table.Event(enable_timing=True) for _ in range(2))
    first.record()
    hpu.clock.advance(1.5)
    second.record()
    second.synchronize()
    assert second.query()
    assert first.elapsed_time(second) == 1500.0
    with pytest.raises(RuntimeError, match="enable_timing"):
        first.elapsed_time(table.Event())


def test_metrics(hpu, table):
    """A sequence of operators is compiled once; the second time it is in the cache."""
    device = hpu.device(1)
    for operators in ("ab", "ab", "b"):
        for operator in operators:
            device.enqueue(operator)
        table.synchronize()
    assert table.metrics.metric_global("graph_compilation").stats() == [("TotalNumber", 2)]
    assert table.metrics.metric_global("recipe_cache").stats() == [("TotalHit", 1), ("TotalMiss", 2)]
    assert table.metrics.metric_global("cpu_fallback").stats() == [("TotalNumber", 0)]
    assert table.metrics.metric_global("none") is None


def test_code_that_imports_the_bridge(hpu):
    """Runs as it is; afterwards everything is as before."""
    before = {name: module for name, module in sys.modules.items() if name.startswith("habana")}
    had = torch.__dict__.get("hpu")
    with hpu.installed(1) as table:
        import habana_frameworks.torch as htorch  # noqa: PLC0415 (it is there inside the block only)
        import habana_frameworks.torch.core as htcore  # noqa: PLC0415
        import habana_frameworks.torch.hpu as hthpu  # noqa: PLC0415
        from habana_frameworks.torch.hpu.metrics import metric_global  # noqa: PLC0415

        assert metric_global("cpu_fallback").stats() == [("TotalNumber", 0)]
        assert torch.hpu is htorch.hpu is hthpu is table
        hpu.device(1).enqueue("add")
        htcore.mark_step()
        htcore.mark_step("", sync=True)
        assert len(hpu.device(1).queue.graphs) == 1
    assert {name: module for name, module in sys.modules.items() if name.startswith("habana")} == before
    assert torch.__dict__.get("hpu") is had
