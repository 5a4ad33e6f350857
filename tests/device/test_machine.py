"""Which HPUs a machine has and who holds them, from its files alone."""

import os

import pytest

from gaudi3_rt import device
from gaudi3_rt.device import _machine
from gaudi3_rt.errors import HPUNotAvailableError, InvalidConfigurationError


def names(host, **environment):
    """Of the HPUs that a process may use."""
    return [one.name for one in device.devices(root=host.root, environment=environment)[:-1]]


def test_nodes_of_new_and_old_drivers(host):
    """The number is the module's where the driver tells it, else the node's; other accelerators are left out."""
    host.add_hpu(0, 5)
    host.add_hpu(1, 2)
    host.add_hpu(2, vendor="0x8086")
    host.add_hpu(7, old=True)
    (host.root / "dev" / "accel" / "accel_controlD0").touch()
    (host.root / "dev" / "hl_controlD7").touch()
    assert names(host) == ["hpu:2", "hpu:5", "hpu:7"]
    assert [module.node for module in _machine.modules(host.root)] == [
        "/dev/accel/accel1",
        "/dev/accel/accel0",
        "/dev/hl7",
    ]


def test_nothing_there(tmp_path):
    """Not even the folders."""
    assert _machine.modules(tmp_path / "none") == []
    assert _machine.holders(None, tmp_path / "none") == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"HABANA_VISIBLE_MODULES": ""}, [0, 1, 2, 3]),
        ({"HABANA_VISIBLE_MODULES": "1, 3"}, [1, 3]),
        ({"HABANA_VISIBLE_MODULES": "6,7"}, []),
        ({"HLS_MODULE_ID": "2"}, [2]),
        ({"HLS_MODULE_ID": "-1"}, [0, 1, 2, 3]),
        ({"HLS_MODULE_ID": "2", "HABANA_VISIBLE_MODULES": "1,2"}, [2]),
        ({"HLS_MODULE_ID": "2", "HABANA_VISIBLE_MODULES": "1,3"}, []),
    ],
)
def test_the_environment_hides_modules(host, environment, expected):
    """As the bridge reads the two variables."""
    for number in range(4):
        host.add_hpu(number, number)
    assert names(host, **environment) == [f"hpu:{number}" for number in expected]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HABANA_VISIBLE_MODULES", "0,x"),
        ("HLS_MODULE_ID", "\u0661"),
        ("HLS_MODULE_ID", "two"),
        ("HLS_MODULE_ID", "1" * 5000),
    ],
)
def test_variables_that_are_no_numbers(host, variable, value):
    """Named with what was seen."""
    with pytest.raises(InvalidConfigurationError, match=f"{variable} has ") as caught:
        names(host, **{variable: value})
    assert len(caught.value.message) < 200
    assert caught.value.suggestions == (f"set {variable} to numbers of modules, or unset it",)


def test_selection_by_number_and_count(host):
    """By module, in the order that was given."""
    for minor, module in enumerate([6, 4, 2, 0]):
        host.add_hpu(minor, module)

    def select(spec):
        return [one.name for one in device.devices(spec, root=host.root, environment={})]

    assert select("hpu") == ["hpu:0", "hpu:2", "hpu:4", "hpu:6"]
    assert select(2) == ["hpu:0", "hpu:2"]
    assert select("hpu:6,2") == ["hpu:6", "hpu:2"]
    with pytest.raises(HPUNotAvailableError) as caught:
        select("hpu:0-2")
    assert caught.value.available_devices == ("hpu:0", "hpu:2", "hpu:4", "hpu:6")
    with pytest.raises(HPUNotAvailableError, match="5 HPUs are not there; available: hpu:0, hpu:2, hpu:4, hpu:6"):
        select(5)


def test_holders(host):
    """Who has a node open, how it was started; files that only look like it do not count."""
    node = host.add_hpu(0, 3)
    other = host.add_hpu(1, 4)
    host.add_process(4711, "/dev/null", node)
    host.add_process(12, node, other, command=())
    host.add_process(99, other)
    host.add_process(100, "/dev/accel/accel_controlD0", "/home/dev/accel/accel0", "socket:[1]")
    host.add_process(101, "/dev/hl0")
    (host.root / "proc" / "self").mkdir()
    found = _machine.holders(node, host.root)
    assert [str(holder) for holder in found] == ["pid 12 (python, defunct)", "pid 4711 (python train.py)"]
    assert [holder.pid for holder in _machine.holders(None, host.root)] == [12, 99, 101, 4711]


def test_long_commands_are_cut(host):
    """And text that is not UTF-8 is no obstacle."""
    node = host.add_hpu(0)
    folder = host.add_process(5, node)
    (folder / "cmdline").write_bytes(b"python\0\xff" + b"x" * 10_000)
    (holder,) = _machine.holders(node, host.root)
    assert len(holder.command) == 200
    assert holder.command.startswith("python \ufffdxxx")
    assert holder.command.endswith("...")


def test_holders_of_this_machine():
    """A real process: this one has /dev/null open."""
    with open(os.devnull, "rb"):  # noqa: PTH123 (a file that is open)
        assert os.getpid() in [holder.pid for holder in _machine.holders(os.devnull)]
