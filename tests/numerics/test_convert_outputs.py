"""Files of a conversion appear together or not at all; folders that take none and sources that change are told."""

import contextlib
import errno
import json
import os
import resource
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from _convert_layouts import moments, saved_by
from click.testing import CliRunner

from gaudi3_rt import errors
from gaudi3_rt.cli._app import app
from gaudi3_rt.numerics.convert import Options, _files, convert_file

THREE = Options(optimizer="AdamW", shards=3, steps=1)
NAMES = [f"out-0000{n}-of-00003.pt" for n in range(3)]


@pytest.fixture
def saved(tmp_path):
    """A small state of apex."""
    path = tmp_path / "in.pt"
    torch.save(saved_by("apex", moments(((6, 50), (7,))), 12), path)
    return path


@pytest.fixture
def old(tmp_path):
    """Files that are at the places of three ranks."""
    for name in NAMES:
        (tmp_path / name).write_bytes(b"old")
    return tmp_path


def found(folder):
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def run(*arguments):
    """The command, in this process."""
    return CliRunner().invoke(app, ["convert-state", *map(str, arguments)], prog_name="gaudi3-rt")


# All or nothing


def test_old_and_new_files_are_never_together(saved, old, monkeypatch):
    """Wherever a process or machine stops: an incomplete set shows by its names, a mixture would not."""
    seen = []

    def watched(step):
        def look(*arguments, **options):
            result = step(*arguments, **options)
            seen.append([(old / name).read_bytes() == b"old" for name in NAMES if (old / name).exists()])
            return result

        return look

    for name in ("replace", "rename", "link", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    convert_file(saved, old / "out.pt", THREE, overwrite=True)
    assert [] in seen  # all of the old are moved aside before the first of the new comes
    assert [False] * 3 in seen
    assert all(len(set(kinds)) <= 1 for kinds in seen)
    assert found(old) == ["in.pt", *NAMES]


@pytest.mark.parametrize("raised", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_what_fails_half_way_is_undone(saved, old, monkeypatch, raised):
    """All old files are back."""
    link = os.link

    def failing(source, target, **options):
        if str(target).endswith(NAMES[1]):
            raise raised
        link(source, target, **options)

    monkeypatch.setattr(os, "link", failing)
    expected = errors.CheckpointError if isinstance(raised, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        convert_file(saved, old / "out.pt", THREE, overwrite=True)
    assert found(old) == ["in.pt", *NAMES]
    assert all((old / name).read_bytes() == b"old" for name in NAMES)


@pytest.mark.parametrize("options", [Options(optimizer="AdamW", steps=1), THREE])
@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(saved, tmp_path, monkeypatch, options, links):
    """Also on a file system that has no links."""
    name = "out.pt" if options.shards is None else NAMES[2]
    complete = _files.publish

    def late(*arguments, **rest):
        (tmp_path / name).write_bytes(b"of another")
        complete(*arguments, **rest)

    def no_link(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(_files, "publish", late)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(errors.ParameterValidationError, match=rf"{name} exists"):
        convert_file(saved, tmp_path / "out.pt", options)
    assert found(tmp_path) == ["in.pt", name]
    assert (tmp_path / name).read_bytes() == b"of another"


def test_files_without_links(saved, tmp_path, monkeypatch):
    """Some file systems have none; files get there all the same."""

    def no_link(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    convert_file(saved, tmp_path / "out.pt", THREE)
    assert found(tmp_path) == ["in.pt", *NAMES]


# Sources


@pytest.mark.parametrize("kept", [(0, 1), (1, 2), (0, 2), (1, 0, 2), (0, 0, 1)])
def test_ranks_that_are_missing_or_in_another_order(saved, tmp_path, kept):
    """Their names say it, and their states do not."""
    convert_file(saved, tmp_path / "out.pt", THREE)
    result = run(*(tmp_path / NAMES[n] for n in kept), tmp_path / "whole.pt", "--to", "torch")
    assert result.exit_code == 1
    assert "are not the files of all ranks, each once and in order" in result.stderr
    assert not (tmp_path / "whole.pt").exists()
    assert run(*(tmp_path / name for name in NAMES), tmp_path / "whole.pt", "--to", "torch").exit_code == 0
    assert run(tmp_path / NAMES[1], tmp_path / "alone.pt", "--to", "apex").exit_code == 0


@pytest.mark.parametrize("change", ["written to", "replaced", "removed"])
def test_a_source_that_changes_is_refused(saved, tmp_path, monkeypatch, change):
    """What was read before may be of one checkpoint and what was read after of another."""
    complete = _files.beside

    @contextlib.contextmanager
    def late(*arguments):
        with complete(*arguments) as path:
            if change == "written to":
                with saved.open("r+b") as file:
                    file.write(b"P")
            elif change == "replaced":
                (tmp_path / "other").write_bytes(saved.read_bytes())
                (tmp_path / "other").replace(saved)
            else:
                saved.unlink()
            yield path

    monkeypatch.setattr(_files, "beside", late)
    with pytest.raises(errors.CheckpointError, match=r"in\.pt was written to or replaced .*nothing was written"):
        convert_file(saved, tmp_path / "out.pt", Options(steps=1))
    assert found(tmp_path) == ([] if change == "removed" else ["in.pt"])


def test_safetensors_are_told(saved, tmp_path):
    """As the state, and as the model, whose order it has not."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    for arguments in ((path,), (saved, "--params", path)):
        result = run(*arguments, tmp_path / "out.pt", "--to", "torch")
        assert result.exit_code == 1
        assert "is a file of safetensors" in result.stderr
        assert "torch.save" in result.stderr
    assert found(tmp_path) == ["in.pt", "model.safetensors"]


# Folders


@contextlib.contextmanager
def unprivileged():
    """As a user to whom permissions apply."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_a_folder_that_cannot_be_written_to(saved):
    """Status 1, the folder and why."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.pt").write_bytes(saved.read_bytes())
        (folder / "in.pt").chmod(0o444)
        folder.chmod(0o555)
        with unprivileged():
            result = run(folder / "in.pt", folder / "out.pt", "--to", "torch")
        folder.chmod(0o700)
        assert result.exit_code == 1, result.output
        assert f"{folder} cannot be written to: [Errno 13] Permission denied" in result.stderr
        assert "nothing was replaced" in result.stderr
        assert found(folder) == ["in.pt"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_disk_that_is_full_is_told(tmp_path, dtype):
    """By a limit of the process, which ends writes as a full disk does: of the scratch file, and of the target."""
    torch.save(saved_by("apex", moments(((300, 100),)), 12), tmp_path / "in.pt")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        result = run(
            tmp_path / "in.pt", tmp_path / "out.pt", "--to", "torch", "--moments-dtype", dtype, "--allow-lossy"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1, result.output
    assert "takes no file as large as this" in result.stderr
    assert "File too large; nothing was replaced" in result.stderr
    assert found(tmp_path) == ["in.pt"]


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_to_the_source_is_no_target(saved, tmp_path, link):
    """Of the command: wrong usage, and the source has its bytes."""
    before = saved.read_bytes()
    getattr(tmp_path / "link.pt", link)(saved)
    for pair in ((saved, tmp_path / "link.pt"), (tmp_path / "link.pt", saved)):
        result = run(*pair, "--to", "torch", "--overwrite")
        assert result.exit_code == 2
        assert "is the source, which is never written to" in result.stderr
    assert saved.read_bytes() == before
