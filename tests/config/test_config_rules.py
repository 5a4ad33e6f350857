"""Rules between values, judged a second time here, and hints with their sources."""

import math
import warnings

import pytest
import torch
from _configs import valid
from _fuzz import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.data import DataLoader

from gaudi3_rt import config
from gaudi3_rt._redact import redact
from gaudi3_rt.config import DatasetConfig, TrainingConfig, json_schema, validate_training_config
from gaudi3_rt.config._optimizers import ALL
from gaudi3_rt.config._structure import SECTIONS

GPT = {"name": "gpt2"}
DATA = {"path": "data"}


def errors(**values):
    """Paths and messages of the errors of a configuration that has 100 steps otherwise."""
    return {one.path: one.message for one in validate_training_config({"max_steps": 100, **values}).errors}


def hints(**values):
    """Paths and findings of the warnings of a configuration that is valid."""
    result = validate_training_config({"max_steps": 100, **values})
    assert result.is_valid, result.errors
    return {one.path: one for one in result.warnings}


@pytest.mark.parametrize(
    "section", [TrainingConfig, *(one for one in SECTIONS.values() if one is not config.OptimizerConfig), *ALL]
)
def test_every_field_says_what_it_means(section):
    """And, if it is a number, in which unit; and no name of a field is taken for that of a secret."""
    for name, schema in section.model_json_schema()["properties"].items():
        if name == "name" and section in ALL:
            continue
        described = schema["description"] if "description" in schema else section.model_fields[name].description
        assert described.endswith("."), name
        types = {one.get("type") for one in (schema, schema.get("items", {}), *schema.get("anyOf", []))}
        assert ("unit" in schema) == bool(types & {"integer", "number"}), name
        assert redact("text", name) == "text"


FACTOR = st.integers(1, 3)


@examples(50)
@given(FACTOR, FACTOR, FACTOR, FACTOR, st.integers(1, 81))
def test_global_batch_size(samples, passes, nodes, processes, wanted):
    """It is samples x passes x nodes x processes, or left out."""
    cluster = {"num_nodes": nodes, "nproc_per_node": processes, "master_addr": "node0"}
    values = {"per_device_batch_size": samples, "gradient_accumulation_steps": passes, "cluster": cluster}
    product = samples * passes * nodes * processes
    assert TrainingConfig(max_steps=1, **values).effective_batch_size == product
    assert errors(**values) == errors(**values, global_batch_size=product) == {}
    assert (errors(**values, global_batch_size=wanted) == {}) == (wanted == product)


def test_global_batch_size_message():
    """It names the three factors and what they make."""
    found = errors(global_batch_size=500, per_device_batch_size=8, gradient_accumulation_steps=4)
    assert found["global_batch_size"] == (
        "500: per_device_batch_size=8 x gradient_accumulation_steps=4 x world size 1 make 32; "
        "change a factor or leave this out"
    )


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        ({"warmup_steps": 101}, "warmup_steps", "101: the run ends before, after max_steps=100"),
        ({"lr_base": 0.1}, "lr_base", "only together"),
        ({"save_total_limit": 3}, "save_total_limit", "without save_steps no checkpoint is written"),
        (
            {"model": {**GPT, "hidden_size": 100, "num_attention_heads": 12}},
            "model.hidden_size",
            "num_attention_heads=12",
        ),
        ({"model": {**GPT, "max_seq_len": 8}, "dataset": {**DATA, "seq_len": 9}}, "dataset.seq_len", "max_seq_len=8"),
        ({"dataset": {**DATA, "num_workers": 0, "prefetch_factor": 2}}, "dataset.prefetch_factor", "num_workers > 0"),
        ({"cluster": {"device": "cpu", "backend": "hccl"}}, "cluster.backend", "use 'gloo'"),
        ({"cluster": {"num_nodes": 2}}, "cluster.master_addr", "cannot reach it"),
        ({"cluster": {"num_nodes": 2, "master_addr": "localhost"}}, "cluster.master_addr", "cannot reach it"),
        (
            {"model": {**GPT, "torch_compile": True}, "cluster": {"device": "hpu", "hpu_lazy_mode": True}},
            "model.torch_compile",
            "hpu_lazy_mode false",
        ),
        ({"health": {"memory_warning_ratio": 0.95}}, "health.memory_warning_ratio", "below memory_critical_ratio=0.95"),
        (
            {"health": {"temperature_warning_celsius": 90, "temperature_critical_celsius": 80}},
            "health.temperature_warning_celsius",
            "below temperature_critical_celsius=80.0",
        ),
        ({"health": {"step_timeout_seconds": 5}}, "health.check_interval_seconds", "a hang is seen late"),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "optimizer.nesterov", "needs a momentum"),
        ({"optimizer": {"name": "adamw", "norm": "overlapped"}}, "optimizer.norm", "max_grad_norm"),
        (
            {"optimizer": {"name": "adamw", "master": "split", "rounding": "stochastic"}},
            "optimizer.rounding",
            "choose one",
        ),
        ({"output_dir": "runs/${RUN}"}, "output_dir", "is not replaced here"),
        ({"tracking_uri": "https://me:hunter2@mlflow.org"}, "tracking_uri", "[redacted]: a URL with a user name"),
    ],
)
def test_broken_rules(values, path, message):
    """One error, at the value that breaks the rule; the model itself refuses it too."""
    found = errors(**values)
    assert list(found) == [path]
    assert message in found[path]
    with pytest.raises(ValidationError):
        TrainingConfig(max_steps=100, **values)


