"""Defaults, files, variables, command line and code: who wins, and where each value comes from."""

import os

import pytest
from _fuzz import examples
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _config
from gaudi3_rt.config import DatasetConfig, OptimizerConfig, load
from gaudi3_rt.config._load import examine


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
