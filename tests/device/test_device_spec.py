"""What a specification means, and that nothing else means anything."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gaudi3_rt.device import DeviceSpec, parse_spec
from gaudi3_rt.errors import ParameterValidationError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("auto", DeviceSpec("auto")),
        ("cpu", DeviceSpec("cpu")),
        ("hpu", DeviceSpec("hpu")),
        ("simulated", DeviceSpec("simulated")),
        (8, DeviceSpec("hpu", count=8)),
        ("8", DeviceSpec("hpu", count=8)),
        ("hpu:0", DeviceSpec("hpu", (0,))),
        ("hpu:0,2-3", DeviceSpec("hpu", (0, 2, 3))),
        ("hpu:7,1-1,0", DeviceSpec("hpu", (7, 1, 0))),
        ("simulated:1023", DeviceSpec("simulated", (1023,))),
    ],
)
def test_meaning(spec, expected):
    """Kinds, numbers in the order given, counts."""
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("", "it names no kind of device"),
        ("gpu", "it names no kind of device"),
        ("cuda:0", "it names no kind of device"),
        (" HPU:1 ", "did you mean 'hpu:1'"),
        ("cpu:0", "the CPU has no number"),
        ("auto:0", "it names no kind of device"),
        ("hpu:", "'' is neither a number nor a range"),
        ("hpu:0,", "'' is neither a number nor a range"),
        ("hpu:-1", "'-1' is neither a number nor a range"),
        ("hpu:1-", "'1-' is neither a number nor a range"),
        ("hpu:0 ,1", "'0 ' is neither a number nor a range"),
        ("hpu:\u0662", "is neither a number nor a range"),
        ("\u0668", "it names no kind of device"),
        ("hpu:3-1", "the range '3-1' runs backwards"),
        ("hpu:0,2-4,3", "3 is named more than once"),
        ("hpu:1024", "numbers go up to 1023"),
        ("hpu:0-99999999999999999999", "numbers go up to 1023"),
        ("0", "a number of devices is 1 to 1023"),
        (-8, "a number of devices is 1 to 1023"),
        (10**30, "a number of devices is 1 to 1023"),
        (True, "it is a bool"),
        (None, "it is a NoneType"),
        (1.0, "it is a float"),
        (["hpu"], "it is a list"),
    ],
)
def test_nonsense(spec, problem):
    """One error that says what is wrong and what is allowed."""
    with pytest.raises(ParameterValidationError) as caught:
        parse_spec(spec)
    assert problem in str(caught.value)
    assert "allowed: 'auto', 'cpu', a number of HPUs" in str(caught.value)


def test_a_long_text_is_cut():
    """An error stays readable."""
    with pytest.raises(ParameterValidationError) as caught:
        parse_spec("hpu:" + "x" * 10**6)
    assert len(str(caught.value)) < 400


def test_ranges_that_overlap_are_refused_quickly():
    """However long the text is: of 700 000 numbers each is there 700 times; looking for each among all takes hours."""
    with pytest.raises(ParameterValidationError, match="0 is named more than once"):
        parse_spec("hpu:" + ",".join(["0-1023"] * 700))


@given(st.text() | st.from_regex(r"\A(hpu|simulated|cpu|auto)?:?[0-9,\- ]{0,20}\Z") | st.integers())
@example("hpu:0-1023")
def test_whatever_is_accepted_is_what_it_says(spec):
    """It reads the same again, has no number twice, and all numbers are in range."""
    try:
        meaning = parse_spec(spec)
    except ParameterValidationError:
        return
    assert parse_spec(str(meaning)) == meaning
    assert meaning.kind in {"auto", "cpu", "hpu", "simulated"}
    numbers = meaning.numbers or ()
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number <= 1023 for number in numbers)
    assert meaning.count is None or 1 <= meaning.count <= 1023
    assert meaning.numbers is None or meaning.numbers
