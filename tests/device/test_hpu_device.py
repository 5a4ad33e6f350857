"""The HPU provider on a stand-in of Habana's bridge: what it calls, what it never does, and what it makes of errors."""

import os
import sys

import _habana_package
import pytest

from gaudi3_rt import device, events, log
from gaudi3_rt.device import _select
from gaudi3_rt.errors import HPUDriverError, HPUNotAvailableError
from gaudi3_rt.testing import FakeClock, capture_events

BUSY = "synStatus=20 [Device already acquired] Device acquire failed."


@pytest.fixture
def bridge(tmp_path, monkeypatch):
    """State of the stand-in; it can be imported, and neither HLML nor hl-smi can be used."""
    monkeypatch.setattr(_select, "_announced", set())
    with _habana_package.installed(tmp_path, monkeypatch) as state:
        yield state


def open_node(host, bridge, node):
    """From now on acquiring opens this node, as the driver's library does."""

    def opens():
        host.add_process("self", node)

    bridge["on_init"] = opens


def test_auto_takes_any_free_hpu(host, bridge):
    """The bridge chooses; which one it was is seen from the node that is open. No variable is written."""
    host.add_hpu(0, 6)
    node = host.add_hpu(1, 4)
    open_node(host, bridge, node)
    before = dict(os.environ)
    with device.acquire(root=host.root) as mine:
        assert (mine.name, mine.torch_device, mine.simulated) == ("hpu:4", "hpu", False)
        assert mine.properties().index == 4
    assert bridge["calls"] == [("init", None)]
    assert dict(os.environ) == before


def test_a_certain_module(host, bridge, caplog):
    """The bridge takes a position in the visible list and writes its variable; that is said."""
    for number in range(4):
        node = host.add_hpu(number, number)
    open_node(host, bridge, node)
    with caplog.at_level("INFO", logger="gaudi3_rt"), device.acquire("hpu:3", root=host.root) as mine:
        assert mine.name == "hpu:3"
    assert bridge["calls"] == [("set_device", 3), ("init", "3")]
    assert "has set HLS_MODULE_ID=3" in caplog.text


def test_a_certain_module_among_visible_ones(host, bridge, monkeypatch):
    """Position 1 of 7,5,2 is module 5."""
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "7,5,2")
    for number in range(8):
        node = host.add_hpu(number, number)
        if number == 5:
            open_node(host, bridge, node)
    with device.acquire("hpu:5", root=host.root) as mine:
        assert mine.name == "hpu:5"
    assert bridge["calls"] == [("set_device", 1), ("init", "5")]


def test_a_module_that_the_environment_names(host, bridge, monkeypatch):
    """It is that one; nothing is written."""
    monkeypatch.setenv("HLS_MODULE_ID", "1")
    for number in range(2):
        host.add_hpu(number, number)
    with device.acquire("hpu", root=host.root) as mine:
        assert mine.name == "hpu:1"
    assert bridge["calls"] == [("init", "1")]
    with pytest.raises(HPUNotAvailableError, match=r"'hpu:0' is not there; available: hpu:1"):
        device.devices("hpu:0", root=host.root)


def test_the_next_of_a_list_when_the_first_is_busy(host, bridge):
    """What the bridge wrote for the first is taken back."""
    for number in range(3):
        node = host.add_hpu(number, number)
    bridge["errors"] = [RuntimeError(BUSY)]
    open_node(host, bridge, node)
    with device.acquire("hpu:0,2", root=host.root) as mine:
        assert mine.name == "hpu:2"
    assert bridge["calls"] == [("set_device", 0), ("init", "0"), ("set_device", 2), ("init", "2")]


def test_another_module_than_asked_for_is_refused(host, bridge):
    """The bridge falls back to any free device; an explicit request does not."""
    host.add_hpu(0, 0)
    open_node(host, bridge, host.add_hpu(1, 1))
    with (
        pytest.raises(HPUNotAvailableError, match=r"acquired hpu:1 in place of hpu:0.*HABANA_VISIBLE_MODULES=0"),
        device.acquire("hpu:0", root=host.root),
    ):
        pytest.fail("it is another one")


def test_another_module_that_the_process_has_already(host, bridge):
    """An explicit request does not take it for the one that was meant."""
    host.add_hpu(0, 0)
    bridge["initialized"] = True
    host.add_process("self", host.add_hpu(1, 1))
    with pytest.raises(HPUNotAvailableError, match="acquired hpu:1 in place of hpu:0"):
        device.acquire("hpu:0", root=host.root).__enter__()


def test_a_module_that_the_bridge_does_not_accept(host, bridge):
    """It has positions 0 to 7 unless the environment lists others."""
    host.add_hpu(0, 0)
    host.add_hpu(1, 9)
    with pytest.raises(HPUNotAvailableError, match=r"does not accept hpu:9.*set HABANA_VISIBLE_MODULES"):
        device.acquire("hpu:9", root=host.root).__enter__()
    assert bridge["calls"] == []