@pytest.mark.parametrize(("option", "value"), [("rounding", "stochastic"), ("master", "split"), ("master", "float32")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_storage_that_the_optimizers_refuse(dtype, option, value):
    """As the optimizers themselves do."""
    settings = config.OptimizerConfig(name="adamw", **{option: value})
    parameter = torch.nn.Parameter(torch.ones(2, dtype=getattr(torch, dtype)))
    try:
        settings.build([parameter])
        refused = False
    except TypeError:
        refused = True
    found = errors(model={**GPT, "dtype": dtype}, optimizer={"name": "adamw", option: value})
    assert list(found) == ([f"optimizer.{option}"] if refused else [])


@examples(60)
@given(st.integers(0, 2), st.none() | st.integers(1, 3), st.booleans())
def test_loading_options_that_torch_refuses(num_workers, prefetch_factor, persistent_workers):
    """The words of DataLoader, and its rules."""
    values = {
        "num_workers": num_workers,
        "prefetch_factor": prefetch_factor,
        "persistent_workers": persistent_workers,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of machines with fewer processors than workers
            DataLoader([1, 2, 3], **values)
        refused = False
    except ValueError:
        refused = True
    result = config.validate_dataset_config({**DATA, **values})
    assert result.is_valid is not refused


def second_opinion(document):
    """Whether all rules are kept, read from the document alone."""
    d = {"warmup_steps": 0, "per_device_batch_size": 8, "gradient_accumulation_steps": 1, **document}
    cluster = {
        "device": "auto",
        "num_nodes": 1,
        "nproc_per_node": 1,
        "master_addr": "127.0.0.1",
        **d.get("cluster", {}),
    }
    health = {
        "memory_warning_ratio": 0.9,
        "memory_critical_ratio": 0.95,
        "temperature_warning_celsius": 85,
        "temperature_critical_celsius": 95,
        "check_interval_seconds": 10,
        **d.get("health", {}),
    }
    model, data = d.get("model") or {}, {"num_workers": 2, **(d.get("dataset") or {})}
    optimizer = {"rounding": "nearest", "momentum": 0, "dampening": 0, "nesterov": False, **d.get("optimizer", {})}
    batch = (
        d["per_device_batch_size"] * d["gradient_accumulation_steps"] * cluster["num_nodes"] * cluster["nproc_per_node"]
    )
    clips = optimizer.get("max_grad_norm", 1.0 if optimizer.get("name") == "lamb" else None) is not None
    texts = [value for part in (d, model, data, cluster, health) for value in part.values() if isinstance(value, str)]
    above = [
        (health["memory_warning_ratio"], health["memory_critical_ratio"]),
        (health.get("temperature_warning_celsius"), health.get("temperature_critical_celsius")),
    ]
    stored = {"rounding": optimizer["rounding"], "master": optimizer.get("master")} != {
        "rounding": "nearest",
        "master": None,
    }
    broken = [
        d.get("global_batch_size") not in {None, batch},
        d["warmup_steps"] > d["max_steps"],
        (d.get("lr_base") is None) != (d.get("lr_base_size") is None),
        d.get("save_total_limit") is not None and d.get("save_steps") is None,
        bool(model.get("hidden_size") and model.get("num_attention_heads"))
        and model["hidden_size"] % model["num_attention_heads"] != 0,
        bool(model.get("max_seq_len") and data.get("seq_len")) and data["seq_len"] > model["max_seq_len"],
        data["num_workers"] == 0 and (data.get("prefetch_factor") is not None or bool(data.get("persistent_workers"))),
        cluster.get("backend") == "hccl" and cluster["device"] in {"cpu", "simulated"},
        cluster["num_nodes"] > 1
        and (cluster["master_addr"].startswith("127.") or cluster["master_addr"] == "localhost"),
        bool(model.get("torch_compile") and cluster.get("hpu_lazy_mode")) and cluster["device"] == "hpu",
        any(None not in pair and pair[0] >= pair[1] for pair in above),
        health.get("step_timeout_seconds") is not None
        and health["check_interval_seconds"] > health["step_timeout_seconds"],
        optimizer.get("name") in {"sgd", "lars"}
        and optimizer["nesterov"]
        and (optimizer["momentum"] == 0 or optimizer["dampening"] != 0),
        optimizer.get("norm") == "overlapped" and not clips,
        optimizer["rounding"] == "stochastic" and optimizer.get("master") is not None,
        model.get("dtype") == "float16" and stored,
        any("${" in text for text in texts),
    ]
    return not any(broken)


@examples(100)
@given(valid(json_schema()))
def test_rules_by_a_second_opinion(document):
    """Nothing is accepted that breaks a rule, and nothing refused that keeps them all."""
    assume("@" not in str(document))  # credentials have their own tests
    document.get("health", {}).pop("checks", None)  # and so have checks
    result = validate_training_config(document)
    assert result.is_valid == second_opinion(document), result.errors
    if result.is_valid:
        assert validate_training_config(result.sanitized_value).config == result.config


# Rules of thumb and hints


@pytest.mark.parametrize(
    ("name", "batch", "good", "source"),
    [("sgd", 1024, 0.4, "1706.02677"), ("adamw", 1024, 0.2, "2205.10287"), ("lars", 64, 0.025, "1706.02677")],
)
def test_learning_rate_against_batch_size(name, batch, good, source):
    """Scaled from a known pair: linearly for SGD, by the root for Adam; a warning far from it, with its source."""
    values = {"per_device_batch_size": batch, "lr_base": 0.1, "lr_base_size": 256, "warmup_steps": 10}

    def warned(lr):
        return hints(**values, optimizer={"name": name, "lr": lr}).get("optimizer.lr")

    assert [warned(good * factor) is None for factor in (1 / 3.1, 1 / 2.9, 1, 2.9, 3.1)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert source in warned(good * 4).source
    assert warned(good * 4).kind == "rule"
    assert f"{good:.2g}" in warned(good * 4).message


def test_a_base_below_all_floats_gives_no_hint():
    """What it scales to is zero, of which there is no multiple."""
    assert hints(lr_base=5e-324, lr_base_size=10, per_device_batch_size=1, warmup_steps=1) == {}


def test_raised_learning_rate_without_warm_up():
    """Goyal et al. found that it needs one."""
    values = {
        "per_device_batch_size": 1024,
        "lr_base": 0.1,
        "lr_base_size": 256,
        "optimizer": {"name": "sgd", "lr": 0.4},
    }
    assert list(hints(**values)) == ["warmup_steps"]
    assert hints(**values, warmup_steps=5) == {}


def test_learning_rate_of_sgd_without_a_known_pair():
    """Only far from what holds for the network of the paper."""
    sgd = {"name": "sgd", "momentum": 0.9}
    assert hints(per_device_batch_size=256, optimizer={**sgd, "lr": 0.9}) == {}
    assert list(hints(per_device_batch_size=256, optimizer={**sgd, "lr": 1.1})) == ["optimizer.lr"]
    assert hints(per_device_batch_size=256, optimizer={"name": "sgd", "lr": 5.0}) == {}
    assert math.isclose(
        float(hints(optimizer={**sgd, "lr": 5.0})["optimizer.lr"].message.split(", ")[-1]), 0.1 / 32, rel_tol=0.1
    )


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"dataset": {**DATA, "num_workers": 0}}, "dataset.num_workers"),
        (
            {"dataset": {**DATA, "drop_last": False}, "cluster": {"device": "hpu", "hpu_lazy_mode": False}},
            "dataset.drop_last",
        ),
        ({"model": GPT, "cluster": {"device": "hpu", "hpu_lazy_mode": False}}, "autocast_dtype"),
        ({"model": {**GPT, "dtype": "bfloat16"}}, "optimizer"),
        ({"model": {**GPT, "dtype": "bfloat16"}, "optimizer": {"name": "muon"}}, "optimizer"),
        ({"cluster": {"device": "hpu"}}, "cluster.hpu_lazy_mode"),
    ],
)
def test_performance_hints(values, path):
    """Each says where, and who says so."""
    (found,) = hints(**values).values()
    assert found.path == path
    assert found.kind == "performance"
    assert found.source


