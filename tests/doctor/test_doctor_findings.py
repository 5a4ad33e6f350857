"""Every finding of doctor, reached by a machine that has the fault; and none where there is no fault."""

import ast
import inspect
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from _threads import refuse

from gaudi3_rt import doctor, tpc
from gaudi3_rt.doctor import _build, _report
from gaudi3_rt.errors import NetworkError
from gaudi3_rt.testing import SoftwareHPU

MACHINE, CONFIGURATION = 1, 78


def examine(host, **options):
    """A report of the fake machine."""
    return doctor.examine(root=host.root, environment=host.environment, **options)


def compiled(host, monkeypatch):
    """As if the TPC kernels had been compiled and the operators built."""
    operators = host.file("libgaudi3_rt_hpu.so")
    monkeypatch.setattr(tpc, "has_compiled_kernels", lambda: True)
    monkeypatch.setattr(_build, "hpu_operators", lambda: operators)


def on_path(host):
    """GC_KERNEL_PATH names the kernels."""
    host.environment["GC_KERNEL_PATH"] = f"{tpc.kernel_library()}:/opt/libtpc_kernels.so"


def test_no_gaudi_is_no_fault(host):
    """A laptop: it says so, and all is well."""
    report = examine(host)
    assert report.findings == ()
    assert report.exit_status(strict=True) == 0
    facts = report.section("devices").facts
    assert (facts["verdict"], facts["runs_on"]) == ("no Gaudi: kernels run on the CPU", "cpu")
    assert [device["kind"] for device in facts["devices"]] == ["cpu"]


def test_a_gaudi_with_everything_right(host, monkeypatch):
    """No finding, not even a warning; versions and sensors are those of the machine; the plugin is not imported."""
    host.gaudi()
    compiled(host, monkeypatch)
    on_path(host)
    host.file("proc/4711/cmdline", "python\0train.py\0--api-key\0abc\0")
    (host.root / "proc/4711/fd").mkdir()
    (host.root / "proc/4711/fd/3").symlink_to("/dev/accel/accel1")
    report = examine(host)
    assert report.findings == ()
    assert report.section("versions").facts["driver"] == "1.22.1-9"
    assert report.section("versions").facts["plugin"] == "1.22.1.6"
    facts = report.section("devices").facts
    assert (facts["hpus"], facts["hpus_usable"], facts["runs_on"]) == (2, 2, "hpu")
    first, second, _ = facts["devices"]
    assert (first["name"], first["model"], first["memory_used_bytes"]) == ("hpu:0", "HL-325L", 672 << 20)
    assert (second["temperature_celsius"], second["utilization_ratio"], first["ecc_corrected"]) == (37, 0.05, 3)
    assert [holder["pid"] for holder in second["holders"]] == [4711]
    assert first["holders"] == ()
    assert set(report.section("build").facts["kernels"].values()) == {"cpu", "compiled"}
    assert "habana_frameworks" not in sys.modules


def _torch_replaced(host, _):
    host.hpus()
    host.hl_smi()
    host.install("habana-torch-plugin", "1.22.1.6")
    host.install("torch", "2.13.0+cpu")


def _driver_differs(host, _):
    host.gaudi()
    host.file("sys/module/habanalabs/version", "1.21.0-1\n")


def _hidden(host, _):
    host.gaudi()
    host.environment["HABANA_VISIBLE_MODULES"] = "7"


def _wrong_list(host, _):
    host.gaudi()
    host.environment["HLS_MODULE_ID"] = "first"


def _no_bridge(host, _):
    host.hpus()
    host.hl_smi()


def _no_sensors(host, _):
    host.gaudi()
    host.hl_smi("the driver is gone", status=1)


def _no_tools(host, _):
    host.gaudi()
    (host.root / "usr/lib/habanalabs/libhlml.so").unlink()
    (host.bin / "hl-smi").unlink()


