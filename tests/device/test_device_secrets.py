"""Secrets in the command lines of holders, in variables and in specifications: none in anything that comes out."""

import dataclasses
import io
import json

import _habana_package
import pytest
from _secret_corpus import SECRETS

from gaudi3_rt import device, doctor, log
from gaudi3_rt.errors import Gaudi3RTError, HPUNotAvailableError
from gaudi3_rt.testing import FakeClock, capture_events

BUSY = "synStatus=20 [Device already acquired] Device acquire failed."


@pytest.fixture
def bridge(tmp_path, monkeypatch):
    """A stand-in of Habana's bridge whose device somebody else has."""
    with _habana_package.installed(tmp_path, monkeypatch) as state:
        state["errors"] = [RuntimeError(BUSY)] * 9
        yield


@pytest.mark.usefixtures("bridge")
def test_command_lines_of_holders(host):
    """As one argument, and as a name and its value: events, log, error, status of the device."""
    node = host.add_hpu(0, 0)
    for pid, (text, _) in enumerate(SECRETS, 1000):
        host.add_process(pid, node, command=("python", "train.py", *text.split(" ")))
    written = io.StringIO()
    with (
        log.configure_logging("json", "debug", stream=written),
        capture_events() as captured,
        pytest.raises(HPUNotAvailableError) as caught,
        device.acquire("hpu:0", root=host.root, clock=FakeClock(), attempts=2),
    ):
        pytest.fail("somebody else has it")
    (one,) = device.devices("hpu:0", root=host.root)
    status = dataclasses.asdict(doctor.status_of(one, host.root))
    said = [written.getvalue(), *map(str, captured), str(caught.value), json.dumps([caught.value.context, status])]
    assert all("pid 1000" in text or '"pid": 1000' in text for text in said)
    for text, secret in SECRETS:
        assert not any(secret in one for one in said), text


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_values_that_are_refused(text, secret, host):
    """Of variables and of specifications, also where the text is cut."""
    host.add_hpu(0, 0)
    environment = {"HLS_MODULE_ID": text, "LOG_LEVEL_ALL": "x" * 50 + " " + text, "PT_HPU_UNKNOWN": text}
    said = [str(device.check_environment(environment))]
    for call in (
        lambda: device.devices(text),
        lambda: device.devices(f"hpu:{text}"),
        lambda: device.devices("hpu", root=host.root, environment=environment),
    ):
        with pytest.raises(Gaudi3RTError) as caught:
            call()
        said.append(str(caught.value))
    assert not any(secret in one for one in said), said
