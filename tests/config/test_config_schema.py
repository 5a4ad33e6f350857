"""JSON Schema in both drafts and the models give the same verdict on any document."""

import json

import jsonschema
import pytest
from _configs import JSON, mutated, valid
from _fuzz import examples
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import config
from gaudi3_rt.config import json_schema

SECTIONS = {
    "training": config.TrainingConfig,
    "model": config.ModelConfig,
    "dataset": config.DatasetConfig,
    "cluster": config.ClusterConfig,
    "optimizer": config.OptimizerConfig,
    "health": config.HealthConfig,
}
SCHEMAS = {name: json_schema(model=model) for name, model in SECTIONS.items()}
NEW = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
OLD = {name: jsonschema.Draft7Validator(json_schema("draft-7", model)) for name, model in SECTIONS.items()}
VALIDATE = {name: getattr(config, f"validate_{name}_config") for name in SECTIONS}


def structurally_valid(result):
    """As far as a schema can say."""
    return all(one.kind != "structure" for one in result.errors)


def agree(name, document):
    """The verdict of all three, if it is one."""
    result = VALIDATE[name](document)
    verdicts = {
        "2020-12": NEW[name].is_valid(document),
        "draft-7": OLD[name].is_valid(document),
        "models": structurally_valid(result),
    }
    assert len(set(verdicts.values())) == 1, (verdicts, result.errors, document)
    return result


@pytest.mark.parametrize("name", SECTIONS)
def test_schemas_are_schemas(name):
    """Of their drafts, and plain JSON."""
    for validator in (NEW[name], OLD[name]):
        validator.check_schema(validator.schema)
        assert json.loads(json.dumps(validator.schema)) == validator.schema
    assert NEW[name].schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert OLD[name].schema["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("name", SECTIONS)
def test_keywords_mean_the_same_in_both_drafts(name):
    """Those that Draft 7 does not know, or reads otherwise, are not used."""
    of_draft_7 = json.dumps(OLD[name].schema)
    for keyword in (
        "$defs",
        "prefixItems",
        "unevaluated",
        "dependentRequired",
        "dependentSchemas",
        "$anchor",
        "$dynamic",
    ):
        assert keyword not in of_draft_7


@pytest.mark.parametrize("name", SECTIONS)
def test_same_verdict_on_documents_of_the_schema(name):
    """What is made from the schema is accepted by all three."""

    @examples(30)
    @given(valid(SCHEMAS[name]))
    def run(document):
        assert structurally_valid(agree(name, document)), document

    run()


@pytest.mark.parametrize("name", SECTIONS)
def test_same_verdict_on_changed_documents(name):
    """Also near the edge of what is allowed."""

    @examples(60)
    @given(mutated(valid(SCHEMAS[name])))
    def run(document):
        agree(name, document)

    run()


@examples(30)
@given(JSON, st.sampled_from(sorted(SECTIONS)))
def test_same_verdict_on_any_json(document, name):
    """Mappings and anything else."""
    agree(name, document)


@pytest.mark.parametrize(
    ("document", "good"),
    [
        ({"max_steps": 1.0}, True),
        ({"max_steps": 1.5}, False),
        ({"max_steps": True}, False),
        ({"max_steps": "1"}, False),
        ({"max_steps": 0}, False),
        ({"max_steps": 10, "cluster": {"timeout_seconds": 1}}, True),
        ({"max_steps": 10, "optimizer": {"name": "adamw", "betas": [0.9, 1]}}, False),
        ({"max_steps": 10, "optimizer": {"name": "adamw", "betas": [0.9]}}, False),
        ({"max_steps": 10, "optimizer": {"lr": 0.1}}, False),
        ({"max_steps": 10, "optimizer": {"name": "sgd", "betas": [0.9, 0.9]}}, False),
        ({"max_steps": 10, "optimizer": {"name": "adamw", "moments_dtype": ["int8", "float32"]}}, True),
        ({"max_steps": 10, "dataset": {"path": "x", "shuffle": 1}}, False),
        ({"max_steps": 10, "run_name": ""}, False),
        ({"max_steps": 10, "unknown": None}, False),
        ([], False),
    ],
)
def test_verdicts(document, good):
    """Where readers of JSON like to differ."""
    assert structurally_valid(agree("training", document)) is good


def test_unknown_draft():
    """It is refused, with those that exist."""
    with pytest.raises(ValueError, match=r"draft='draft-4': must be one of 2020-12, draft-7"):
        json_schema("draft-4")
