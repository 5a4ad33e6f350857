"""Garbage in the environment, in versions, in files and in hl-smi's table: a report, no crash, no secret."""

import json

import pytest
from _fake_host import HEADER, TABLE, FakeHost
from hypothesis import given, settings
from hypothesis import strategies as st

from gaudi3_rt import device, doctor

NAMES = st.one_of(
    st.sampled_from(sorted(device.VARIABLES)),
    st.sampled_from(["GAUDI3_RT_ISA", "GC_KERNEL_PATH", "HLS_MODULE_ID", "HABANA_VISIBLE_MODULES"]),
    st.from_regex(r"(PT_HPU_|HABANA_|GAUDI3_RT_)?[A-Z0-9_]{1,30}", fullmatch=True),
)
TEXTS = st.text(max_size=80)
SECRETS = st.from_regex(r"[a-zA-Z0-9]{24}", fullmatch=True).map(lambda text: f"planted{text}")


@pytest.fixture(scope="module")
def gaudi(tmp_path_factory):
    """A machine with HPUs, for all examples."""
    with pytest.MonkeyPatch.context() as patch:
        host = FakeHost(tmp_path_factory.mktemp("gaudi"), patch)
        host.gaudi()
        yield host


def report_of(host, environment):
    """What comes out for programs."""
    report = doctor.examine(root=host.root, environment=environment)
    assert all(section.facts for section in report.sections if section.name != "devices")
    return json.dumps(report.to_dict(), allow_nan=False)


@given(environment=st.dictionaries(NAMES, TEXTS, max_size=8))
def test_any_environment(gaudi, environment):
    """Also values that variables of the drivers cannot have."""
    report_of(gaudi, {**gaudi.environment, **environment})


@given(
    names=st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), min_size=1, max_size=4),
    secret=SECRETS,
    prefix=st.sampled_from(["PT_HPU_", "PT_HABANA_", "GAUDI3_RT_X_", "HF_TOKEN_", "AWS_SECRET_", ""]),
)
def test_no_secret_of_the_environment_is_shown(gaudi, names, secret, prefix):
    """Whatever its variable is called, if it is none whose values doctor is for."""
    planted = {prefix + name: secret for name in names if prefix + name not in device.VARIABLES}
    assert secret not in report_of(gaudi, {**gaudi.environment, **planted})


@settings(max_examples=25)
@given(version=st.one_of(TEXTS, st.from_regex(r"[0-9]{1,400}(\.[0-9]{0,9}){0,4}[a-z+.-]{0,5}", fullmatch=True)))
def test_any_version(gaudi, version):
    """Of the driver, in its file; of torch, in its metadata."""
    gaudi.file("sys/module/habanalabs/version", version.replace("\x00", ""))
    (metadata,) = gaudi.packages.glob("torch-*/METADATA")
    line = " ".join(version.split()).encode("utf-8", "replace").decode()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {line}\n", encoding="utf-8")
    report_of(gaudi, gaudi.environment)


CELLS = st.one_of(
    st.sampled_from(["0", "N/A", "131072 MiB", "-3", "1e999", "9" * 400, '"', "nan", "36 C"]), st.text(max_size=9)
)


@settings(max_examples=25)
@given(
    table=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(CELLS, max_size=12), max_size=4).map(
            lambda rows: "\n".join([HEADER, *(", ".join(row) for row in rows)]).encode("utf-8", "replace")
        ),
    ),
    status=st.sampled_from([0, 0, 1]),
)
def test_any_output_of_hl_smi(gaudi, table, status):
    """What is not in the table is not known; nothing else happens."""
    gaudi.hl_smi(table, status)
    try:
        report_of(gaudi, gaudi.environment)
    finally:
        gaudi.hl_smi(TABLE)


@settings(max_examples=25)
@given(text=st.binary(max_size=200), path=st.sampled_from(["proc/meminfo", "sys/class/accel/accel0/device/module_id"]))
def test_any_file_of_the_kernel(gaudi, text, path):
    """Files that have been cut, or are not text."""
    before = (gaudi.root / path).read_bytes()
    (gaudi.root / path).write_bytes(text)
    try:
        report_of(gaudi, gaudi.environment)
    finally:
        (gaudi.root / path).write_bytes(before)
