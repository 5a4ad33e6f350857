"""Variables that are set are compared with what their readers accept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.device import VARIABLES, check_environment
from gaudi3_rt.device import _bridge_flags as flags


def check(**environment):
    """Severity and subject of each finding."""
    return [(finding.severity, finding.subject) for finding in check_environment(environment)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PT_HPU_LAZY_MODE", "0"),
        ("PT_HPU_ENABLE_SFG", "TRUE"),
        ("PT_HPU_INITIAL_WORKSPACE_SIZE", "0x100000"),
        ("PT_HPU_RECIPE_CACHE_CONFIG", "/var/recipes,True,1024"),
        ("PT_HPU_RECIPE_CACHE_CONFIG", "/var/recipes"),
        ("PT_HPU_POOL_STRATEGY", "5"),
        ("HABANA_VISIBLE_MODULES", "0,1,7"),
        ("HABANA_VISIBLE_DEVICES", "all"),
        ("HLS_MODULE_ID", "-1"),
        ("LOG_LEVEL_ALL", "6"),
        ("GC_KERNEL_PATH", "/a.so:/usr/lib/habanalabs/libtpc_kernels.so"),
        ("PT_HPU_ENABLE_SFG", ""),
        ("HOME", "/root"),
        ("PT_MY_OWN", "x"),
    ],
)
def test_what_is_right_is_not_mentioned(name, value):
    """An empty value is as good as none: the bridge takes its default."""
    assert check(**{name: value}) == []


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PT_HPU_LAZY_MODE", "2", "one of 0, 1"),
        ("PT_HPU_ENABLE_SFG", "yes", "one of 0, 1, false, true"),
        ("PT_HPU_POOL_STRATEGY", "OPTIMIZE_UTILIZATION", "a whole number from 0 to 5"),
        ("PT_HPU_POOL_MEM_ACQUIRE_PERC", "101", "a whole number from 1 to 100"),
        ("PT_HPU_RECIPE_CACHE_CONFIG", "/var/recipes,maybe,1024", "PATH,DELETE_ON_START,SIZE_MB"),
        ("HABANA_VISIBLE_MODULES", "0,8", "numbers from 0 to 7"),
        ("HABANA_VISIBLE_MODULES", "1,1", "each once"),
        ("HLS_MODULE_ID", "\u0661", "a whole number from -1 to 7"),
        ("LOG_LEVEL_ALL", "trace", "a whole number from 0 to 6"),
        ("GC_KERNEL_PATH", ":".join("abcdefghijklmnop"), "15 at most"),
        ("WORLD_SIZE", "0", "a whole number from 1 on"),
    ],
)
def test_values_that_are_not_allowed(name, value, allowed):
    """An error with what is allowed, and a source."""
    (finding,) = check_environment({name: value})
    assert (finding.severity, finding.subject) == ("error", name)
    assert finding.message.startswith(f"{name} is '")
    assert allowed in finding.message
    assert finding.source


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("PT_HPU_LAZY_MOD", "did you mean PT_HPU_LAZY_MODE?"),
        ("PT_HPU_ENABLE_LAZY_COLLECTIVE", "did you mean PT_HPU_ENABLE_LAZY_COLLECTIVES?"),
        ("PT_HPU_WARP_DRIVE", "look it up"),
        ("PT_HPU_ENABLE_LAZY_COMPILATION", "remove it: PT_HPU_LAZY_MODE decides"),
        ("PT_HPU_GRAPH_COMPILER_OPT_LEVEL", "remove it"),
        ("PT_HPU_ENABLE_SYNAPSE_LAYOUT_OPT", "remove it"),
    ],
)
def test_unknown_names(name, advice):
    """A warning, as another release may know them; those of guides that nothing reads are known as such."""
    (finding,) = check_environment({name: "1"})
    assert (finding.severity, finding.subject) == ("warning", name)
    assert finding.advice.startswith(advice)


def test_long_values():
    """Python refuses to read thousands of digits; a reader of 64 bits does, too."""
    for name in ("RANK", "PT_HPU_POOL_STRATEGY", "HLS_MODULE_ID"):
        (finding,) = check_environment({name: "9" * 5000, "WORLD_SIZE": "8"})
        assert (finding.severity, finding.subject) == ("error", name)
        assert len(finding.message) < 400


def test_no_secret_is_shown():
    """A token that stands in the wrong variable; it is masked before it is cut."""
    token = "ghp_" + "a1B2" * 9
    for value in (token, "x" * 50 + " " + token, f"https://bob:{token}@host/{'x' * 99}"):
        (finding,) = check_environment({"LOG_LEVEL_ALL": value})
        assert "a1B2" not in str(finding)


def test_combinations():
    """Each value is right by itself."""
    assert check(RANK="8", WORLD_SIZE="8") == [("error", "RANK")]
    assert check(RANK="7", WORLD_SIZE="8") == check(RANK="007", WORLD_SIZE="0x8") == []
    assert check(HLS_MODULE_ID="3", HABANA_VISIBLE_MODULES="0,1") == [("error", "HLS_MODULE_ID")]
    assert check(PT_HPU_MAX_COMPOUND_OP_SIZE="256") == [("warning", "PT_HPU_MAX_COMPOUND_OP_SIZE")]


def test_errors_come_first():
    """Then by name."""
    found = check(PT_HPU_WARP_DRIVE="1", WORLD_SIZE="0", LOG_LEVEL_ALL="9", PT_HPU_A_B_C="2")
    assert found == [
        ("error", "LOG_LEVEL_ALL"),
        ("error", "WORLD_SIZE"),
        ("warning", "PT_HPU_A_B_C"),
        ("warning", "PT_HPU_WARP_DRIVE"),
    ]


def test_this_process(monkeypatch):
    """Its variables are read at each call."""
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "maybe")
    assert "PT_HPU_LAZY_MODE" in [finding.subject for finding in check_environment()]


def test_the_table():
    """Each name in one list of the bridge's, and all of them known; every row has its source."""
    lists = (flags.BOOLEAN, flags.UNSIGNED, flags.SIGNED, flags.TEXT, flags.PYTHON)
    assert len(frozenset().union(*lists)) == sum(len(names) for names in lists)
    assert frozenset().union(*lists) <= set(VARIABLES)
    assert all(variable.source and variable.allowed for variable in VARIABLES.values())


@given(
    st.dictionaries(
        st.sampled_from([*VARIABLES]) | st.from_regex(r"\APT_HPU_[A-Z_]{0,20}\Z"),
        st.text(st.characters(exclude_characters="\0")) | st.from_regex(r"\A-?(0x)?[0-9a-f,]{0,30}\Z"),
        max_size=6,
    )
)
def test_any_environment(environment):
    """Is checked to the end; findings are about variables that are set."""
    for finding in check_environment(environment):
        assert finding.subject in environment
        assert len(finding.message) < 400
