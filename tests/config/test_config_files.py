"""YAML, JSON and TOML: what they say, in which lines, and what is refused of them."""

import json

import pytest
from _config_run import problems

from gaudi3_rt.config._yaml import parse
from gaudi3_rt.errors import InvalidConfigurationError


def test_formats_agree(run, tmp_path):
    """The same configuration from YAML, JSON and TOML."""
    loaded = run()
    document = {
        "max_steps": 1000,
        "optimizer": {"name": "adamw", "lr": 3e-4, "betas": [0.9, 0.95]},
        "dataset": {"path": "data", "num_workers": 4},
    }
    (tmp_path / "run.json").write_text("\ufeff" + json.dumps(document))
    (tmp_path / "run.toml").write_text(
        'max_steps = 1000\n[optimizer]\nname = "adamw"\nlr = 3e-4\nbetas = [0.9, 0.95]\n'
        '[dataset]\npath = "data"\nnum_workers = 4\n'
    )
    for name in ("run.json", "run.toml"):
        other = run(name)
        assert other.config == loaded.config
        assert other.origins["optimizer.lr"] == {"run.json": "file run.json:1", "run.toml": "file run.toml"}[name]


def test_lines_of_json(run, tmp_path):
    """Each key's, whatever stands in texts, in lists, and between a key and its value."""
    (tmp_path / "run.json").write_text(
        """{
  "max_steps"
    : 5, "run_name": "{\\"seed\\": [1, \\ud83d\\ude00 \\\\",
\t"optimizer": {"name": "lion",
    "betas": [0.9,
      0.95],\r
    "l\\u0072": 1e-3}, "seed": 7, "output_dir": "max_steps",
  "model": {"dtype": [{"dtype":
    1}], "max_seq_len": 8,
    "name": "m"}
}
"""
    )
    with pytest.raises(InvalidConfigurationError, match=r"\(file run.json:8\)"):
        run("run.json")
    loaded = run("run.json", model={"dtype": "float32"})
    assert loaded.config.run_name == '{"seed": [1, \U0001f600 \\'
    lines = {
        "max_steps": 2,
        "run_name": 3,
        "optimizer.name": 4,
        "optimizer.betas": 5,
        "optimizer.lr": 7,
        "seed": 7,
        "model.max_seq_len": 9,
        "model.name": 10,
    }
    assert {path: loaded.origins[path] for path in lines} == {path: f"file run.json:{n}" for path, n in lines.items()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '{"a": ' * 2000 + "1" + "}" * 2000),
        ("run.yaml", '{"a": ' * 2000 + "1" + "}" * 2000),
        ("run.toml", "a" + ".a" * 2000 + " = 1"),
    ],
)
def test_nesting(run, tmp_path, name, text):
    """What is too deep for Python is said to be so."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidConfigurationError, match=rf"{name}: nested "):
        run(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice; first in line 1"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: the key 'b' is there twice; first in line 2"),
        ("a: &x 1\nb: *x\n", r"line 2: aliases \(\*name\) and merge keys are not taken"),
        ("a: &a [*a]\n", "line 1: aliases"),
        ("<<: {a: 1}\n", r"line 1: merge keys \(<<\) are not taken"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "line 1: the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: !!int x\n", "line 1: a value does not fit its type"),
        ("a: !mine 3\n", "line 1: the tag !mine is not taken"),
        ("1: 2\n", "line 1: a key has to be text"),
        ("[1, 2]: 2\n", "line 1: a key has to be text"),
        ("- 1\n", "holds list; a configuration is a mapping"),
        ("a: [1\n", "line 2, column 1: "),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: "),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ("a: " + "9" * 5000, "line 1: a value does not fit its type"),
        ("a: \x01", "not YAML: ReaderError"),
    ],
)
def test_refused_yaml(run, tmp_path, text, message):
    """What YAML can do and a configuration need not, each with its line."""
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InvalidConfigurationError, match=rf"run\.yaml: {message}"):
        run()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("run.json", b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("run.json", b'{"a": NaN}', "NaN is not JSON"),
        ("run.json", b'{"a" 1}', "line 1, column 6: "),
        ("run.json", b"[" * 10**5, "nested too deeply"),
        ("run.json", b'{"a": ' + b"9" * 5000 + b"}", ".+"),
        ("run.toml", b"a = \n", "Invalid value"),
        ("run.toml", b"a = 1\na = 2\n", "Cannot overwrite a value"),
        ("run.yaml", b"a: \xff", "is not UTF-8: byte 3"),
        ("run.yaml", b"# " + b"x" * (1 << 20), "is larger than 1048576 bytes"),
        ("run.ini", b"", "its suffix '.ini' is none of .yaml, .yml, .json, .toml"),
    ],
)
def test_refused_files(run, tmp_path, name, data, message):
    """One error that names the file and says what is wrong."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidConfigurationError, match=rf"{name}: {message}"):
        run(name)


def test_a_folder_is_no_file(run, tmp_path):
    """It is said to be none."""
    (tmp_path / "dir.yaml").mkdir()
    with pytest.raises(InvalidConfigurationError, match=r"dir\.yaml: is not a file"):
        run("dir.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("0", 0),
        ("-0", 0),
        ("+7", 7),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("n", "n"),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("Null", None),
        ("'null'", "null"),
        ("'1'", "1"),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("=", "="),
    ],
)
def test_scalars_of_yaml_1_2(text, value):
    """Not those of YAML 1.1, which PyYAML follows."""
    document, lines = parse(f"x: {text}")
    assert document == {"x": value}
    assert type(document["x"]) is type(value)
    assert lines == {("x",): 1}


def test_infinity_is_refused_by_name(run, tmp_path):
    """By every number."""
    (tmp_path / "run.yaml").write_text("max_steps: 1\noptimizer: {name: adamw, lr: .inf, eps: .nan}\n")
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run()
    assert {one["allowed"] for one in problems(excinfo).values()} == {"a finite number"}
