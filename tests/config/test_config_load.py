"""Files, variables, command line and code: who wins, where each value comes from, what is refused."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from _fuzz import examples
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _config
from gaudi3_rt.config import DatasetConfig, OptimizerConfig, load
from gaudi3_rt.config._load import examine
from gaudi3_rt.config._yaml import parse
from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError

RUN = """\
# a run
max_steps: 1000
optimizer:
  name: adamw
  lr: 3e-4        # a number, unlike in YAML 1.1
  betas: [0.9, 0.95]
dataset: {path: data, num_workers: 4}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with run.yaml; loads there, without the variables of this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "run.yaml").chmod(0o600)
    return lambda path="run.yaml", environ=(), **rest: load(path, environ=dict(environ), **rest)


def problems(excinfo):
    """The findings that an error carries, by path."""
    return {one["path"]: one for one in excinfo.value.context["problems"]}


# Precedence and origins


def test_precedence(run):
    """Defaults, file, environment, command line, code; value by value."""
    environ = {"GAUDI3_RT_OPTIMIZER__LR": "1e-3", "GAUDI3_RT_SEED": "1", "GAUDI3_RT_MAX_STEPS": "2"}
    loaded = run(environ=environ, assignments=["seed=2", "max_steps=3"], max_steps=4)
    assert (loaded.config.max_steps, loaded.config.seed, loaded.config.optimizer.lr) == (4, 2, 1e-3)
    assert loaded.config.optimizer.betas == [0.9, 0.95]
    wanted = {
        "max_steps": "code",
        "seed": "--set seed",
        "optimizer.lr": "env GAUDI3_RT_OPTIMIZER__LR",
        "optimizer.name": "file run.yaml:4",
        "optimizer.betas": "file run.yaml:6",
        "optimizer.eps": "default",
        "dataset.path": "file run.yaml:7",
        "run_name": "default",
        "cluster.device": "default",
    }
    assert {path: loaded.origins[path] for path in wanted} == wanted
    assert loaded.origins.keys() == {
        *(
            name
            for name in type(loaded.config).model_fields
            if name not in {"optimizer", "dataset", "cluster", "health"}
        ),
        *(
            f"{name}.{key}"
            for name in ("optimizer", "dataset", "cluster", "health")
            for key, _ in getattr(loaded.config, name)
        ),
    }


SOURCES = ("file", "env", "set", "code")


@examples(40)
@given(st.dictionaries(st.sampled_from(SOURCES), st.integers(1, 10**6), min_size=1))
def test_any_mix_of_sources(values):
    """The last source that has the value wins."""
    given_by = {
        "environ": {"GAUDI3_RT_DATASET__NUM_WORKERS": str(values["env"] % 9)} if "env" in values else {},
        "assignments": [f"dataset.num_workers={values['set'] % 9}"] if "set" in values else [],
        "values": {"max_steps": 1, "dataset": {"path": "p"}},
    }
    if "code" in values:
        given_by["values"]["dataset"]["num_workers"] = values["code"] % 9
    done = examine(None, **given_by)
    winner = next((source for source in reversed(SOURCES[1:]) if source in values), None)
    assert done.config.dataset.num_workers == (2 if winner is None else values[winner] % 9)
    assert done.origins["dataset.num_workers"].split()[0] == {None: "default", "set": "--set"}.get(winner, winner)


def test_models_from_code(run):
    """A model replaces its section, a mapping changes it."""
    loaded = run(optimizer=OptimizerConfig(name="lion", lr=1e-5), dataset={"num_workers": 1})
    assert loaded.config.optimizer == OptimizerConfig(name="lion", lr=1e-5)
    assert loaded.origins["optimizer.lr"] == "code"
    assert loaded.config.dataset == DatasetConfig(path="data", num_workers=1)
    assert (loaded.origins["dataset.path"], loaded.origins["dataset.num_workers"]) == ("file run.yaml:7", "code")


def test_options_of_an_unnamed_optimizer(run):
    """Are those of AdamW."""
    loaded = run(None, {"GAUDI3_RT_OPTIMIZER__LR": "0.5"}, max_steps=1)
    assert loaded.config.optimizer == OptimizerConfig(name="adamw", lr=0.5)
    assert loaded.origins["optimizer.name"] == "default"


def test_null_and_empty_sections(run, tmp_path):
    """Null takes a section away, a later key brings it back; an empty mapping changes nothing."""
    assert run(assignments=["dataset=null"]).config.dataset is None
    assert run(assignments=["dataset=null", "dataset.path=x"]).config.dataset == DatasetConfig(path="x")
    assert run(dataset={}).config.dataset.num_workers == 4
    back = run(assignments=["dataset=null", "dataset.path=x", "cluster={}"]).origins
    assert (back["dataset.path"], back["dataset.num_workers"]) == ("--set dataset.path", "default")
    assert back["cluster.device"] == "default"
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert run("empty.yaml", max_steps=1).config.max_steps == 1


