"""Entries in files: rotation, several processes, forked children, disks that are full."""

import json
import logging
import os
import subprocess
import sys

import pytest
from _lines import Lines, logged

from gaudi3_rt import log
from gaudi3_rt.errors import InvalidConfigurationError

own = logging.getLogger("gaudi3_rt.test")


def test_rotation(tmp_path):
    """By length; so many old files are kept, and every line is whole."""
    path = tmp_path / "train.log"
    with logged(file=path, max_bytes=2000, backup_count=2):
        for i in range(60):
            own.info("entry %d", i)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.log", "train.log.1", "train.log.2"]
    kept = [
        json.loads(line)["event"]
        for p in ("train.log.2", "train.log.1", "train.log")
        for line in (tmp_path / p).read_text().splitlines()
    ]
    assert kept == [f"entry {i}" for i in range(60 - len(kept), 60)]
    assert all(p.stat().st_size < 2500 for p in tmp_path.iterdir())


HOLDER = """
import sys
from gaudi3_rt import log
from gaudi3_rt.errors import InvalidConfigurationError
try:
    log.configure_logging("json", file=sys.argv[1])
except InvalidConfigurationError as error:
    print(error)
"""


def test_two_processes_never_rotate_one_file(tmp_path):
    """The second is told so; after the first has closed it may."""

    def other():
        done = subprocess.run(  # noqa: S603 (our own code)
            [sys.executable, "-c", HOLDER, str(path)], capture_output=True, text=True, check=True
        )
        return done.stdout

    path = tmp_path / "train.log"
    with logged(file=path), logged(file=path):
        assert "is written by another process" in other()
        with pytest.raises(InvalidConfigurationError):
            log.configure_logging(level="loud", file=path)
    assert other() == ""


def test_an_entry_that_comes_as_the_log_ends(tmp_path):
    """Its thread has the handler already: the file is not opened again, which would keep it from the next log."""
    path = tmp_path / "train.log"
    with logged(file=path):
        (sink,) = [one for one in own.parent.handlers if getattr(one, "baseFilename", "") == str(path)]
    sink.handle(own.makeRecord(own.name, logging.INFO, __file__, 1, "late", (), None))
    assert sink.stream is None
    assert path.read_text() == ""


def test_a_forked_child_appends_and_does_not_rotate(tmp_path):
    """And follows its parent's rotation."""
    path = tmp_path / "train.log"
    with logged(file=path, max_bytes=600, backup_count=9) as lines:
        own.info("parent")
        to_child, from_parent = os.pipe()
        to_parent, from_child = os.pipe()
        child = os.fork()
        if child == 0:
            for i in range(8):
                own.info("child %d", i)
            os.write(from_child, b"x")
            os.read(to_child, 1)
            own.info("child after rotation")
            os._exit(0)
        os.read(to_parent, 1)
        own.info("rotates")
        os.write(from_parent, b"x")
        assert os.waitpid(child, 0)[1] == 0
        for descriptor in (to_child, from_parent, to_parent, from_child):
            os.close(descriptor)
        assert len(lines.entries) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.log", "train.log.1"]
    assert [json.loads(x)["event"] for x in path.read_text().splitlines()] == ["rotates", "child after rotation"]


def test_a_full_disk(capsys):
    """The device that is always full: losses are counted, also when the file is closed."""
    with log.configure_logging("json", "info", "/dev/full", stream=Lines(), max_bytes=0) as handle:
        own.info("lost")
        own.info("lost")
        assert handle.failed == 2
    assert "log file /dev/full takes no entries" in capsys.readouterr().err


def test_a_file_that_cannot_be_opened(tmp_path):
    """Nothing has changed then."""
    with logged() as lines:
        with pytest.raises(IsADirectoryError):
            log.configure_logging("json", file=tmp_path)
        own.info("still")
    assert lines.entry["event"] == "still"
