"""gaudi3-rt doctor and gaudi3-rt devices, on this machine and with a software HPU."""

import io
import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gaudi3_rt import device, doctor
from gaudi3_rt.cli._app import app
from gaudi3_rt.cli._devices import device_table
from gaudi3_rt.cli._output import amount, console, plain, show
from gaudi3_rt.testing import SoftwareHPU


def run(*arguments):
    """Exit status, standard output, standard error."""
    result = CliRunner().invoke(app, arguments, prog_name="gaudi3-rt")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_doctor_on_this_machine():
    """Ends with 0; every section is shown, and the last line is the verdict."""
    status, text, _ = run("doctor")
    assert status == 0, text
    for section in doctor.SECTIONS:
        assert f"\n{section}\n" in f"\n{text}"
    assert ", adagrad, adam, " in text
    assert "hardware" not in text
    assert "not asked for (--checkpoint-dir)" in text
    assert text.splitlines()[-1].startswith(("all is well", "1 warning", "2 warnings"))


def test_doctor_json_is_all_of_standard_output(tmp_path):
    """The report as it is."""
    status, text, _ = run("doctor", "--json", "--checkpoint-dir", str(tmp_path))
    fields = json.loads(text)
    assert status == 0
    assert fields["version"] == doctor.FORMAT_VERSION
    assert fields["sections"]["disk"]["facts"]["path"] == str(tmp_path)


def test_doctor_shows_findings_last_with_what_to_do(monkeypatch):
    """And ends with 78 for a variable that is wrong."""
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "yes")
    monkeypatch.setenv("PT_HPU_LAZY_MOD", "1")
    status, text, _ = run("doctor")
    assert status == 78
    assert "error in environment: PT_HPU_LAZY_MODE is 'yes'; it has to be one of 0, 1\n" in text
    assert "  do      set it to one of 0, 1, or unset it (1: lazy mode, 0: eager mode and torch.compile)\n" in text
    assert "warning in environment: PT_HPU_LAZY_MOD is not a variable" in text
    assert text.splitlines()[-1] == "1 error and 1 warning (no Gaudi: kernels run on the CPU)"


def test_doctor_strict(monkeypatch):
    """A warning decides then."""
    monkeypatch.setenv("PT_HPU_LAZY_MOD", "1")
    assert run("doctor")[0] == 0
    assert run("doctor", "--strict")[0] == 78


def test_doctor_writes_though_a_probe_has_taken_standard_output(monkeypatch):
    """As a library does that hangs while it catches messages."""

    def take(_):
        sys.stdout = io.StringIO()  # CliRunner puts back what was there
        return doctor.Section(name="drivers", facts={"x": 1})

    monkeypatch.setitem(doctor._examine._PROBES, "drivers", take)
    assert json.loads(run("doctor", "--json")[1])["sections"]["drivers"]["facts"] == {"x": 1}
    text = run("doctor")[1]
    assert text.startswith("versions\n")
    assert "(no Gaudi: kernels run on the CPU)" in text.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--timeout", "0"), ("--timeout", "x"), ("extra",)])
def test_doctor_usage(arguments):
    """Wrong usage is 2."""
    assert run("doctor", *arguments)[0] == 2


def test_devices_of_this_machine():
    """At least the CPU; a dash for what it does not have."""
    status, text, _ = run("devices")
    assert status == 0
    assert text.splitlines()[0].split() == [
        "device",
        "memory",
        "used",
        "total",
        "temp",
        "power",
        "util",
        "ECC",
        "holders",
    ]
    (cpu,) = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    assert cpu[-5:] == ["-"] * 5


def test_devices_that_are_simulated_say_so():
    """In their rows and in the JSON."""
    with SoftwareHPU(count=4, memory="128 GiB", script="step 1: ECC on rank 2") as hpu:
        hpu.advance()
        status, text, _ = run("devices", "simulated:0,2-3")
        _, listed, _ = run("devices", "--json", "simulated:2")
    assert status == 0
    rows = text.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [[f"simulated:{n}", "(simulated)"] for n in (0, 2, 3)]
    assert all(" 128.00 GiB " in row and " °C " in row and " W " in row for row in rows)
    assert [row.split()[-2] for row in rows] == ["0/0", "0/1", "0/0"]
    fields = json.loads(listed)
    assert fields["version"] == 1
    (one,) = fields["devices"]
    assert (one["name"], one["simulated"], one["ecc_uncorrected"]) == ("simulated:2", True, 1)


@pytest.mark.parametrize(
    ("spec", "status", "said"),
    [
        ("hpu:0,2-3", 1, "error 2001: device 'hpu:0,2,3' is not there; available: no hpu device"),
        ("hpu:3-2", 2, "the range '3-2' runs backwards"),
        ("gpu", 2, "it names no kind of device; allowed: 'auto', 'cpu'"),
        ("simulated", 1, "gaudi3_rt.testing.SoftwareHPU"),
    ],
)
def test_devices_says_why_a_specification_fails(spec, status, said):
    """What was asked for, what there is, what is allowed; on standard error."""
    found, out, text = run("devices", spec)
    assert (found, out) == (status, "")
    assert said in text


def test_holders_of_a_device_are_listed(capsys):
    """One below the other."""
    (cpu,) = device.devices("cpu")
    one = replace(doctor.status_of(cpu), holders=(doctor._devices.Holder(pid=7, command="python a.py"),) * 2)
    fields = {**vars(one), "holders": [vars(holder) for holder in one.holders]}
    show(console(), device_table([fields]))
    assert capsys.readouterr().out.count("7 python a.py") == 2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 10, "1.00 KiB"),
        (672 << 20, "672.00 MiB"),
        ((1 << 30) - 1, "1.00 GiB"),
        (1 << 62, "4096.00 PiB"),
    ],
)
def test_amounts(size, text):
    """Binary units."""
    assert amount(size) == text


def test_plain_values():
    """As a person reads them; simulated versions are named."""
    assert plain("x", None) == plain("x", []) == plain("x", "") == "-"
    assert plain("x", True) == "yes"
    assert plain("free_bytes", 1 << 30) == "1.00 GiB"
    assert plain("memlock_bytes", "unlimited") == "unlimited"
    assert (
        plain("nodes", [{"path": "/dev/a", "usable": False}, {"path": "/dev/b"}])
        == "path /dev/a, usable no\npath /dev/b"
    )