def test_text_of_variables(run):
    """It is read as YAML, but stays text where text is wanted."""
    environ = {
        "GAUDI3_RT_RUN_NAME": "0123",
        "GAUDI3_RT_OUTPUT_DIR": "true",
        "GAUDI3_RT_OPTIMIZER__BETAS": "[0.5, 1e-3]",
        "GAUDI3_RT_HEALTH__MEMORY_WARNING_RATIO": "null",
        "GAUDI3_RT_DATASET__SHUFFLE": "false",
        "GAUDI3_RT_DATASET__SPLIT": "a: b",
    }
    config = run(environ=environ, assignments=["tracking_uri=[x"]).config
    assert (config.run_name, config.output_dir, config.optimizer.betas) == ("0123", "true", [0.5, 0.001])
    assert (config.health.memory_warning_ratio, config.dataset.shuffle, config.tracking_uri) == (None, False, "[x")


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


# Errors


def test_lines_of_json(run, tmp_path):
    """As in YAML; where YAML cannot read a JSON file, the file alone. The values are always JSON's."""
    text = (
        '{\n  "max_steps": 5,\n  "run_name": "\\ud83d\\ude00",\n  "optimizer": {"name": "lion",\n    "lr": 1e-3}\n}\n'
    )
    (tmp_path / "run.json").write_text(text)
    loaded = run("run.json")
    assert loaded.config.run_name == "\U0001f600"
    assert loaded.origins["max_steps"] == "file run.json:2"
    assert loaded.origins["optimizer.lr"] == "file run.json:5"
    (tmp_path / "tabs.json").write_text('{\n\t"max_steps":\t5\n}\n')
    assert run("tabs.json").origins["max_steps"] in {"file tabs.json", "file tabs.json:2"}
    key = "k" * 2000
    (tmp_path / "long.json").write_text(json.dumps({"max_steps": 5, key: 1}))
    with pytest.raises(InvalidConfigurationError, match=r"unknown key.*\(file long.json\)"):
        run("long.json")


def test_arrays_from_code(run):
    """Values whose comparison is no truth value are refused like others of a wrong type."""
    with pytest.raises(InvalidConfigurationError) as caught:
        run(max_steps=np.array([1, 2]), optimizer={"betas": torch.tensor([0.9, 0.99])})
    assert {path: one["seen"] for path, one in problems(caught).items()} == {
        "max_steps": "an object of type ndarray",
        "optimizer.betas": "an object of type Tensor",
    }


def test_all_problems_at_once(run, tmp_path):
    """Each with its place, what was seen, what is allowed, and its origin."""
    (tmp_path / "run.yaml").write_text(
        "max_step: 5\nlearning_rate: 1\nseed: on\noptimizer: {name: sgd, betas: [0, 0], lr: -1.0, foreach: true}\n"
        "model: {dtype: bf16}\nnum_workers: 3\ncluster: cpu\n"
    )
    environ = {"GAUDI3_RT_HEALTH__MEMORY_WARNING_RATIO": "2", "GAUDI3_RT_ISA": "scalar", "GAUDI3_RT_ISAA": "x"}
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run(environ=environ, assignments=["seed", "cluster.device=cpu"])
    found = problems(excinfo)
    text = str(excinfo.value)
    assert text.startswith(f"run.yaml has {text.count(chr(10))} problems:\n")
    for line in (
        "max_steps: is needed: Optimizer steps of the whole run.",
        "max_step: unknown key; did you mean max_steps? (file run.yaml:1)",
        "learning_rate: unknown key; did you mean optimizer.lr? (file run.yaml:2)",
        "seed: seen 'on'; allowed: an integer (file run.yaml:3)",
        "optimizer.betas: unknown key of this optimizer; it is an option of adam, adamw, lamb, lion (file run.yaml:4)",
        "optimizer.foreach: unknown key: it chooses between torch's own implementations; leave it out (file run",
        "optimizer.lr: seen -1.0; allowed: a number >= 0 (file run.yaml:4)",
        "model.name: is needed: Name of the model, or a folder with it.",
        "model.dtype: seen 'bf16'; allowed: float32, bfloat16 or float16; did you mean bfloat16? (file run.yaml:5)",
        "num_workers: unknown key; did you mean dataset.num_workers? (file run.yaml:6)",
        "cluster: seen 'cpu'; allowed: a mapping of keys to values (file run.yaml:7)",
        "cluster.device: a key of cluster, which is no section but a single value (file run.yaml:7) (--set",
        "health.memory_warning_ratio: seen 2; allowed: a number <= 1 (env GAUDI3_RT_HEALTH__MEMORY_WARNING_RATIO)",
        "GAUDI3_RT_ISAA is no key of a configuration and no variable of gaudi3_rt; did you mean GAUDI3_RT_ISA?",
        "--set takes key=value, like optimizer.lr=1e-4; there is no '=' or no key before it (--set)",
    ):
        assert f"\n  {line}" in text
    assert text.count("\n") == 15
    assert found["optimizer.lr"]["origin"] == "file run.yaml:4"
    assert found["optimizer.lr"]["seen"] == "-1.0"
    assert found["optimizer.lr"]["allowed"] == "a number >= 0"