def _bad_memory(host, _):
    host.gaudi()
    host.hl_smi(((host.bin / "table").read_text()).replace("226 W, 3, 0", "226 W, 3, 2"))


def _no_module(host, _):
    host.boards(8)


def _no_nodes(host, _):
    host.file("sys/module/habanalabs/version", "1.22.1-9")


def _some_nodes(host, _):
    host.gaudi()
    host.boards(8)


def _closed_nodes(host, monkeypatch):
    host.gaudi()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "accel" not in str(path) and access(path, mode))


def _no_huge_pages(host, _):
    host.gaudi()
    host.memory(total=64, available=32, huge_free=0)


def _unknown_variable(host, _):
    host.environment["PT_HPU_LAZY_MOD"] = "1"


def _wrong_variable(host, _):
    host.environment["PT_HPU_LAZY_MODE"] = "yes"


def _wrong_isa(host, _):
    host.environment["GAUDI3_RT_ISA"] = "neon"


def _not_compiled(host, _):
    host.gaudi()


def _no_operators(host, monkeypatch):
    host.gaudi()
    compiled(host, monkeypatch)
    _build.hpu_operators().unlink()


def _not_on_path(host, monkeypatch):
    host.gaudi()
    compiled(host, monkeypatch)
    host.environment["GC_KERNEL_PATH"] = "/opt/libtpc_kernels.so"


def _old_torch(host, _):
    host.install("torch", "2.5.1")


def _rather_old_torch(host, _):
    host.install("torch", "2.10.0a0+git979b46c")


def _odd_torch(host, _):
    host.install("torch", "unknown")


def _little_memory(host, _):
    host.memory(total=100, available=4)


def _small_shm(host, monkeypatch):
    statvfs = os.statvfs
    small = SimpleNamespace(f_blocks=1 << 14, f_frsize=1 << 12, f_bavail=1 << 14)
    monkeypatch.setattr(os, "statvfs", lambda path: small if path == host.root / "dev/shm" else statvfs(path))


def _own_misspelt(host, _):
    host.environment["GAUDI3_RT_LOG_LEVLE"] = "debug"


SCENARIOS = [
    (_own_misspelt, "environment", "warning", 0, "did you mean GAUDI3_RT_LOG_LEVEL?"),
    (_torch_replaced, "versions", "error", CONFIGURATION, "pip may have replaced it"),
    (_driver_differs, "versions", "error", CONFIGURATION, "does not have the driver's version, 1.21.0-1"),
    (_hidden, "devices", "error", CONFIGURATION, "the environment hides all 2 HPUs"),
    (_wrong_list, "devices", "error", CONFIGURATION, "HLS_MODULE_ID has 'first'"),
    (_no_bridge, "devices", "error", CONFIGURATION, "bridge is not installed"),
    (_no_sensors, "devices", "warning", 0, "the sensors of hpu:0 cannot be read"),
    (_no_tools, "drivers", "warning", 0, "neither HLML"),
    (_bad_memory, "devices", "error", MACHINE, "hpu:0 has had memory errors"),
    (_no_module, "drivers", "error", MACHINE, "8 Gaudi boards are on the PCI bus"),
    (_no_nodes, "drivers", "error", MACHINE, "there are no nodes"),
    (_some_nodes, "drivers", "warning", 0, "fewer HPUs"),
    (_closed_nodes, "drivers", "error", MACHINE, "may not read and write /dev/accel/accel0, /dev/accel/accel1"),
    (_no_huge_pages, "drivers", "warning", 0, "no huge pages are free"),
    (_unknown_variable, "environment", "warning", 0, "PT_HPU_LAZY_MOD is not a variable"),
    (_wrong_variable, "environment", "error", CONFIGURATION, "PT_HPU_LAZY_MODE is 'yes'"),
    (_wrong_isa, "build", "error", CONFIGURATION, "GAUDI3_RT_ISA names a build that cannot run here"),
    (_not_compiled, "build", "warning", 0, "its TPC kernels were not compiled"),
    (_no_operators, "build", "warning", 0, "its operators were not built"),
    (_not_on_path, "build", "warning", 0, "GC_KERNEL_PATH does not name"),
    (_old_torch, "security", "error", CONFIGURATION, "CVE-2025-32434"),
    (_rather_old_torch, "security", "warning", 0, "CVE-2026-24747"),
    (_odd_torch, "security", "warning", 0, "cannot be told from its version"),
    (_little_memory, "memory", "warning", 0, "nearly all in use"),
    (_small_shm, "memory", "warning", 0, "shm is small"),
]


