"""Secrets, files open to all, plain HTTP, foreign code, paths that lead out."""

import stat

import pytest
from _config_run import RUN

from gaudi3_rt.errors import InvalidConfigurationError


def test_files_that_others_can_change_or_read(run, tmp_path):
    """Writable by all is worth a warning; readable only with a secret in it."""
    file = tmp_path / "run.yaml"
    for mode, text, expected in [
        (0o644, RUN, []),
        (0o666, RUN, ["chmod o-w"]),
        (0o664, RUN, []),
        (0o640, RUN + "run_name: hf_" + "a1B2" * 9 + "\n", ["looks like a secret"]),
        (0o604, RUN + "run_name: hf_" + "a1B2" * 9 + "\n", ["looks like a secret", "chmod o-r"]),
    ]:
        file.write_text(text)
        file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
        found = run().warnings
        assert [one.kind for one in found] == ["security"] * len(expected)
        for one, part in zip(found, expected, strict=True):
            assert part in one.message
            assert one.severity == "high"


def test_a_secret_that_is_not_in_the_file(run, tmp_path):
    """Is not said to be in it."""
    (tmp_path / "run.yaml").chmod(0o604)
    (found,) = run(environ={"GAUDI3_RT_RUN_NAME": "hf_" + "a1B2" * 9}).warnings
    assert found.origin == "env GAUDI3_RT_RUN_NAME"


def test_plain_http(run):
    """A warning, but not for this machine."""
    assert [one.path for one in run(tracking_uri="http://mlflow.example.org:5000").warnings] == ["tracking_uri"]
    for fine in (
        "http://localhost:5000",
        "http://127.0.0.1",
        "http://[::1]:1",
        "http://[::ffff:127.0.0.1]",
        "https://example.org",
        "file:///x",
    ):
        assert run(tracking_uri=fine).warnings == ()


def test_code_of_a_model(run):
    """It is executed, and may change as long as no commit is named."""
    (found,) = run(model={"name": "m", "trust_remote_code": True}).warnings
    assert (found.severity, found.kind, found.path) == ("high", "security", "model.trust_remote_code")
    (found,) = run(model={"name": "m", "trust_remote_code": True, "revision": "abc"}).warnings
    assert found.severity == "medium"


def test_root(run, tmp_path):
    """With a root, no path leads out of it, also not by a link."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    root = tmp_path / "root"
    for good in ("out", str(root / "out"), "."):
        assert run(root=root, output_dir=good).config.output_dir == good
    for bad in ("/etc", "../x", "a/../../x", "link/x", str(tmp_path)):
        with pytest.raises(InvalidConfigurationError, match=r"output_dir: .* it has to stay inside of .*root"):
            run(root=root, output_dir=bad)
    for path in ({"dataset": {"path": "/etc"}}, {"model": {"name": "/etc"}}, {"resume_from_checkpoint": "/etc"}):
        with pytest.raises(InvalidConfigurationError, match="leads out of its root"):
            run(root=root, **path)
    assert run(root=root, dataset={"path": "s3://bucket/x"}).config.dataset.path == "s3://bucket/x"
    for url in ("file:///etc/passwd", "FILE:/etc/passwd", "local:///etc/passwd", "simplecache::file:///etc/passwd"):
        with pytest.raises(InvalidConfigurationError, match=r"dataset\.path: names a file by a URL; write it"):
            run(root=root, dataset={"path": url})