def test_missing_values_alone(run):
    """Are another error than wrong ones."""
    with pytest.raises(MissingConfigurationError, match=r"the configuration has 1 problem:\n  max_steps: is needed"):
        run(None)
    with pytest.raises(MissingConfigurationError, match=r"none\.yaml: there is no such file"):
        run("none.yaml")
    with pytest.raises(InvalidConfigurationError):
        run(None, seed="x")


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


def test_alternatives_of_one_value(run):
    """Are one problem; of a list with a wrong item the item is."""
    for moments_dtype, path, allowed in (
        (3, "optimizer.moments_dtype", "float8_e5m2, or a list"),
        (["int8", "x"], "optimizer.moments_dtype[1]", "float32, bfloat16, int8, float8_e4m3fn or float8_e5m2"),
        (["int8"], "optimizer.moments_dtype", "or a list of 2"),
    ):
        with pytest.raises(InvalidConfigurationError) as excinfo:
            run(optimizer={"moments_dtype": moments_dtype})
        (found,) = problems(excinfo).values()
        assert found["path"] == path
        assert found["allowed"].endswith(allowed)
    with pytest.raises(InvalidConfigurationError, match=r"optimizer\.name: seen 'adamm'; .*; did you mean adam\?"):
        run(optimizer={"name": "adamm"})
    with pytest.raises(InvalidConfigurationError, match=r"optimizer\.None: seen None; allowed: keys that are text"):
        run(optimizer={None: 1})


def test_hints_for_texts_that_look_like_values(run, tmp_path):
    """The readers of YAML 1.1 are told."""
    (tmp_path / "run.yaml").write_text("max_steps: 1_000\ndataset: {path: x, shuffle: yes}\n")
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run()
    assert "without quotes, underscores" in problems(excinfo)["max_steps"]["message"]
    assert "yes, no, on and off are text" in problems(excinfo)["dataset.shuffle"]["message"]


# Environment


def test_variables_of_the_runtime_are_no_keys(run, monkeypatch):
    """All that _config reads, also those that it will read."""
    monkeypatch.setattr(_config, "FUTURE_VARIABLE", "GAUDI3_RT_FUTURE", raising=False)
    assert _config.ISA_VARIABLE in _config.variables()
    environ = dict.fromkeys((*_config.variables(), "OTHER", "GAUDI3_RTX", "gaudi3_rt_seed"), "x")
    assert run(environ=environ).config.seed == 42


@pytest.mark.usefixtures("run")
def test_variables_of_this_process(monkeypatch):
    """Are read if no others are given."""
    for name in [one for one in os.environ if one.startswith("GAUDI3_RT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GAUDI3_RT_SEED", "7")
    assert load("run.yaml").config.seed == 7


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GAUDI3_RT_OPTIMISER__LR", "; did you mean GAUDI3_RT_OPTIMIZER__LR?"),
        ("GAUDI3_RT_MAXSTEPS", "; did you mean GAUDI3_RT_MAX_STEPS?"),
        ("GAUDI3_RT_", ""),
        ("GAUDI3_RT_WHATEVER_ELSE", ""),
    ],
)
def test_unknown_variables(run, variable, meant):
    """Are errors, because what was meant would not be in force."""
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run(environ={variable: "secret-of-mine"})
    assert excinfo.value.message.endswith(
        f"  {variable} is no key of a configuration and no variable of gaudi3_rt{meant} (env {variable})"
    )


def test_unknown_key_in_a_variable(run):
    """The suggestion is for the key."""
    with pytest.raises(
        InvalidConfigurationError, match=r"optimizer\.lrr: unknown key; did you mean optimizer\.lr\? \(env"
    ):
        run(environ={"GAUDI3_RT_OPTIMIZER__LRR": "1"})


# Security


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


# Fuzz
