"""Telemetry through the command hl-smi: a table that can have any form, and a command that can fail in any way."""

import subprocess
import sys

import pytest
from _threads import child_succeeds
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import device
from gaudi3_rt.device import _hl_smi
from gaudi3_rt.device._sources import SourceError
from gaudi3_rt.testing import FakeClock

MIB = 2**20
HEADER = (
    "module_id, index, name, serial, uuid, bus_id, driver_version, temperature.aip [C], utilization.aip [%], "
    "memory.total [MiB], memory.used [MiB], power.draw [W], ecc.errors.corrected.volatile.total, "
    "ecc.errors.uncorrected.volatile.total, clocks.current.soc [MHz]"
)
TABLE = f"""\
{HEADER}
3, 0, HL-325L, AN1, 01P4-A, 0000:33:00.0, 1.22.1-97ec1a4, 36 C, 0 %, 131072 MiB, 672 MiB, 226 W, 4, 1, 1600 MHz
1, 1, HL-325L, AN2, 01P4-B, 0000:b3:00.0, 1.22.1-97ec1a4, N/A, N/A, 131072 MiB, N/A, N/A, N/A, N/A, N/A
"""


@pytest.fixture
def hl_smi(tmp_path, monkeypatch):
    """Puts a command on the path that runs some Python; the returned folder has what it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "pyhlml", None)

    def install(code):
        command = folder / "hl-smi"
        command.write_text(f"#!{sys.executable} -S\nimport sys, time\n{code}\n")
        command.chmod(0o755)
        return folder

    yield install
    for process in _hl_smi._left_behind:  # on a slow machine also those that can be killed
        process.kill()
        process.wait()
    _hl_smi._left_behind.clear()


def test_table(hl_smi, host):
    """Where HLML cannot be used; by number of module, with N/A as None."""
    folder = hl_smi(f"open({str(host.root / 'called')!r}, 'w').write(' '.join(sys.argv[1:]))\nprint({TABLE!r})")
    assert folder.is_dir()
    host.add_hpu(0, 3)
    host.add_hpu(1, 1)
    second, first = device.devices("hpu", root=host.root, environment={})
    assert first.telemetry() == device.Telemetry(
        temperature_celsius=36.0,
        power_watts=226.0,
        utilization_ratio=0.0,
        memory_used_bytes=672 * MIB,
        memory_total_bytes=131072 * MIB,
        ecc_corrected=4,
        ecc_uncorrected=1,
        clock_hertz=1.6e9,
    )
    assert second.telemetry() == device.Telemetry(memory_total_bytes=131072 * MIB)
    properties = second.properties()
    assert (properties.name, properties.serial, properties.uuid) == ("HL-325L", "AN2", "01P4-B")
    assert (properties.bus_id, properties.driver_version) == ("0000:b3:00.0", "1.22.1-97ec1a4")
    called = (host.root / "called").read_text()
    assert called.startswith("-Q module_id,index,name,")
    assert called.endswith(" -f csv")


@pytest.mark.parametrize("status", [0, 1])
def test_one_run_serves_all_devices(hl_smi, host, monkeypatch, status):
    """A machine of eight is read at once, and one whose driver hangs is waited for once; later it is run again."""
    calls = host.root / "calls"
    hl_smi(f"open({str(calls)!r}, 'a').write('x')\nprint({TABLE!r})\nsys.exit({status})")
    clock = FakeClock()
    monkeypatch.setattr(_hl_smi.HlSmi.__init__, "__defaults__", (clock,))
    for number in (1, 3):
        host.add_hpu(number, number)
    there = device.devices("hpu", root=host.root, environment={})
    for expected in ("x", "xx"):
        for one in there:
            assert (one.properties().serial is None) == (status == 1)
            assert (one.telemetry().memory_total_bytes is None) == (status == 1)
        assert calls.read_text() == expected
        clock.advance(_hl_smi.FRESH * 2)


@pytest.mark.parametrize(
    "table",
    [
        "power.draw [W], module_id, memory.used [MiB]\n226, 3, 672\n",
        "memory.used,power.draw,module_id\n672 MiB,226000 mW,3\n",
        "a banner of the tool\n\nindex, memory.used [KiB], new.field [K], power.draw [W]\n3, 688128 KiB, 1 K, 226 W\n",
        "MODULE_ID, Memory.Used [MiB], power.draw [W], name\n3, 672 MiB, 226.0 W\n",
    ],
)
def test_forms(table):
    """Any order, units in the header or at the value, other columns, short lines."""
    row = _hl_smi.parse_table(table)[3]
    assert row.number("power.draw") == 226
    assert row.whole("memory.used") == 672 * MIB
    assert row.text("name") is None


@pytest.mark.parametrize(
    "value", ["", "N/A", "[Not Supported]", "-1 W", "1e9 W", "12 furlongs", "\u0663 W", "W", "9" * 400]
)
def test_values_that_cannot_be_read(value):
    """Are None, never a guess."""
    assert _hl_smi.parse_table(f"module_id, power.draw\n0, {value}\n")[0].number("power.draw") is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit('Driver is not loaded\\nmore')", "failed with status 1: Driver is not loaded"),
        ("sys.exit(3)", "failed with status 3: it said nothing"),
        ("print('nothing')", "printed no table with module_id or index"),
        ("print('module_id, name')", r"shows modules \[\], not 0"),
        ("sys.stdout.buffer.write(bytes(range(256)))", "printed no table"),
        ("print('module_id\\n' + 'x' * 200_000)", "printed no table: field larger than field limit"),
    ],
)
def test_failures(hl_smi, code, words):
    """One line that says what happened."""
    hl_smi(code)
    with pytest.raises(SourceError, match=words):
        _hl_smi.HlSmi().telemetry(0)


def test_a_command_that_hangs(hl_smi, monkeypatch):
    """It is ended."""
    hl_smi("time.sleep(600)")
    monkeypatch.setattr(_hl_smi, "TIMEOUT", 0.2)
    with pytest.raises(SourceError, match=r"hl-smi did not answer within 0\.2 s"):
        _hl_smi.HlSmi().boards()


def test_a_command_that_cannot_be_killed(hl_smi, monkeypatch):
    """As one that waits inside a driver that hangs: it is not waited for, and no second one is started beside it."""
    hl_smi("time.sleep(600)")
    monkeypatch.setattr(_hl_smi, "TIMEOUT", 0.1)
    clock = FakeClock()
    source = _hl_smi.HlSmi(clock)
    with monkeypatch.context() as unkillable:
        unkillable.setattr(subprocess.Popen, "kill", lambda _: None)
        unkillable.setattr(_hl_smi, "LAST", 0.01)
        with pytest.raises(SourceError, match="did not answer within"):
            source.boards()
        clock.advance(_hl_smi.FRESH * 2)
        for one in (source, _hl_smi.HlSmi()):
            with pytest.raises(SourceError, match=r"hl-smi \(pid [0-9]+\) has not answered, and has not ended"):
                one.boards()
        (hanging,) = _hl_smi._left_behind
        assert hanging.poll() is None
    hanging.kill()
    hanging.wait()
    clock.advance(_hl_smi.FRESH * 2)
    with pytest.raises(SourceError, match="did not answer within"):
        source.boards()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_is_forked_while_the_command_runs(hl_smi):
    """Runs its own."""
    hl_smi(f"print({TABLE!r})")
    source = _hl_smi.HlSmi()
    assert child_succeeds(source.boards, source._lock)


def test_no_command(hl_smi):
    """And one that cannot be run."""
    with pytest.raises(SourceError, match="not on the path"):
        _hl_smi.HlSmi().boards()
    folder = hl_smi("")
    (folder / "hl-smi").write_text("#!/does/not/exist\n")
    with pytest.raises(SourceError, match="cannot be run"):
        _hl_smi.HlSmi().boards()


@given(st.text() | st.text("module_id,x []\n0123456789MiBW%C ./N-", max_size=200))
def test_any_text(text):
    """Is a table or a SourceError, and numbers are numbers."""
    try:
        rows = _hl_smi.parse_table(text)
    except SourceError:
        return
    for module, row in rows.items():
        assert module >= 0
        for field in _hl_smi.FIELDS:
            number = row.number(field)
            assert number is None or number >= 0