@pytest.mark.parametrize(
    ("fault", "section", "severity", "status", "what"), SCENARIOS, ids=lambda value: str(value)[:20]
)
def test_each_fault_is_found(host, monkeypatch, fault, section, severity, status, what):
    """In its section, with advice and a source, and with the exit status that tells a scheduler what to do."""
    fault(host, monkeypatch)
    report = examine(host)
    (found,) = [finding for finding in report.section(section).findings if what in finding.what]
    assert found.severity == severity
    assert found.todo
    assert found.source
    assert report.exit_status() == status
    assert report.exit_status(strict=True) > 0


def test_replaced_torch_comes_with_the_command_that_mends_it(host):
    """The installer of the driver's release."""
    _torch_replaced(host, None)
    (finding,) = examine(host).section("versions").findings
    assert finding.seen == "2.13.0+cpu"
    assert "/1.22.1/habanalabs-installer.sh && bash habanalabs-installer.sh install --type pytorch" in finding.todo
    assert "optimum-habana#2366" in finding.source


@pytest.mark.parametrize(
    ("status", "severity", "what"),
    [
        ({"f_bavail": 4}, "warning", "nearly full"),
        ({"f_bavail": 0}, "error", "is full"),
        ({"f_favail": 0}, "error", "is full"),
        ({"f_files": 0, "f_favail": 0}, None, ""),
    ],
)
def test_disk(host, monkeypatch, tmp_path, status, severity, what):
    """Bytes and inodes; a file system without a fixed number of inodes is not full."""
    whole = {"f_blocks": 100, "f_frsize": 4096, "f_bavail": 50, "f_files": 100, "f_favail": 50, **status}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**whole))
    section = examine(host, checkpoint_dir=tmp_path).section("disk")
    assert section.facts["free_bytes"] == whole["f_bavail"] * 4096
    assert [(finding.severity, what in finding.what) for finding in section.findings] == (
        [(severity, True)] if severity else []
    )


def test_disk_that_is_not_there_or_closed(host, monkeypatch, tmp_path):
    """A folder that is missing, a file, and a folder that cannot be written to."""
    (tmp_path / "file").touch()
    for name, what in (("none", "is not there"), ("file", "is not a folder")):
        report = examine(host, checkpoint_dir=tmp_path / name)
        (finding,) = report.findings
        assert what in finding.what
        assert report.exit_status() == CONFIGURATION
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    (finding,) = examine(host, checkpoint_dir=tmp_path).findings
    assert "may not write" in finding.what


def test_memory_limit_is_that_of_the_cgroup(host):
    """The least of the machine's and the cgroup's."""
    assert examine(host).section("memory").facts["limit_bytes"] <= 64 << 30
    host.limit(1 << 30)
    assert examine(host).section("memory").facts["limit_bytes"] == 1 << 30


def test_a_software_hpu_is_labelled(host):
    """Only while one is open; wherever its figures appear."""
    with SoftwareHPU(count=2, script="step 1: ECC", versions={"plugin": "1.16.0.526", "driver": "1.16.1-7"}) as hpu:
        hpu.advance()
        report = examine(host)
    assert report.simulated
    assert [device["simulated"] for device in report.section("devices").facts["devices"]] == [True, True, False]
    assert report.section("devices").facts["runs_on"] == "cpu"
    assert report.section("versions").facts["driver"] is None
    assert report.section("versions").facts["simulated"]["driver"] == "1.16.1-7"
    assert report.findings
    assert all("simulated" in finding.what for finding in report.findings)
    assert not examine(host).simulated


