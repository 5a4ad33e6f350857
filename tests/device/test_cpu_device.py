"""The CPU as a device: real memory of this process, and nothing else to wait for."""

import dataclasses

import numpy as np
import psutil
import pytest

from gaudi3_rt import device

MIB = 2**20


@pytest.fixture
def cpu():
    """The device."""
    with device.acquire("cpu") as mine:
        yield mine


def test_properties(cpu):
    """A name that the machine has, and its memory."""
    properties = cpu.properties()
    assert (properties.kind, properties.index, properties.simulated) == ("cpu", 0, False)
    assert properties.name
    assert properties.total_memory == psutil.virtual_memory().total
    assert properties.driver_version is None
    assert (cpu.name, cpu.torch_device) == ("cpu", "cpu")


def test_memory_is_that_of_this_process(cpu):
    """An array of 64 MiB is seen when it is there; the peak remembers it until it is reset."""
    cpu.reset_peak_memory()
    before = cpu.memory_stats()
    block = np.ones(64 * MIB, np.uint8)
    during = cpu.memory_stats()
    del block
    after = cpu.memory_stats()
    assert during.allocated - before.allocated >= 60 * MIB
    assert after.peak >= during.allocated - MIB  # the kernel counts in batches
    assert after.allocated < during.allocated
    cpu.reset_peak_memory()
    assert cpu.memory_stats().peak < during.allocated - 32 * MIB
    assert after.limit <= psutil.virtual_memory().total
    assert (after.reserved, after.workspace) == (None, None)


def test_telemetry(cpu):
    """What the machine has; sensors that it lacks are None."""
    reading = cpu.telemetry()
    assert 0 <= reading.utilization_ratio <= 1
    assert 0 < reading.memory_used_bytes < reading.memory_total_bytes
    assert reading.ecc_uncorrected is None


def test_queues(cpu):
    """Are empty; nothing has to be called in an order."""
    cpu.mark_step()
    cpu.mark_step()
    cpu.synchronize()
    cpu.close()
    cpu.open()


def test_records_become_dictionaries():
    """For JSON."""
    for one in device.devices():
        assert dataclasses.asdict(one.properties())["name"]
        assert "power_watts" in dataclasses.asdict(one.telemetry())
    assert dataclasses.asdict(device.versions())["python"]
