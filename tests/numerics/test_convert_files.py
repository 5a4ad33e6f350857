"""Files are mapped, never executed, and replaced whole or not at all; the command says what was done."""

import collections
import json
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch
from _convert_layouts import assert_same, moments, saved_by, torch_state
from click.testing import CliRunner

from gaudi3_rt import errors
from gaudi3_rt.cli._app import app
from gaudi3_rt.numerics.convert import Options, _files, _outputs, _zero, convert_file
from gaudi3_rt.numerics.convert._loading import load

SHAPES = ((64, 100), (7,))


EPS = 1e-12  # so small that it does not matter where a formula has it


def state():
    """A small one of hpex."""
    saved = saved_by("hpex", moments(SHAPES), 12)
    saved["param_groups"][0]["eps"] = EPS
    return saved


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a training."""
    path = tmp_path / "in.pt"
    torch.save({"model": {"w": torch.ones(3)}, "optimizer": state(), "epoch": 4}, path)
    return path


def run(*arguments):
    """The command, in this process."""
    return CliRunner().invoke(app, ["convert-state", *map(str, arguments)], prog_name="gaudi3-rt")


def test_the_rest_of_a_checkpoint_is_kept(saved, tmp_path):
    """Model and epoch are where they were, and the file of the source has its bytes."""
    before = saved.read_bytes()
    (written,), certificate = convert_file(saved, tmp_path / "out.pt", Options(target="torch"))
    converted = torch.load(written, weights_only=True)
    assert converted.keys() == {"model", "optimizer", "epoch"}
    assert converted["epoch"] == 4
    assert_same(converted["model"], {"w": torch.ones(3)})
    assert_same(converted["optimizer"], torch_state(moments(SHAPES), [12, 12], eps=EPS))
    assert "the state was found at optimizer" in certificate.notes
    assert saved.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt", "out.pt"]
    assert zipfile.ZipFile(written).testzip() is None


class Bomb:
    """Executes a command where it is loaded the careless way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # noqa: D105 (Python's own)
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_executes_nothing(tmp_path, zipped):
    """Neither in the format of today nor in that before torch 1.6; it is said what it wanted."""
    document = {"optimizer": {**state(), "beside": Bomb(tmp_path / "exploded")}}
    torch.save(document, tmp_path / "in.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(errors.DataValidationError, match=r"is refused: .*mkdir.*nothing of it was executed"):
        convert_file(tmp_path / "in.pt", tmp_path / "out.pt", Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt"]
    torch.load(tmp_path / "in.pt", weights_only=False)
    assert (tmp_path / "exploded").is_dir()


def test_a_plain_pickle_executes_nothing(tmp_path):
    """It is no file of torch.save at all."""
    (tmp_path / "in.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises((errors.DataValidationError, errors.CheckpointCorruptError)):
        convert_file(tmp_path / "in.pt", tmp_path / "out.pt", Options())
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99, 0.999])
def test_a_cut_file_is_refused(saved, tmp_path, part):
    """Wherever it ends."""
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(errors.CheckpointCorruptError, match=r"in\.pt cannot be read"):
        convert_file(saved, tmp_path / "out.pt", Options())
    assert not (tmp_path / "out.pt").exists()


def test_objects_of_deepspeed_are_inert(tmp_path, monkeypatch):
    """Files of ZeRO have objects of classes that need not be here, and are never made."""
    name = "deepspeed.runtime.fp16.loss_scaler"
    module = types.ModuleType(name)

    class LossScaler:
        def __init__(self):
            self.cur_scale = 3.0

    LossScaler.__module__, LossScaler.__qualname__ = name, "LossScaler"
    module.LossScaler = LossScaler
    with monkeypatch.context() as patch:
        for parent in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, name, module)
        torch.save({"loss_scaler": LossScaler(), "optimizer": state()}, tmp_path / "in.pt")
    assert name not in sys.modules
    found = load(tmp_path / "in.pt")
    assert isinstance(found["loss_scaler"], _zero.Inert)
    assert found["loss_scaler"].cur_scale == 3.0
    assert_same(found["optimizer"], state())