def test_no_hint_without_a_reason():
    """A configuration that follows them is silent, and so are the defaults."""
    assert hints() == {}
    model = {**GPT, "dtype": "bfloat16"}
    cluster = {"device": "hpu", "hpu_lazy_mode": False}
    assert (
        hints(model=model, dataset=DATA, cluster=cluster, optimizer={"name": "adamw", "rounding": "stochastic"}) == {}
    )


def test_validation_does_not_raise():
    """On objects that do it themselves, on cycles, on models that were made without validation."""

    class Hostile(dict):
        def __getattribute__(self, name):
            raise RuntimeError(name)

        def keys(self):
            raise RuntimeError

        __iter__ = __len__ = __repr__ = __bool__ = keys

    cycle = {"max_steps": 1}
    cycle["model"] = cycle
    unchecked = TrainingConfig.model_construct(max_steps="many", optimizer=DatasetConfig.model_construct(path=3))
    for value in (
        None,
        3,
        "x",
        [],
        object(),
        Hostile(),
        {"model": Hostile()},
        cycle,
        {1: 2},
        {"max_steps": Hostile()},
        unchecked,
    ):
        result = validate_training_config(value)
        assert not result.is_valid
        assert result.errors
        assert result.sanitized_value is result.config is None
    assert {one.path for one in validate_training_config(unchecked).errors} == {"max_steps", "optimizer.name"}
