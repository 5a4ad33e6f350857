"""The optimizers that a configuration knows are those of gaudi3_rt.optim, option by option."""

import dataclasses
import inspect
import math

import pytest
import torch
from _configs import valid
from _fuzz import examples
from hypothesis import given, strategies
from pydantic import ValidationError

from gaudi3_rt import config, optim
from gaudi3_rt.config import OptimizerConfig, json_schema
from gaudi3_rt.config._optimizers import BY_NAME
from gaudi3_rt.errors import InvalidConfigurationError
from gaudi3_rt.optim._options import ClippingOptions, StorageOptions
from gaudi3_rt.optim._storage import Storage

SCHEMA = json_schema(model=OptimizerConfig)
HAS_MUON = "FusedMuon" in optim.__all__


def option_defaults(cls):
    """All keyword arguments of an optimizer's class with their defaults."""
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found[name] = parameter.default
    stored = {field.name: field.default for field in dataclasses.fields(Storage)}
    clipped = {"max_grad_norm": None, "norm": "step"}
    assert stored.keys() == StorageOptions.__annotations__.keys()
    assert clipped.keys() == ClippingOptions.__annotations__.keys()
    if cls._options.__name__ == "Options":
        found = {**stored, **found}
    found = {**clipped, **found}
    del found["params"]
    return found


def in_code(key, value):
    """A value of a file as the classes take it."""
    if isinstance(value, list):
        return tuple(in_code(key, item) for item in value)
    if key == "moments_dtype" and isinstance(value, str):
        return getattr(torch, value)
    return int(value) if key in {"seed", "ns_steps"} else value


def test_every_optimizer_has_its_name():
    """None is missing, none is left over."""
    classes = {
        name
        for name in optim.__all__
        if isinstance(getattr(optim, name), type) and issubclass(getattr(optim, name), torch.optim.Optimizer)
    }
    known = {one.class_name for one in BY_NAME.values()}
    assert known - ({"FusedMuon"} - classes) == classes
    assert {name: one.class_name.removeprefix("Fused").lower() for name, one in BY_NAME.items()} == {
        name: name for name in BY_NAME
    }


@pytest.mark.parametrize("name", BY_NAME)
def test_options_are_those_of_the_class(name):
    """Names and defaults; what is left out changes nothing in the class."""
    if name == "muon" and not HAS_MUON:
        pytest.skip("this torch has no Muon")
    model = BY_NAME[name]
    wanted = option_defaults(getattr(optim, model.class_name))
    left_out = wanted.keys() & model.left_out.keys()
    assert model.model_fields.keys() - {"name"} == wanted.keys() - left_out
    assert OptimizerConfig(name=name).options() == {key: wanted[key] for key in wanted if key not in left_out}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_valid_can_be_built(name):
    """The class takes what the model takes; what the model refuses by a rule, the class refuses as well."""
    if name == "muon" and not HAS_MUON:
        pytest.skip("this torch has no Muon")
    document = next(one for one in SCHEMA["oneOf"] if one["$ref"].lower().endswith(f"/{name}config"))

    @examples(25)
    @given(valid(SCHEMA, document))
    def run(options):
        parameter = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
        try:
            built = OptimizerConfig(**options)
        except ValidationError:
            cls = getattr(optim, BY_NAME[name].class_name)
            with pytest.raises(ValueError):  # noqa: PT011 (each class has its own words)
                cls([parameter], **{key: in_code(key, value) for key, value in options.items() if key != "name"})
            return
        optimizer = built.build([parameter])
        assert type(optimizer).__name__ == BY_NAME[name].class_name
        assert optimizer.param_groups[0]["lr"] == built.lr
        assert optimizer.max_grad_norm == built.max_grad_norm

    run()


def test_build_takes_a_step_as_the_class_does():
    """The options arrive."""
    steps = []
    asked = {"lr": 0.1, "betas": [0.5, 0.6], "weight_decay": 0.2, "moments_dtype": ["bfloat16", "float32"], "seed": 3}
    as_given = {**asked, "betas": (0.5, 0.6), "moments_dtype": (torch.bfloat16, torch.float32)}
    for make in (OptimizerConfig(name="adamw", **asked).build, lambda params: optim.FusedAdamW(params, **as_given)):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 100))
        optimizer = make([parameter])
        for _ in range(3):
            parameter.grad = parameter.detach() ** 3
            optimizer.step()
        assert optimizer.state[parameter]["exp_avg"].dtype is torch.bfloat16
        steps.append(parameter.detach())
    assert torch.equal(*steps)


def test_overrides_of_build():
    """They win, and may be what no file can say."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = OptimizerConfig(name="sgd", lr=0.1).build([parameter], lr=0.5, max_grad_norm=math.inf)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.max_grad_norm == math.inf


def test_an_optimizer_that_this_torch_lacks(monkeypatch):
    """The error is that of gaudi3_rt.optim."""
    monkeypatch.delattr(optim, "FusedLion")
    with pytest.raises(InvalidConfigurationError, match="FusedLion"):
        OptimizerConfig(name="lion").build([torch.nn.Parameter(torch.ones(3))])


@strategies.composite
def spellings(draw):
    """The same option as a program and as a file write it."""
    return draw(
        strategies.sampled_from(
            [
                ({"betas": (0.5, 0.6)}, {"betas": [0.5, 0.6]}),
                ({"moments_dtype": torch.int8}, {"moments_dtype": "int8"}),
                ({"moments_dtype": (torch.bfloat16, torch.float32)}, {"moments_dtype": ["bfloat16", "float32"]}),
            ]
        )
    )


@given(spellings())
def test_words_of_programs(pair):
    """Tuples and torch's dtypes are taken from code."""
    code, file = pair
    assert OptimizerConfig(name="adamw", **code) == OptimizerConfig(name="adamw", **file)


def test_every_way_gives_the_model_of_the_optimizer():
    """By its constructor, by validation, inside of a configuration."""
    made = OptimizerConfig(name="lion", lr=1e-3)
    assert type(made) is config.LionConfig
    assert OptimizerConfig.model_validate({"name": "lion", "lr": 1e-3}) == made
    assert config.TrainingConfig(max_steps=1, optimizer=made).optimizer == made
    with pytest.raises(ValidationError, match="adagrad"):
        OptimizerConfig(name="adamm")
    with pytest.raises(ValidationError, match="name"):
        OptimizerConfig(lr=1e-3)
    with pytest.raises(ValidationError, match="frozen"):
        made.lr = 1.0