def test_who_has_a_busy_device(host, bridge):
    """Process and command are named in events and in the error."""
    node = host.add_hpu(0, 0)
    host.add_process(4711, node, command=("python", "old_run.py"))
    bridge["errors"] = [RuntimeError(BUSY)] * 9
    clock = FakeClock()
    with (
        capture_events(events.DeviceBusy) as captured,
        pytest.raises(HPUNotAvailableError) as caught,
        device.acquire("hpu:0", root=host.root, clock=clock, random=lambda: 1.0, attempts=2),
    ):
        pytest.fail("somebody else has it")
    assert "hpu:0 is busy: pid 4711 (python old_run.py) has it (2 tries in 1.0 s)" in str(caught.value)
    assert caught.value.context["holders"] == {"hpu:0": ["pid 4711 (python old_run.py)"]}
    assert [event.holders for event in captured] == [("pid 4711 (python old_run.py)",)]
    assert "HLS_MODULE_ID" not in os.environ


@pytest.mark.usefixtures("bridge")
def test_without_a_bridge(host, monkeypatch, caplog):
    """Auto takes the CPU with a warning; an explicit request says what to install."""
    host.add_hpu(0, 0)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.endswith("/packages")])
    _habana_package.forget()
    with device.acquire(root=host.root) as mine:
        assert mine.name == "cpu"
    (record,) = caplog.records
    assert record.message.endswith("there are 1 HPUs, but Habana's PyTorch bridge is not installed")
    with (
        pytest.raises(HPUDriverError, match="cannot be imported: No module named 'habana_frameworks'") as caught,
        device.acquire("hpu", root=host.root),
    ):
        pytest.fail("there is no bridge")
    assert "habana-torch-plugin" in caught.value.suggestions[0]


@pytest.mark.usefixtures("bridge")
def test_a_bridge_that_refuses_this_torch(host, tmp_path):
    """Its words are kept."""
    host.add_hpu(0, 0)
    words = "Error: Compile-time major/minor PyTorch version 2.7 differs from run-time 2.9.0+cu128."
    _habana_package.make(tmp_path / "packages", first=f"raise AssertionError({words!r})\n")
    _habana_package.forget()
    with pytest.raises(HPUDriverError, match=r"2\.7 differs from run-time"), device.acquire("hpu", root=host.root):
        pytest.fail("it does not fit")


def test_memory(host, bridge):
    """The ten numbers in the common form; which of them is workspace the bridge does not say."""
    host.add_hpu(0, 0)
    bridge["memory"] = (1000, 300, 500, 7, 3, 4, 200, 9, 5, 4)
    with device.acquire("hpu", root=host.root) as mine:
        stats = mine.memory_stats()
        mine.reset_peak_memory()
    assert stats == device.MemoryStats(allocated=300, reserved=1000, peak=500, limit=1000, workspace=None)
    assert bridge["calls"][-1] == ("reset_peak_memory_stats",)


@pytest.mark.parametrize(("lazy", "expected"), [(True, 2), (False, 0)])
def test_mark_step(host, bridge, lazy, expected):
    """Goes to the bridge in lazy mode only."""
    host.add_hpu(0, 0)
    bridge["lazy"] = lazy
    with device.acquire("hpu", root=host.root) as mine:
        mine.mark_step()
        mine.mark_step()
        mine.synchronize()
    assert bridge["calls"].count(("mark_step",)) == expected
    assert bridge["calls"].count(("synchronize",)) == 1


@pytest.mark.parametrize("method", ["memory_stats", "reset_peak_memory", "synchronize", "mark_step"])
def test_nothing_is_acquired_in_passing(host, bridge, method):
    """What the bridge would acquire a device for is refused outside of acquire; the rest needs no device."""
    host.add_hpu(0, 0)
    (mine,) = device.devices("hpu", root=host.root, environment={})
    mine.properties()
    mine.telemetry()
    with pytest.raises(HPUNotAvailableError, match="hpu:0 is not acquired by this process"):
        getattr(mine, method)()
    assert bridge["calls"] == []


def test_a_device_that_the_process_has_already(host, bridge):
    """As after model.to("hpu"): it is used as it is."""
    bridge["initialized"] = True
    open_node(host, bridge, host.add_hpu(3, 5))
    bridge["on_init"]()
    with device.acquire("hpu", root=host.root) as mine:
        assert mine.name == "hpu:5"
        mine.synchronize()
    assert bridge["calls"] == [("synchronize",)]


@pytest.mark.usefixtures("bridge")
def test_without_sensors(host, caplog):
    """None everywhere, said once, as an event, which the log writes; versions come from the driver's files."""
    host.add_hpu(0, 0, fw_os_ver="fw-1.22")
    host.set_driver("1.22.1-97ec1a4")
    (mine,) = device.devices("hpu", root=host.root, environment={})
    with capture_events(events.TelemetryUnavailable) as captured, log.subscribe():
        for _ in range(3):
            assert mine.telemetry() == device.Telemetry()
    (event,) = captured
    assert event.device == "hpu:0"
    assert event.reason.startswith("pyhlml cannot be imported")
    assert event.reason.endswith("; hl-smi is not on the path")
    assert [(r.message, r.levelname) for r in caplog.records] == [("telemetry_unavailable", "WARNING")]
    properties = mine.properties()
    assert (properties.driver_version, properties.firmware_version) == ("1.22.1-97ec1a4", "fw-1.22")
    assert (properties.name, properties.kind, properties.total_memory) == ("HPU", "hpu", None)
