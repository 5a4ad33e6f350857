"""The emulator's headers, parsed once for all kernels of a run: that takes longer than the rest of a compilation.

GCC takes a precompiled header only where options and macros are those that it was made with, and where no macro of the
kernel has a name that occurs in it. Elsewhere it reads the text. A test that changes a header takes CPATH out of the
environment.
"""

import contextlib
import fcntl
import os
import shutil

import pytest
from _problems import run_tool

from gaudi3_rt.tpc import _compile


@contextlib.contextmanager
def precompiled(home):
    """Compilers find them in here; processes with this home share them, and the last one removes them (160 MB)."""
    folder = home / "precompiled"
    with (home / "precompiled.users").open("w") as users, pytest.MonkeyPatch.context() as patch:
        with _alone(home):
            if not folder.exists():
                _precompile(folder / "tpc.h.gch")
            fcntl.flock(users, fcntl.LOCK_SH)
        # Searched before the folder that has the header itself, which -isystem names.
        patch.setenv("CPATH", str(folder), prepend=os.pathsep)
        yield
        with _alone(home), contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(home):
    """Nobody makes or removes them meanwhile; using them, which others do for minutes, is another lock."""
    with (home / "precompiled.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _precompile(folder):
    """For gaudi3, with the emulator's checks and without; a compiler that cannot do it leaves nothing behind."""
    folder.mkdir(parents=True)
    compiler = _compile.find_compiler()
    for name, flags in {
        "checked": (*_compile._CHECKING_FLAGS, *_compile._fill_flags(compiler, 0.0)),
        "fast": _compile._FAST_FLAGS,
    }.items():
        command = _compile._command("gaudi3", {}, [], flags)
        run_tool(*command, *_compile._LINK_FLAGS, "-xc++-header", _compile.HEADERS / "tpc.h", "-o", folder / name)
