"""The machine's own figures: counters that never fall, file systems that hang, what is not there."""

import os
import threading
from collections import namedtuple

import psutil
import pytest
from _scrape import of_section, scrape
from _threads import refuse

from gaudi3_rt import metrics
from gaudi3_rt.metrics import _system
from gaudi3_rt.metrics._catalogue import BOUNDS

Interface = namedtuple("Interface", "bytes_recv bytes_sent")  # noqa: PYI024 (as psutil's)
Usage = namedtuple("Usage", "used free")  # noqa: PYI024 (as psutil's)
LONG = 30.0  # seconds until a test gives up; none waits for it


def test_this_machine():
    """Real readings."""
    with metrics.Metrics() as counted:
        found = of_section(scrape(counted.registry), "system_")
    assert found["system_memory_total_bytes"] == {"": psutil.virtual_memory().total}
    assert 0 < found["system_memory_used_bytes"][""] < found["system_memory_total_bytes"][""]
    assert 0 <= found["system_cpu_utilization_ratio"][""] <= 1
    used, total = (found[f"system_disk_{name}_bytes"]["mountpoint=/"] for name in ("used", "total"))
    space = os.statvfs("/")
    assert total == pytest.approx((space.f_blocks - space.f_bfree + space.f_bavail) * space.f_frsize, rel=0.01)
    assert 0 < used < total


def test_nothing_of_the_machine_without_being_asked():
    """Where node-exporter runs."""
    with metrics.Metrics(system=False) as counted:
        assert of_section(scrape(counted.registry), "system_") == {}


def test_an_interface_that_goes_takes_nothing_along(monkeypatch):
    """One that comes, goes and comes again begins anew; the sum only grows."""
    there = {"eth0": Interface(100, 10)}
    monkeypatch.setattr(psutil, "net_io_counters", lambda *, pernic: dict(there) if pernic else None)
    system = metrics.System([])

    def received():
        return system()["system_network_received_bytes_total"][()]

    assert received() == 100
    there["veth1"] = Interface(50, 5)
    assert received() == 150
    there["veth1"] = Interface(70, 5)
    assert received() == 170
    del there["veth1"]
    assert received() == 170
    there |= {"eth0": Interface(101, 10), "veth1": Interface(3, 0)}
    assert received() == 174
    there["eth0"] = Interface(4, 0)  # its driver was loaded again
    assert received() == 178
    assert system()["system_network_transmitted_bytes_total"][()] == 15


def test_what_the_machine_does_not_say_is_absent(monkeypatch):
    """No disks, no interfaces: no zeros."""
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: {"lo": Interface(1, 1)})
    with metrics.Metrics(system=metrics.System([])) as counted:
        found = of_section(scrape(counted.registry), "system_disk", "system_network")
    assert found == {}


@pytest.mark.parametrize("function", ["virtual_memory", "cpu_times", "disk_io_counters", "net_io_counters"])
def test_what_the_machine_keeps_from_us_breaks_no_scrape(monkeypatch, function):
    """As in containers with a /proc of their own."""

    def refuses(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(psutil, function, refuses)
    monkeypatch.setattr(psutil, "disk_partitions", refuses)
    before = set(metrics.System()())
    monkeypatch.undo()
    missing = {
        "virtual_memory": "memory",
        "cpu_times": "cpu",
        "disk_io_counters": "disk_",
        "net_io_counters": "network",
    }
    lost = set(metrics.System()()) - before
    assert lost
    assert all(name.startswith(f"system_{missing[function]}") for name in lost)
    assert "system_disk_used_bytes" in before


def test_a_file_system_that_hangs(monkeypatch, caplog):
    """Is left out, is not asked again while it hangs, and the others are there; it comes back when it answers."""
    goes_on, asked = threading.Event(), []
    monkeypatch.setattr(_system, "PATIENCE", 0.001)

    def usage(path):
        asked.append(path)
        if path == "/nfs" and len(asked) == 1:
            goes_on.wait(LONG)
        return Usage(10, 20)

    monkeypatch.setattr(psutil, "disk_usage", usage)
    system = metrics.System(["/nfs"])
    assert system()["system_disk_used_bytes"] == {}
    assert system()["system_disk_total_bytes"] == {}
    assert asked == ["/nfs"]
    assert caplog.text.count("the file system at /nfs does not answer") == 1
    goes_on.set()
    system._spaces["/nfs"]._thread.join(LONG)
    monkeypatch.setattr(_system, "PATIENCE", LONG)
    assert system()["system_disk_total_bytes"] == {("/nfs",): 30}


def test_a_machine_without_threads(monkeypatch):
    """Of all figures those of file systems are missing; they come back with the next scrape."""
    system = metrics.System(["/"])
    with monkeypatch.context() as patch:
        refuse(patch, "space of")
        found = system()
    assert (found["system_disk_used_bytes"], found["system_memory_total_bytes"] != {}) == ({}, True)
    monkeypatch.setattr(_system, "PATIENCE", LONG)
    assert set(system()["system_disk_used_bytes"]) == {("/",)}


def test_a_file_system_that_is_not_there(tmp_path):
    """Says nothing."""
    found = metrics.System([tmp_path, tmp_path / "missing"])()
    assert set(found["system_disk_used_bytes"]) == {(str(tmp_path),)}


def test_one_mountpoint_for_each_disk(monkeypatch, tmp_path):
    """A container has files and folders of its host's disk mounted; its root is on none."""
    partition = namedtuple("partition", "device mountpoint")  # noqa: PYI024 (as psutil's)
    folder, hosts = tmp_path / "data", tmp_path / "h"
    deep = folder / "deep"
    deep.mkdir(parents=True)
    hosts.touch()
    mounted = [partition("/dev/a", str(path)) for path in (hosts, deep, folder)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)
    assert _system._mountpoints_of_disks() == ["/", str(folder)]


def test_mountpoints_beyond_the_bound_and_names_that_cannot_be_written(monkeypatch):
    """Are left out; a scrape is not broken by one."""
    monkeypatch.setattr(psutil, "disk_usage", lambda _: Usage(1, 1))
    paths = ["/\udcff", "/" + "x" * 200, *(f"/{number}" for number in range(100))]
    with metrics.Metrics(system=metrics.System(paths)) as counted:
        found = scrape(counted.registry)["system_disk_used_bytes"]
    assert len(found) == BOUNDS["mountpoint"] - 1
    assert "mountpoint=/?" in found