@pytest.mark.parametrize(
    ("error", "what"),
    [(OSError("no such thing"), "the disk could not be examined"), (NetworkError("it is far away"), "it is far away")],
)
def test_a_probe_that_fails_is_a_finding(host, monkeypatch, error, what):
    """Not a traceback; the others are examined."""

    def fail(_):
        raise error

    monkeypatch.setitem(doctor._examine._PROBES, "disk", fail)
    report = examine(host)
    (finding,) = report.findings
    assert finding.what == what
    assert report.section("disk").facts == {}
    assert report.section("memory").facts
    assert report.exit_status() == MACHINE


def test_a_machine_without_threads(host, monkeypatch):
    """What cannot be examined is a finding, too; the others are examined."""
    refuse(monkeypatch, "gaudi3_rt doctor disk")
    report = examine(host)
    (finding,) = report.findings
    assert (finding.what, finding.seen) == ("the disk could not be examined", "RuntimeError: can't start new thread")
    assert report.section("memory").facts


def test_a_probe_that_hangs_is_a_finding(host, monkeypatch):
    """It is left behind after the timeout; the others are examined."""
    import threading  # noqa: PLC0415 (for this one)

    release, ended = threading.Event(), threading.Event()

    def hang(_):
        release.wait(60)
        ended.set()

    probes = {"disk": hang, "memory": doctor._examine._PROBES["memory"]}
    monkeypatch.setattr(doctor._examine, "_PROBES", probes)
    run = doctor._examine._run
    monkeypatch.setattr(  # nobody else has to be quick
        doctor._examine, "_run", lambda name, probe, *given: run(name, probe, given[0], 0.05 if probe is hang else 60)
    )
    report = examine(host)
    assert not ended.is_set()
    release.set()
    assert ended.wait(60)
    assert "did not answer within 0.05 s" in report.section("disk").findings[0].what
    assert report.section("memory").facts


def test_every_place_that_makes_a_finding_is_reached(host, monkeypatch, tmp_path_factory):
    """By the scenarios of this file: no advice that nobody has ever seen."""
    places = set()
    folder = Path(inspect.getfile(doctor)).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                places.add((path.name, node.lineno, node.end_lineno))
    reached = set()
    make = _report.Finding.__init__

    def spy(self, **fields):
        frame = sys._getframe(1)
        reached.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        make(self, **fields)

    monkeypatch.setattr(_report.Finding, "__init__", spy)
    from _fake_host import FakeHost  # noqa: PLC0415 (one for each scenario)

    for fault, *_ in SCENARIOS:
        with pytest.MonkeyPatch.context() as patch:
            one = FakeHost(tmp_path_factory.mktemp("host"), patch)
            fault(one, patch)
            examine(one)
    for tried in (
        test_disk_that_is_not_there_or_closed,
        lambda host, patch, folder: test_disk(host, patch, folder, {"f_bavail": 0}, "error", "is full"),
        lambda host, patch, _: test_a_probe_that_fails_is_a_finding(
            host, patch, OSError("x"), "the disk could not be examined"
        ),
        lambda host, patch, _: test_a_probe_that_fails_is_a_finding(host, patch, NetworkError("y"), "y"),
        lambda host, patch, _: test_a_probe_that_hangs_is_a_finding(host, patch),
    ):
        with pytest.MonkeyPatch.context() as patch:
            tried(host, patch, tmp_path_factory.mktemp("disk"))
    missed = {
        place
        for place in places
        if not any(place[0] == name and place[1] <= line <= place[2] for name, line in reached)
    }
    assert missed == set()
