"""Configurations for fuzz tests: from a JSON Schema, and then with something changed in them."""

import copy

from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, 65535, 65536]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.5, 1e308, 1e-320, 2.0**63, 2.0**64]),
    TEXTS,
    st.sampled_from(["yes", "on", "1", "1e-3", "true", "null", "bfloat16", "adamw", "cpu", "${HOME}", "http://x.org"]),
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


def valid(schema, node=None):
    """Documents that a schema allows, as far as this project's schemas go."""
    node = schema if node is None else node
    if "$ref" in node:
        return valid(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
    if alternatives := node.get("oneOf") or node.get("anyOf"):
        return st.one_of([valid(schema, one) for one in alternatives])
    if node.get("type") == "object":
        fields = {name: valid(schema, one) for name, one in node["properties"].items()}
        needed = {name: fields.pop(name) for name in node.get("required", [])}
        return st.fixed_dictionaries(needed, optional=fields)
    if node.get("type") == "array":
        return st.lists(valid(schema, node["items"]), min_size=node["minItems"], max_size=node["maxItems"])
    if "const" in node or "enum" in node:
        return st.sampled_from(node["enum"] if "enum" in node else [node["const"]])
    return LEAVES[node["type"]](node)


def _texts(node):
    """Of users' size; the upper limit is met by mutation."""
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=node["minLength"], max_size=30)


def _integers(node):
    low, high = node["minimum"], node["maximum"] if "maximum" in node else node["exclusiveMaximum"] - 1
    small = st.integers(low, min(high, low + 40))
    return st.integers(low, high) | small | small.map(float)


def _numbers(node):
    low, high = node.get("minimum", node.get("exclusiveMinimum")), node.get("maximum", node.get("exclusiveMaximum"))
    floats = st.floats(
        low, high, exclude_min="exclusiveMinimum" in node, exclude_max="exclusiveMaximum" in node, allow_nan=False
    )
    usual = st.sampled_from([0.0, 1e-3, 0.1, 0.5, 0.9, 0.999]).filter(
        lambda x: low < x < high or (x == low and "minimum" in node)
    )
    return floats | usual


LEAVES = {
    "boolean": lambda _: st.booleans(),
    "integer": _integers,
    "null": lambda _: st.none(),
    "number": _numbers,
    "string": _texts,
}


@st.composite
def mutated(draw, documents):
    """A document with one to three values replaced, removed or added somewhere."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "almost", "remove", "add", "longer"])):
            case "replace":
                holder[key] = draw(JSON)
            case "almost":
                holder[key] = draw(st.sampled_from(_almost(holder[key])))
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(TEXTS)] = draw(JSON)
            case _:
                holder[key] = "x" * draw(st.integers(4095, 4098)) if isinstance(holder[key], str) else [holder[key]] * 3
    return document


def _places(node):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _almost(value):
    """Values that a lenient reader would take for this one."""
    found = [str(value), [value], {"value": value}, None]
    if isinstance(value, int | float) and abs(value) < 2**70:
        found += [float(value), value + 0.5, -value, bool(value), int(value), value + 1]
    if isinstance(value, str):
        found += [value.upper(), value + " ", value + "\n", ""]
    return found