# The target


def test_the_source_is_never_written_to(saved, tmp_path):
    """By whatever name."""
    (tmp_path / "soft.pt").symlink_to(saved)
    (tmp_path / "hard.pt").hardlink_to(saved)
    before = saved.read_bytes()
    for name in ("in.pt", "soft.pt", "hard.pt", "../" + tmp_path.name + "/in.pt"):
        with pytest.raises(errors.ParameterValidationError, match="is the source"):
            convert_file(saved, tmp_path / name, Options(), overwrite=True)
    assert saved.read_bytes() == before


def test_a_link_stays_a_link(saved, tmp_path):
    """What it points to is replaced, and only with consent."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "real.pt").write_bytes(b"old")
    (tmp_path / "link.pt").symlink_to(folder / "real.pt")
    with pytest.raises(errors.ParameterValidationError, match="exists"):
        convert_file(saved, tmp_path / "link.pt", Options())
    assert (folder / "real.pt").read_bytes() == b"old"
    convert_file(saved, tmp_path / "link.pt", Options(), overwrite=True)
    assert (tmp_path / "link.pt").is_symlink()
    assert torch.load(folder / "real.pt", weights_only=True)["epoch"] == 4


def test_a_failed_write_leaves_what_was_there(saved, tmp_path, monkeypatch):
    """No half a file, nothing left behind."""
    (tmp_path / "out.pt").write_bytes(b"old")

    def full(_, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_outputs.torch, "save", full)
    with pytest.raises(errors.InsufficientStorageError, match=r"is full.*nothing was replaced"):
        convert_file(saved, tmp_path / "out.pt", Options(), overwrite=True)
    assert (tmp_path / "out.pt").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt", "out.pt"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), errors.InsufficientStorageError),
        (OSError(5, "Input/output error"), errors.CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_ends_a_write_is_what_is_raised(saved, tmp_path, monkeypatch, raised, expected):
    """And not that torch could not close its archive after that."""
    opened = os.fdopen

    def failing(*arguments):
        file = opened(*arguments)
        write = file.write

        class Failing:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                if file.tell() > 10_000:
                    raise raised
                return write(data)

        return Failing()

    monkeypatch.setattr(_outputs.os, "fdopen", failing)
    with pytest.raises(expected):
        convert_file(saved, tmp_path / "out.pt", Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt"]


def test_space_is_checked_before(saved, tmp_path, monkeypatch):
    """With both numbers."""
    usage = collections.namedtuple("usage", "total used free")(10, 10, 1000)  # noqa: PYI024 (as shutil's)
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(errors.InsufficientStorageError, match="has 1,000 bytes free; 1,0"):
        convert_file(saved, tmp_path / "out.pt", Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt"]


def test_permissions_are_those_of_new_files(saved, tmp_path):
    """As for any other file of this user."""
    (tmp_path / "plain").touch()
    (written,), _ = convert_file(saved, tmp_path / "out.pt", Options())
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_in_the_file(tmp_path):
    """Two optimizers are two answers; none is one that says what there is."""
    path = tmp_path / "in.pt"
    torch.save({"optimizer_states": [state(), saved_by("apex", moments(SHAPES), 12)], "epoch": 1}, path)
    with pytest.raises(errors.DataValidationError, match=r"at optimizer_states\.0, optimizer_states\.1"):
        convert_file(path, tmp_path / "out.pt", Options())
    convert_file(path, tmp_path / "out.pt", Options(), key="optimizer_states.1")
    converted = torch.load(tmp_path / "out.pt", weights_only=True)["optimizer_states"]
    assert_same(converted[0], state())
    assert_same(converted[1]["state"], torch_state(moments(SHAPES), [12, 12])["state"])
    with pytest.raises(errors.DataValidationError, match="no 'optimizer'; it has the keys optimizer_states, epoch"):
        convert_file(path, tmp_path / "none.pt", Options(), key="optimizer")
    torch.save({"epoch": 1}, path)
    with pytest.raises(errors.DataValidationError, match=r"no state of an optimizer.*it has the keys epoch"):
        convert_file(path, tmp_path / "none.pt", Options())
    with pytest.raises(errors.CheckpointNotFoundError, match="a folder"):
        convert_file(tmp_path, tmp_path / "none.pt", Options())


# The command


def test_the_command_prints_the_certificate(saved, tmp_path):
    """And exits with 0."""
    result = run(saved, tmp_path / "out.pt", "--to", "torch")
    assert result.exit_code == 0, result.output
    assert "hpex adds" not in result.stdout
    for text in ("eps is added to the root", "difference, ulp", f"written          {tmp_path}/out.pt", "12"):
        assert text in result.stdout
    assert not result.stderr
    fields = json.loads(run(saved, tmp_path / "2.pt", "--to", "deepspeed", "--json").stdout)
    assert fields["written"] == [str(tmp_path / "2.pt")]
    assert fields["target"] == "deepspeed"


def test_the_command_cuts_and_joins(saved, tmp_path):
    """Files of ranks are named by their number."""
    result = run(saved, tmp_path / "r.pt", "--to", "torch", "--shards", "3")
    assert result.exit_code == 0, result.output
    parts = [tmp_path / f"r-0000{n}-of-00003.pt" for n in range(3)]
    result = run(*parts, tmp_path / "one.pt", "--to", "hpex")
    assert result.exit_code == 0, result.output
    assert_same(torch.load(tmp_path / "one.pt", weights_only=True), state())


def test_the_command_needs_consent_for_losses(saved, tmp_path):
    """Exit status 1 without, 0 with it."""
    arguments = (saved, tmp_path / "out.pt", "--to", "torch", "--moments-dtype", "bfloat16")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "--allow-lossy" in result.stderr
    assert not result.stdout
    assert not (tmp_path / "out.pt").exists()
    assert run(*arguments, "--allow-lossy").exit_code == 0
    assert run(saved, saved, "--to", "torch").exit_code == 2


def test_the_command_needs_consent_for_other_updates(tmp_path):
    """Nothing is lost, but gradients are as small as eps, which the two formulas have at two places."""
    small = [tuple(scale * one for scale, one in zip((1e-9, 1e-18), pair, strict=True)) for pair in moments(SHAPES)]
    torch.save(saved_by("hpex", small, 12), tmp_path / "in.pt")
    arguments = (tmp_path / "in.pt", tmp_path / "out.pt", "--to", "torch")
    result = run(*arguments)
    assert result.exit_code == 1
    for text in ("updates are apart by", "eps is added to the root", "nothing was converted", "--allow-lossy"):
        assert text in " ".join(result.stderr.split())
    assert not result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]
    result = run(*arguments, "--allow-lossy")
    assert result.exit_code == 0, result.output
    assert "not the same" in result.stdout
    assert_same(torch.load(tmp_path / "out.pt", weights_only=True), torch_state(small, [12, 12]))


def test_the_command_takes_names_of_a_model(tmp_path):
    """By order from the state, by name from then on."""
    torch.save(state(), tmp_path / "in.pt")
    torch.save({"model": {"w": torch.ones(64, 100), "b": torch.ones(7)}}, tmp_path / "model.pt")
    result = run(tmp_path / "in.pt", tmp_path / "out.pt", "--to", "torch", "--params", tmp_path / "model.pt")
    assert result.exit_code == 0, result.output
    converted = torch.load(tmp_path / "out.pt", weights_only=True)
    assert converted["param_groups"][0]["param_names"] == ["w", "b"]


def test_help_has_examples():
    """In lines of their own."""
    lines = [line.strip() for line in run("--help").stdout.splitlines()]
    assert "gaudi3-rt convert-state rank0.pt rank1.pt out.pt --to torch --shards 4" in lines
