"""What is wrong is said at once: where, what was seen, what is allowed, what was meant."""

import json

import numpy as np
import pytest
import torch
from _config_run import problems

from gaudi3_rt.config import _load
from gaudi3_rt.config._findings import path_text
from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError


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


def test_arrays_from_code(run):
    """Values whose comparison is no truth value are refused like others of a wrong type."""
    with pytest.raises(InvalidConfigurationError) as caught:
        run(max_steps=np.array([1, 2]), optimizer={"betas": torch.tensor([0.9, 0.99])})
    assert {path: one["seen"] for path, one in problems(caught).items()} == {
        "max_steps": "an object of type ndarray",
        "optimizer.betas": "an object of type Tensor",
    }


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


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("Max_Step", "max_steps"),
        ("learnign_rate", "optimizer.lr"),
        ("num_worker", "dataset.num_workers"),
        ("momentm", "optimizer.momentum"),
        ("batchsize", "per_device_batch_size"),
        ("colour", None),
    ],
)
def test_keys_that_are_nearly_right(run, key, meant):
    """Are known in every section, and by the names that other libraries have for them."""
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run(assignments=[f"{key}=1"])
    assert problems(excinfo)[key]["message"] == "unknown key" + (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize("sections", [{}, {"optimizer": {"name": "adamw"}}], ids=["keys", "options"])
def test_a_file_that_is_no_configuration(run, tmp_path, monkeypatch, sections):
    """A model's vocabulary, say: problems are listed up to a number, and no key is compared with all others."""
    looked_at, searched_for = [], []
    monkeypatch.setattr(_load, "path_text", lambda path: looked_at.append(path) or path_text(path))
    monkeypatch.setattr(_load._Merged, "_forget", lambda _, section: searched_for.append(section))
    words = {f"word{i}": {"id": i} for i in range(3000)}
    tree = {"max_steps": 1, **sections, **({} if sections else words)}
    for section in sections:
        tree[section] = {**sections[section], **words}
    (tmp_path / "vocab.json").write_text(json.dumps(tree))
    with pytest.raises(InvalidConfigurationError) as excinfo:
        run("vocab.json")
    listed = excinfo.value.context["problems"]
    assert len(listed) == 101
    assert listed[-1]["message"] == "there are more problems; the first 100 are listed"
    assert listed[99]["origin"] == "file vocab.json:1"
    assert len(looked_at) <= 2 * len(words)
    assert not searched_for
