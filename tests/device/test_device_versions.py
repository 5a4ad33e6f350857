"""Versions are read without the plugin, and what does not fit is found."""

import sys

import pytest
from _host_tree import Host

from gaudi3_rt import device
from gaudi3_rt.errors import HPUNotAvailableError
from gaudi3_rt.testing import SoftwareHPU

GAUDI_TORCH = ["2.4.0a0+git74cd574", "2.6.0+hpu_1.20.0-543.git4952fce", "2.7.1+hpu.1.22.2.32.git6dbe0a4"]
STOCK_TORCH = ["2.7.1", "2.7.1+cpu", "2.9.0+cu128"]


def find(**versions):
    """Severity and subject of each finding."""
    options = {name: versions.pop(name) for name in ("required_torch", "lazy") if name in versions}
    return [(finding.severity, finding.subject) for finding in device.mismatches(versions, **options)]


@pytest.mark.parametrize(
    ("driver", "plugin", "expected"),
    [
        ("1.22.1-97ec1a4", "1.22.1.6", []),
        ("1.16.1-7", "1.16.0.526", [("error", "plugin")]),
        ("1.16.1-7", "1.15.1.15", [("error", "plugin")]),
        ("1.22.1-97ec1a4", "1.22.0.740", [("warning", "plugin")]),
        ("1.22.1-97ec1a4", "1.9.1.0", [("error", "plugin")]),
        ("something", "1.22.0.740", []),
    ],
)
def test_driver_and_plugin(driver, plugin, expected):
    """The same release; a pair that users have seen fail is an error though it differs in the last number only."""
    assert find(driver=driver, plugin=plugin) == expected


def test_a_finding_can_be_acted_upon():
    """What was seen, what to do, and where it is known from."""
    (finding,) = device.mismatches({"driver": "1.16.1-7", "plugin": "1.16.0.526"})
    assert "habana-torch-plugin 1.16.0.526 does not have the driver's version, 1.16.1-7" in finding.message
    assert "known not to work" in finding.message
    assert "install habana-torch-plugin 1.16.1.*" in finding.advice
    assert finding.source == "containers/ai-lab-recipes#587"


@pytest.mark.parametrize("torch", GAUDI_TORCH)
def test_torch_for_gaudi(torch):
    """All forms that its version has had."""
    assert find(driver="1.22.1-9", plugin="1.22.1.6", torch=torch) == []


@pytest.mark.parametrize("torch", STOCK_TORCH)
def test_torch_that_pip_has_replaced(torch):
    """Never works in lazy mode; in eager mode the plugin takes it, so that is a warning. Without plugin it is right."""
    versions = {"driver": "1.22.1-9", "plugin": "1.22.1.6", "torch": torch}
    assert find(**versions) == find(**versions, lazy=True) == [("error", "torch")]
    assert find(**versions, lazy=False) == [("warning", "torch")]
    assert find(torch=torch) == []
    (finding,) = device.mismatches(versions)
    assert "pip may have replaced it" in finding.message
    assert "--no-deps" in finding.advice


def test_torch_that_the_plugin_was_not_compiled_for():
    """It refuses to be imported; patch releases do not matter."""
    versions = {"driver": "1.22.1-9", "plugin": "1.22.1.6", "torch": "2.9.0+git1"}
    (finding,) = device.mismatches(versions, required_torch="2.7.1")
    assert (finding.severity, finding.subject) == ("error", "torch")
    assert "torch is 2.9.0+git1, but the plugin was compiled for 2.7.1" in finding.message
    assert find(**{**versions, "torch": "2.7.0+git1"}, required_torch="2.7.1") == []


def test_a_plugin_without_a_driver():
    """As in a container that was started without devices."""
    assert find(plugin="1.22.1.6") == [("warning", "driver")]
    assert find(driver="1.22.1-9") == []


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution that has metadata and files, but cannot be imported."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def add(name, version, **files):
        info = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        package = tmp_path / "site" / "habana_frameworks" / "torch"
        package.mkdir(parents=True, exist_ok=True)
        (package.parent / "__init__.py").write_text("raise AssertionError('imported')\n")
        for file, text in files.items():
            (package / f"{file}.txt").write_text(text)

    return add


def test_of_a_machine(host, install):
    """Driver and firmware from the driver's files, the plugin from its metadata; it is not imported."""
    host.add_hpu(0, 0, fw_os_ver="hl-gaudi3-1.22.1-fw-60.1")
    host.set_driver("1.22.1-97ec1a4")
    install("habana-torch-plugin", "1.21.0.10", required_version="2.6.0\n")
    found = device.versions(root=host.root, environment={"PT_HPU_LAZY_MODE": "0"})
    assert (found.driver, found.firmware) == ("1.22.1-97ec1a4", "hl-gaudi3-1.22.1-fw-60.1")
    assert found.plugin == "1.21.0.10"
    assert found.python == sys.version.split()[0]
    assert not found.simulated
    assert "habana_frameworks" not in sys.modules
    subjects = [(finding.severity, finding.subject) for finding in found.findings]
    assert subjects[0] == ("error", "plugin")
    assert ("error", "torch") in subjects  # compiled for 2.6, and this torch is newer
    assert ("warning", "torch") in subjects  # and it is not Gaudi's


def test_the_driver_by_command(host, tmp_path, monkeypatch):
    """Where the driver's files do not have it; only if there is a device at all."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "hl-smi"
    command.write_text(f"#!{sys.executable} -S\nprint('module_id, driver_version')\nprint('0, 1.22.1-97ec1a4')\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert device.versions(root=host.root, environment={}).driver is None
    host.add_hpu(0, 0)
    assert device.versions(root=host.root, environment={}).driver == "1.22.1-97ec1a4"


def test_of_a_laptop(tmp_path):
    """Nothing of Gaudi, nothing wrong."""
    empty = tmp_path / "empty"
    empty.mkdir()
    found = device.versions(root=Host(empty).root, environment={})
    assert (found.driver, found.firmware, found.findings) == (None, None, ())
    assert found.torch
    assert found.gaudi3_rt


def test_of_a_software_hpu():
    """What it claims, marked as simulated; a mismatch can be played."""
    with SoftwareHPU(versions={"driver": "1.16.1-7", "plugin": "1.16.0.526"}):
        found = device.versions(simulated=True)
        assert not device.versions().simulated
    assert found.simulated
    assert (found.driver, found.plugin) == ("1.16.1-7", "1.16.0.526")
    assert [finding.subject for finding in found.findings] == ["plugin"]
    with pytest.raises(HPUNotAvailableError, match="no software HPU is open"):
        device.versions(simulated=True)
    with SoftwareHPU():
        assert device.versions(simulated=True).findings == ()
