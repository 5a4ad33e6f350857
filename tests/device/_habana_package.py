"""A package habana_frameworks in a folder: the bridge's public functions, with a device that is a file of the test.

What it does is what is public of the bridge: ``set_device`` writes ``HLS_MODULE_ID``, ``init`` acquires, memory has
ten numbers, ``mark_step`` of eager mode does nothing. ``STATE`` says what a test wants to happen.
"""

import contextlib
import os
import sys
import textwrap

HPU = """
import os
from habana_frameworks import STATE

KEYS = ("Limit", "InUse", "MaxInUse", "NumAllocs", "NumFrees", "ActiveAllocs", "MaxAllocSize",
        "TotalSystemAllocs", "TotalSystemFrees", "TotalActiveAllocs")

def is_initialized():
    return STATE["initialized"]

def init():
    STATE["calls"].append(("init", os.environ.get("HLS_MODULE_ID")))
    if not STATE["initialized"] and STATE["errors"]:
        raise STATE["errors"].pop(0)
    STATE["initialized"] = True
    STATE["on_init"]()

def set_device(index):
    visible = [int(n) for n in os.getenv("HABANA_VISIBLE_MODULES", "0,1,2,3,4,5,6,7").split(",")]
    STATE["calls"].append(("set_device", index))
    current = int(os.getenv("HLS_MODULE_ID", "-1"))
    if current >= 0:
        assert visible[index] == current, "another module is set"
    os.environ["HLS_MODULE_ID"] = str(visible[index])

def memory_stats(device=None):
    init()
    return dict(zip(KEYS, STATE["memory"]))

def reset_peak_memory_stats(device=None):
    STATE["calls"].append(("reset_peak_memory_stats",))

def synchronize():
    STATE["calls"].append(("synchronize",))
"""
CORE = """
from habana_frameworks import STATE

def mark_step(device_str="", sync=False):
    STATE["calls"].append(("mark_step",))
"""
INTERNAL = """
from habana_frameworks import STATE

def is_lazy():
    return STATE["lazy"]
"""
FIRST = (
    'STATE = {"initialized": False, "calls": [], "errors": [], "memory": (), "lazy": True, "on_init": lambda: None}\n'
)


def make(folder, first=FIRST):
    """Writes the package."""
    package = folder / "habana_frameworks"
    for path, text in {
        "__init__.py": first,
        "torch/__init__.py": "import habana_frameworks.torch.core, habana_frameworks.torch.hpu\n",
        "torch/hpu/__init__.py": HPU,
        "torch/core/__init__.py": CORE,
        "torch/utils/__init__.py": "",
        "torch/utils/internal.py": INTERNAL,
    }.items():
        place = package / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(textwrap.dedent(text), encoding="utf-8")


def forget():
    """As if it had never been imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "habana_frameworks"]:
        del sys.modules[name]


@contextlib.contextmanager
def installed(folder, monkeypatch):
    """Its ``STATE``; the package can be imported in the block, and neither HLML nor hl-smi can be used."""
    packages = folder / "packages"
    make(packages)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "pyhlml", None)
    monkeypatch.delenv("HLS_MODULE_ID", raising=False)
    monkeypatch.delenv("HABANA_VISIBLE_MODULES", raising=False)
    forget()
    import habana_frameworks  # noqa: PLC0415 (it is made here)

    try:
        yield habana_frameworks.STATE
    finally:
        forget()
        os.environ.pop("HLS_MODULE_ID", None)  # the bridge writes it
