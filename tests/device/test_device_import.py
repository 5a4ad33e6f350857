"""Importing the service: nothing of Habana's is imported, nothing is acquired, nothing is started or written."""

import json
import subprocess
import sys

PROBE = """
import importlib.abc, json, os, sys, threading

class Refuse(importlib.abc.MetaPathFinder):
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"habana_frameworks", "pyhlml"}:
            self.asked.append(name)
            raise AssertionError(name)

sys.meta_path.insert(0, Refuse())
import torch
before = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task"))
import gaudi3_rt, gaudi3_rt.device, gaudi3_rt.testing
from gaudi3_rt import device
device.devices("cpu")[0].memory_stats()
device.check_environment()
device.versions(root="/nothing/is/here")
device.devices("auto", root="/nothing/is/here", environment={})
after = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task"))
print(json.dumps({"same": [x == y for x, y in zip(before, after)], "asked": Refuse.asked}))
"""


def test_nothing_of_habana_is_imported():
    """Not by the import, and not by what works without an HPU."""
    run = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"same": [True, True, True], "asked": []}
