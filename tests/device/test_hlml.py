"""Telemetry through the real pyhlml and a library in C that says what a test wants."""

import functools
import importlib
import shutil
import subprocess
import threading
import warnings
from pathlib import Path

import pytest
from _threads import child_succeeds

from gaudi3_rt import device, events
from gaudi3_rt.device import _hlml
from gaudi3_rt.device._sources import SourceError
from gaudi3_rt.testing import capture_events

GIB, MIB = 2**30, 2**20
SOURCE = Path(__file__).with_name("hlml_stand_in.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The stand-in, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("hlml") / "libhlml.so"
    flags = ["-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(path)], check=True)  # noqa: S603 (our own file)
    return path


@pytest.fixture
def pyhlml(monkeypatch, tmp_path):
    """The real package, as it is where there is no driver."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("pyhlml")
    monkeypatch.setenv("PATH", str(tmp_path))  # no hl-smi
    return importlib.import_module("pyhlml.main")


@pytest.fixture
def state(pyhlml, library, monkeypatch, tmp_path):
    """What the library's functions are to return, as a file; pyhlml loads the stand-in from another path."""
    path = tmp_path / "state"
    path.touch()
    monkeypatch.setenv("G3RT_HLML_STATE", str(path))
    monkeypatch.setattr(pyhlml, "LibHLML", functools.partial(pyhlml.LibHLML, str(library)))
    yield path
    if pyhlml._hlmlOBJ is not None:
        pyhlml._hlmlOBJ.lib.hlml_shutdown()


@pytest.fixture
def hlml(state):
    """HLML as the provider uses it."""
    assert state.exists()
    source = _hlml.Hlml()
    yield source
    source.close()


@pytest.fixture
def hpus(host, state):
    """The two HPUs of the machine, modules 2 and 6."""
    assert state.exists()
    host.add_hpu(0, 6)
    host.add_hpu(1, 2)
    found = device.devices("hpu", root=host.root, environment={})
    yield found
    for one in found:
        one.close()


def calls(state):
    """Of hlml_init and hlml_shutdown."""
    log = state.with_name("state.log")
    return log.read_text().split() if log.exists() else []


def test_properties(hpus):
    """Of the right board: index and module are not the same. Bytes become text, padding goes."""
    assert [one.properties() for one in hpus] == [
        device.DeviceProperties(
            name="HL-325L",
            kind="hpu",
            index=module,
            total_memory=128 * GIB,
            driver_version="1.22.1-97ec1a4",
            firmware_version="hl-1.22.1-fw-60.1",
            serial=serial,
            uuid=f"01P4-{serial}",
            bus_id=bus,
        )
        for module, serial, bus in ((2, "B", "0000:b3:00.0"), (6, "A", "0000:33:00.0"))
    ]


def test_telemetry(hpus):
    """Milliwatts, millijoules, megahertz and percent become base units; counts are since the driver was loaded."""
    assert [one.telemetry() for one in hpus] == [
        device.Telemetry(
            temperature_celsius=36.0,
            power_watts=850.5,
            utilization_ratio=0.75,
            memory_used_bytes=1344 * MIB,
            memory_total_bytes=128 * GIB,
            ecc_corrected=100,
            ecc_uncorrected=110,
            energy_joules=5000000000.5,
            clock_hertz=1.6e9,
        ),
        device.Telemetry(
            temperature_celsius=36.0,
            power_watts=226.0,
            utilization_ratio=0.0,
            memory_used_bytes=672 * MIB,
            memory_total_bytes=128 * GIB,
            ecc_corrected=0,
            ecc_uncorrected=0,
            energy_joules=5000000000.5,
            clock_hertz=4.5e8,
        ),
    ]


@pytest.mark.parametrize("code", [2, 3, 21])
@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("hlml_device_get_temperature", {"temperature_celsius"}),
        ("hlml_device_get_power_usage", {"power_watts"}),
        ("hlml_device_get_utilization_rates", {"utilization_ratio"}),
        ("hlml_device_get_memory_info", {"memory_used_bytes", "memory_total_bytes"}),
        ("hlml_device_get_total_ecc_errors", {"ecc_corrected", "ecc_uncorrected"}),
        ("hlml_device_get_total_energy_consumption", {"energy_joules"}),
        ("hlml_device_get_clock_info", {"clock_hertz"}),
    ],
)
def test_a_sensor_that_is_not_there(hlml, state, function, fields, code):
    """Only what it measures is None, and the status, which the library does not tell."""
    state.write_text(f"{function} {code}\n")
    reading = hlml.telemetry(2)
    assert {name for name, value in vars(reading).items() if value is None} == fields | {"status"}


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "driver not loaded"), (10, "timeout"), (15, "the device is lost"), (49, "unknown"), (77, "not documented")],
)
def test_failures_are_not_silent(hpus, state, code, words):
    """Everything is None, with the code and its meaning in one event."""
    state.write_text(f"hlml_device_get_power_usage {code}\n")
    with capture_events(events.TelemetryUnavailable) as captured:
        assert hpus[0].telemetry() == device.Telemetry()
        assert hpus[0].telemetry() == device.Telemetry()
        state.write_text("")
        assert hpus[0].telemetry().power_watts == 850.5
        state.write_text(f"hlml_device_get_power_usage {code}\n")
        hpus[0].telemetry()
    assert len(captured) == 2
    assert f"hlmlDeviceGetPowerUsage failed with HLML's code {code}, {words}" in captured[0].reason


