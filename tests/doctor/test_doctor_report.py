"""What a report promises to programs: keys, statuses, and that making one changes and imports nothing."""

import json
import subprocess
import sys
from itertools import product

import jsonschema
import pytest
from _fake_host import FakeHost

from gaudi3_rt import _core, doctor, tpc
from gaudi3_rt.doctor._versions import installer
from gaudi3_rt.errors import ParameterValidationError

KEYS = {
    "versions": "python torch gaudi3_rt numpy plugin pyhlml driver firmware",
    "devices": "runs_on verdict hpus hpus_usable devices",
    "drivers": "kernel_module driver_version pci_devices nodes libhlml hl_smi hugepages_total hugepages_free "
    "hugepage_bytes memlock_bytes",
    "environment": "variables own_variables",
    "build": "compiler isa isas kernels reductions codecs tpc_compiler tpc_library tpc_library_compiled "
    "tpc_library_on_path hpu_operators hpu_operators_loaded",
    "security": "torch checked open",
    "disk": "path exists writable total_bytes free_bytes free_inodes total_inodes",
    "memory": "total_bytes available_bytes limit_bytes shm_total_bytes shm_free_bytes",
}
DEVICE = (
    "name kind model memory_used_bytes memory_total_bytes temperature_celsius power_watts utilization_ratio "
    "ecc_corrected ecc_uncorrected serial bus_id holders simulated"
)


def exactly(keys, **properties):
    """A JSON object with these keys and no others."""
    names = keys.split()
    return {
        "type": "object",
        "required": names,
        "additionalProperties": False,
        "properties": {name: properties.get(name, {}) for name in names},
    }


FINDING = exactly(
    "severity what seen allowed todo source configuration",
    severity={"enum": ["error", "warning"]},
    what={"type": "string", "minLength": 1},
    todo={"type": "string", "minLength": 1},
    source={"type": "string", "minLength": 1},
    configuration={"type": "boolean"},
)
SCHEMA = exactly(
    "version status simulated errors warnings sections",
    version={"const": 1},
    status={"enum": ["ok", "warning", "error"]},
    simulated={"type": "boolean"},
    sections=exactly(
        " ".join(KEYS),
        **{
            name: exactly(
                "facts findings",
                facts=exactly(keys, devices={"type": "array", "items": exactly(DEVICE)}),
                findings={"type": "array", "items": FINDING},
            )
            for name, keys in KEYS.items()
        },
    ),
)


@pytest.mark.parametrize("has_gaudi", [False, True])
def test_json_has_the_same_keys_everywhere(host, has_gaudi):
    """With a Gaudi and without; a change of this schema takes a new version."""
    if has_gaudi:
        host.gaudi()
    report = doctor.examine(root=host.root, environment=host.environment, checkpoint_dir=host.root)
    fields = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    jsonschema.validate(fields, SCHEMA)
    assert tuple(fields["sections"]) == doctor.SECTIONS


def test_every_kernel_has_a_status(host, monkeypatch):
    """Those of the CPU and those of the TPC; these are compiled or not, and nothing has run on hardware."""
    for is_compiled, on_tpc in ((False, "emulated"), (True, "compiled")):
        monkeypatch.setattr(tpc, "has_compiled_kernels", lambda: is_compiled)  # noqa: B023 (called in this turn)
        facts = doctor.examine(root=host.root, environment=host.environment).section("build").facts
        status = facts["kernels"]
        assert set(status.values()) == {"cpu", on_tpc}
        assert set(status) >= set(_core.kernels())
        on = [name for name, stage in status.items() if stage == on_tpc]
        for kernel in _core.tpc_kernels():  # a part of a step, as lamb_ratio_f32, stands under the step's name
            assert any(kernel["name"] == name or kernel["name"].startswith(f"{name}_") for name in on), kernel["name"]


def finding(severity, configuration):
    """One finding."""
    return doctor.Finding(severity=severity, what="x", todo="y", source="z", configuration=configuration)


def test_exit_status():
    """0, 1 or 78 for every pair of findings: configuration decides, and warnings count only if asked to."""
    kinds = [None, *product(("error", "warning"), (False, True))]
    for first, second in product(kinds, kinds):
        found = tuple(finding(*kind) for kind in (first, second) if kind)
        report = doctor.Report(sections=(doctor.Section(name="devices", findings=found),))
        for strict in (False, True):
            counted = [one for one in found if strict or one.severity == "error"]
            expected = 0 if not counted else 78 if any(one.configuration for one in counted) else 1
            assert report.exit_status(strict=strict) == expected


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeout_has_to_be_a_time(timeout):
    """Positive and finite."""
    with pytest.raises(ParameterValidationError, match="timeout"):
        doctor.examine(timeout=timeout)


def test_a_section_that_is_not_there():
    """Is a KeyError."""
    with pytest.raises(KeyError, match="nothing"):
        doctor.Report(sections=()).section("nothing")


def test_installer_for_this_python():
    """Its release is the driver's, else the plugin's, else the latest."""
    assert "/1.22.1/" in installer({"driver": "1.22.1-9", "plugin": "1.21.0.1"})
    assert "/1.21.0/" in installer({"driver": None, "plugin": "1.21.0.1"})
    assert "/latest/" in installer({"driver": "odd; rm -rf /", "plugin": None})
    assert installer({}, in_venv=True).endswith(" --venv")
    assert installer({}, in_venv=False).endswith(" pytorch")


def test_examining_imports_no_plugin_and_changes_nothing(tmp_path, monkeypatch):
    """On a machine with a plugin that fails when it is imported: modules, variables, working directory."""
    host = FakeHost(tmp_path, monkeypatch)
    host.gaudi()
    code = f"""
import os, sys
sys.path.insert(0, {str(host.packages)!r})
import gaudi3_rt
before = dict(os.environ), os.getcwd(), sys.stdout
from gaudi3_rt import doctor
report = doctor.examine(root={str(host.root)!r})
assert (dict(os.environ), os.getcwd(), sys.stdout) == before
assert not [name for name in sys.modules if name.startswith("habana")]
assert report.section("versions").facts["plugin"] == "1.22.1.6"
"""
    run = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
