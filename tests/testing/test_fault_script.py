"""What a script means, that its text and its objects are the same, and errors that say where it is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing import KINDS, Fault, parse_script
from gaudi3_rt.testing._faults import LASTING
from gaudi3_rt.testing._messages import STATUS


def test_a_whole_script():
    """Semicolons or lines between entries, remarks, any case, any spacing."""
    faults = parse_script("""
        step 0: busy 2 times          # somebody else is still there
        step 12:  SynStatus 20  on rank 3; Step 40: hang 30 s; step 55: ECC
        step 56: ecc corrected 3 times on ranks 0, 2
        step 60: device lost
        free memory leaks 1 MB a step; step 70: oom;
        telemetry unavailable from step 5 to step 9
        step 3: temperature 95.5 C to step 4 on rank 1
        power 900 W; slow by 250 ms from step 8
        leak 2 MiB per step on rank 7
    """)
    assert faults == (
        Fault("busy", 0, times=2),
        Fault("synstatus", 12, 20, ranks=frozenset({3})),
        Fault("hang", 40, 30),
        Fault("ecc", 55),
        Fault("ecc corrected", 56, times=3, ranks=frozenset({0, 2})),
        Fault("device lost", 60),
        Fault("leak", 0, 10**6),
        Fault("oom", 70),
        Fault("telemetry unavailable", 5, last_step=9),
        Fault("temperature", 3, 95.5, last_step=4, ranks=frozenset({1})),
        Fault("power", 0, 900),
        Fault("slow", 8, 0.25),
        Fault("leak", 0, 2 * 2**20, ranks=frozenset({7})),
    )


@pytest.mark.parametrize("text", ["", " ; ;\n", "# nothing goes wrong"])
def test_nothing(text):
    """Is a script, too."""
    assert parse_script(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step 3: hng 30 s", "entry 1 of the script, 'step 3: hng 30 s': 'hng 30 s' is no fault"),
        ("oom; step 1: ecx", "entry 2 of the script, 'step 1: ecx': 'ecx' is no fault; did you mean 'ecc'?"),
        ("oom; step 1: ecx", "faults are synstatus, busy, oom, hang, ecc"),
        ("hang", "'hang' is no fault"),
        ("hang 30", "duration is '30'; it has to be a duration such as '30 s'"),
        ("hang 0 s", "'hang' needs a positive value"),
        ("leak 1 MB", "'leak 1 MB' is no fault"),
        ("leak -1 MB a step", "size is '-1 MB'"),
        ("leak 0.5 B a step", "a whole number of bytes"),
        ("synStatus 99", "synStatus 99 is none of [4, 7, 8, "),
        ("temperature 95", "'95' is not a number with the unit C"),
        ("step 5: device lost to step 3", "the last step, 3, is before step 5"),
        ("device lost 2 times", "'device lost' lasts; it cannot happen 2 times"),
        ("oom to step 4", "'oom' is over at once; it has no last step"),
        ("oom 0 times", "times is 0; it has to be 1 to"),
        ("step 5: oom from step 6", "it says the step twice"),
        ("oom on rank 1 on rank 2", "it says ranks twice"),
        ("step -1: oom", "'step -1: oom' is no fault"),
        ("step \u0661: oom", "is no fault"),
        ("step 9999999999: oom", "step is 9999999999; it has to be 0 to 1000000000"),
    ],
)
def test_mistakes(text, message):
    """The entry, what is wrong with it, what is allowed."""
    with pytest.raises(ParameterValidationError) as caught:
        parse_script(text)
    if message.endswith("?"):
        message = message.removesuffix("?")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "flood"},
        {"kind": "oom", "value": 3},
        {"kind": "hang", "value": float("inf")},
        {"kind": "hang", "value": float("nan")},
        {"kind": "oom", "ranks": frozenset()},
        {"kind": "oom", "ranks": frozenset({-1})},
        {"kind": "oom", "step": -1},
        {"kind": "oom", "step": "3"},
        {"kind": "oom", "step": 3.5},
        {"kind": "oom", "times": None},
        {"kind": "slow", "value": 1, "last_step": 7.0},
        {"kind": "synstatus"},
    ],
)
def test_objects_are_checked_as_well(fields):
    """The same rules as for text."""
    with pytest.raises(ParameterValidationError):
        Fault(**fields)


@st.composite
def fault(draw):
    """Any fault."""
    kind = draw(st.sampled_from(KINDS))
    values = {
        "synstatus": st.sampled_from([*STATUS]),
        "hang": st.integers(1, 10**9).map(lambda n: n / 1000),
        "slow": st.integers(1, 10**9).map(lambda n: n / 1000),
        "leak": st.integers(1, 2**40),
        "temperature": st.integers(1, 2000).map(lambda n: n / 10),
        "power": st.integers(1, 20000).map(lambda n: n / 10),
    }
    step = draw(st.integers(0, 10**9))
    lasting = kind in LASTING
    return Fault(
        kind,
        step,
        draw(values.get(kind, st.just(0))),
        times=1 if lasting else draw(st.integers(1, 10**9)),
        last_step=draw(st.none() | st.integers(step, 10**9)) if lasting else None,
        ranks=draw(st.none() | st.frozensets(st.integers(0, 10**6), min_size=1, max_size=4)),
    )


@given(st.lists(fault(), max_size=5))
def test_text_and_objects_are_the_same(faults):
    """A fault's text is read as that fault, and a script of them as all of them."""
    assert parse_script("; ".join(str(one) for one in faults)) == tuple(faults)


@given(st.text(max_size=80) | st.text("step 0123456789: oomhangecclost;ontimesrank,\n#", max_size=80))
def test_any_text(text):
    """Is a script or a ParameterValidationError."""
    try:
        faults = parse_script(text)
    except ParameterValidationError as error:
        assert "of the script" in str(error)  # noqa: PT017 (either is right)
    else:
        assert all(isinstance(one, Fault) for one in faults)