def test_initialized_once_and_shut_down(hpus, state):
    """Many readings, one hlml_init; closing twice shuts down once."""
    for _ in range(3):
        hpus[0].telemetry()
        hpus[0].properties()
    assert calls(state) == ["hlml_init"]
    hpus[0].close()
    hpus[0].close()
    assert calls(state) == ["hlml_init", "hlml_shutdown"]


def test_somebody_else_shuts_it_down(hlml, state, pyhlml):
    """As torch.hpu.utilization does after its reading."""
    assert hlml.telemetry(2).power_watts == 850.5
    pyhlml.hlmlShutdown()
    assert hlml.telemetry(2).power_watts == 850.5
    assert calls(state) == ["hlml_init", "hlml_shutdown", "hlml_init"]


def test_a_module_that_hlml_does_not_show(hlml):
    """Named with those that it shows."""
    with pytest.raises(SourceError, match=r"HLML shows modules \[2, 6\], not 5"):
        hlml.telemetry(5)


def test_no_module_numbers(hlml, state):
    """Then they are numbered by index."""
    state.write_text("hlml_device_get_module_id 3\n")
    assert [board.module for board in hlml.boards()] == [0, 1]


def test_init_fails(hlml, state):
    """The driver is not loaded."""
    state.write_text("hlml_init 9\n")
    with pytest.raises(SourceError, match="hlmlInit failed with HLML's code 9, driver not loaded"):
        hlml.telemetry(2)


def test_no_library(pyhlml, capsys, tmp_path, monkeypatch):
    """What pyhlml prints does not reach standard output, where data goes."""
    missing = functools.partial(pyhlml.LibHLML, str(tmp_path / "libhlml.so"))
    monkeypatch.setattr(pyhlml, "LibHLML", missing)
    with pytest.raises(SourceError, match=r"code 1, uninitialized \(Failed to load libhlml\)"):
        _hlml.Hlml().boards()
    assert capsys.readouterr().out == ""


def test_standard_output_of_others_is_left_alone(hlml, pyhlml, capsys, monkeypatch):
    """While HLML is initialized, which a driver may take for ever for, other threads print."""
    init = pyhlml.hlmlInit

    def slow_init():
        print("step 12 done")  # noqa: T201 (as a training does)
        init()

    monkeypatch.setattr(importlib.import_module("pyhlml"), "hlmlInit", slow_init)
    assert hlml.telemetry(2).power_watts == 850.5
    assert capsys.readouterr().out == "step 12 done\n"


def test_closing_does_not_wait_for_a_reading_that_hangs(hpus, monkeypatch, caplog):
    """Inside of the driver, in another thread: the end of the run is not kept from coming. It is closed later."""
    (one, _), begun, goes_on = hpus, threading.Event(), threading.Event()
    monkeypatch.setattr(_hlml, "LAST", 0.001)
    source = one._sensors._sources[0]

    def hang(*_):
        begun.set()
        goes_on.wait()

    with monkeypatch.context() as patch:
        patch.setattr(source, "_try", hang)
        reader = threading.Thread(target=one.telemetry)
        reader.start()
        begun.wait()
        one.close()
        assert "HLML has not answered for 0.001 s; it is not shut down" in caplog.text
        goes_on.set()
        reader.join()
    assert source._pyhlml is not None
    one.close()
    assert source._pyhlml is None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_is_forked_during_a_reading(hpus):
    """Can close what it does not use."""
    source = hpus[0]._sensors._sources[0]
    assert child_succeeds(lambda: source.close() is None and source._lock.acquire(blocking=False), source._lock)


def test_filters_of_warnings_are_not_mixed_up(hlml, monkeypatch):
    """Sensors are read in threads, and somebody else's catch_warnings() may begin during the import and end later."""
    other, load = warnings.catch_warnings(), importlib.import_module

    def import_module(name):
        other.__enter__()
        return load(name)

    with monkeypatch.context() as patch:
        patch.setattr(_hlml.importlib, "import_module", import_module)
        hlml.boards()
    other.__exit__(None, None, None)
    with pytest.raises(DeprecationWarning):
        warnings.warn("of somebody else", DeprecationWarning, stacklevel=1)
