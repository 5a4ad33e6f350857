"""What the tests of ``deploy/monitoring`` share: its files, the programs that read them, and names in PromQL."""

import re
import shutil
import subprocess

import pytest
import yaml
from _problems import ROOT

from gaudi3_rt.metrics import CATALOGUE

MONITORING = ROOT / "deploy" / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}

EXPOSED = {
    f"{metric.name}{suffix}"
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
}
"""Names of all series that a training can have."""


def load(path):
    """A YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def need(*programs):
    """Skips, with the name of Debian's package, where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: {PACKAGES[program]})")


def run(*command, cwd=MONITORING):
    """Standard output of a program that has to succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 (programs of the test)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules():
    """All rules of all files."""
    return [rule for path in RULE_FILES for group in load(path)["groups"] for rule in group["rules"]]


def alerts():
    """All alerts."""
    return [rule for rule in rules() if "alert" in rule]


def recorded():
    """Names of all series that rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def series_names(expression):
    """Names of ours in a PromQL expression."""
    return set(re.findall(r"\bgaudi3_rt[_:][A-Za-z0-9_:]+", expression))
