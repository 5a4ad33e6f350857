"""DataValidator returns a value as it is, or says what was seen and what is allowed."""

import ipaddress
import math
import os
import re
import socket
import string
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from _fuzz import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.validation import DataValidator

CHECK = DataValidator()
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
)


def refused(method, value, **options):
    """The message of the refusal, None if the value was accepted; then it is the same object."""
    try:
        assert method(value, "field", **options) is value
    except ParameterValidationError as error:
        return str(error) if error.context["field"] == "field" else pytest.fail(str(error.context))
    return None


# Text and numbers


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ("abc", {}, None),
        ("", {}, None),
        ("naïve\tline\n", {}, None),
        (3, {}, "field: seen 3; allowed: text"),
        (b"abc", {}, "field: seen an object of type bytes; allowed: text"),
        (None, {}, "seen None"),
        ("ab", {"min_length": 3}, "allowed: text of 3 to 4096 characters; it has 2"),
        ("abcd", {"max_length": 3}, "allowed: text of 0 to 3 characters; it has 4"),
        ("x" * 4097, {"max_length": 10**9}, "it has 4097"),
        ("a\0b", {}, "character 1 is U+0000"),
        ("a\x1b[31m", {}, "character 1 is U+001B"),
        ("\ud800", {}, "character 0 is U+D800"),
        ("abc", {"charset": string.ascii_lowercase}, None),
        ("abC", {"charset": string.ascii_lowercase}, "character 2 is U+0043"),
        ("a-1", {"pattern": "[a-z]-[0-9]"}, None),
        ("a-12", {"pattern": "[a-z]-[0-9]"}, "allowed: text that matches [a-z]-[0-9]"),
        ("a-1\n", {"pattern": re.compile("[a-z]-[0-9]$")}, "that matches"),
        ("x" * 257, {"pattern": "x*"}, "at most 256 characters"),
    ],
)
def test_string(value, options, message):
    """Length, characters, pattern of the whole."""
    found = refused(CHECK.string, value, **options)
    assert (found is None) == (message is None)
    assert message is None or message in found


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (1, {}, None),
        (-1.5, {}, None),
        (np.float32(1), {}, None),
        (Fraction(1, 3), {}, None),
        (10**400, {}, None),
        (np.int64(3), {"integer": True}, None),
        (True, {}, "field: seen True; allowed: a number"),
        (np.True_, {}, "seen True; allowed: a number"),
        ("1", {}, "seen '1'; allowed: a number"),
        (1j, {}, "allowed: a number"),
        (1.0, {"integer": True}, "seen 1.0; allowed: an integer"),
        (math.nan, {}, "seen nan; allowed: a finite number"),
        (np.float32("inf"), {}, "seen inf; allowed: a finite number"),
        (math.inf, {"finite": False}, None),
        (math.inf, {"finite": False, "maximum": 1}, "allowed: a number <= 1"),
        (math.nan, {"finite": False, "minimum": 0}, "allowed: a number >= 0"),
        (5, {"minimum": 5, "maximum": 5}, None),
        (4, {"minimum": 5, "maximum": 6}, "seen 4; allowed: a number >= 5 and <= 6"),
    ],
)
def test_number(value, options, message):
    """Range, finite, integer; a boolean is no number."""
    found = refused(CHECK.number, value, **options)
    assert (found is None) == (message is None)
    assert message is None or message in found


def test_very_long_integers():
    """Python does not write them out."""
    assert "an integer of 16610 bits" in refused(CHECK.number, 10**5000, maximum=5)


@examples(80)
@given(ANYTHING, st.integers(-5, 5), st.integers(-5, 5))
def test_any_value_as_a_number(value, minimum, maximum):
    """Accepted exactly if it is an integer or a finite float in the range."""
    good = type(value) in {int, float} and abs(value) < math.inf and minimum <= value <= maximum
    assert (refused(CHECK.number, value, minimum=minimum, maximum=maximum) is None) == good


@examples(80)
@given(ANYTHING)
def test_any_value_as_an_identifier(value):
    """Only ASCII that begins with a letter or an underscore."""
    first, rest = string.ascii_letters + "_", string.ascii_letters + string.digits + "_.-"
    good = isinstance(value, str) and 0 < len(value) < 64 and value[0] in first and all(c in rest for c in value)
    assert (refused(CHECK.identifier, value) is None) == good


@pytest.mark.parametrize(
    ("value", "good"),
    [
        *((good, True) for good in ("a", "_a-1.b", "a" * 63)),
        *((bad, False) for bad in ("a" * 64, "1a", "", "a b", "a\n", "é", "-a", 3)),
    ],
)
def test_identifier(value, good):
    """Names of runs, metrics, files."""
    assert (refused(CHECK.identifier, value) is None) == good


def test_secrets_are_not_shown():
    """Neither those that their field names, nor those in URLs."""
    with pytest.raises(ParameterValidationError) as excinfo:
        CHECK.string("hunter2", "password", max_length=3)
    assert "hunter2" not in str(excinfo.value) + str(excinfo.value.to_dict())
    with pytest.raises(ParameterValidationError) as excinfo:
        CHECK.url("https://me:hunter2@example.org", "where")
    assert "hunter2" not in str(excinfo.value) + str(excinfo.value.to_dict())


# URLs


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org", None),
        ("https://example.org:8443/a?b#c", None),
        ("https://[2001:db8::1]/x", None),
        ("https://a_b.example.org.", None),
        ("HTTPS://example.org", None),
        ("http://example.org", "has the scheme 'http'; allowed: https"),
        ("javascript:alert(1)", "has the scheme 'javascript'"),
        ("//example.org", "has the scheme ''"),
        ("example.org", "has the scheme ''"),
        ("https://", "has no host"),
        ("https:///etc/passwd", "has no host"),
        ("https://user@example.org", "a user name or password"),
        ("https://@example.org", "a user name or password"),
        ("https://example.org:", "no usable port"),
        ("https://example.org:0", "no usable port"),
        ("https://example.org:99999", "its host or port cannot be read"),
        ("https://[::1", "its host or port cannot be read"),
        ("https://[x]/", "its host or port cannot be read"),
        ("https://[v1.x]/", "its host or port cannot be read"),
        ("https://[10.0.0.1]/", "its host or port cannot be read"),
        ("https://[2001:db8::1].evil.org/", "its host or port cannot be read"),
        ("https://evil.org[2001:db8::1]/", "its host or port cannot be read"),
        ("https://exa mple.org", "a space, a control character"),
        ("https://example.org\n", "a space, a control character"),
        ("https:\\\\example.org", "or a backslash"),
        ("https://example.org\\@evil.org", "or a backslash"),
        ("https://-a.org", "neither a name nor an address"),
        ("https://a..org", "neither a name nor an address"),
        ("https://exämple.org", "neither a name nor an address"),
        ("https://" + "a" * 64, "neither a name nor an address"),
        ("https://%31%32%37.0.0.1", "neither a name nor an address"),
        ("", "allowed: text of 1 to"),
        (b"https://x", "allowed: text"),
    ],
)
def test_url(url, message):
    """Scheme, host, port, and nothing that readers of URLs disagree about."""
    found = refused(CHECK.url, url)
    assert (found is None) == (message is None), found
    assert message is None or message in found


def test_schemes():
    """Any that are allowed; one text for all of them is a mistake."""
    assert refused(DataValidator(schemes={"s3", "https"}).url, "s3://bucket/key") is None
    with pytest.raises(ParameterValidationError, match=r"schemes='https': must be a collection"):
        DataValidator(schemes="https")
    assert refused(DataValidator().url, "HTTPS://example.org") is None
    with pytest.raises(ParameterValidationError, match=r"schemes=\('HTTPS',\): must be in lower case"):
        DataValidator(schemes=("HTTPS",))


BLOCKED = [
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "0.0.0.0/8")
]
NOTATIONS = [
    str,
    lambda ip: str(int(ip)),
    lambda ip: hex(int(ip)),
    lambda ip: ".".join(f"0{int(part):o}" for part in str(ip).split(".")),
    lambda ip: f"{str(ip).split('.')[0]}.{int(ip) & 0xFFFFFF}",
    lambda ip: f"[::ffff:{ip}]",
    lambda ip: f"[::ffff:0:{ip}]",
    lambda ip: f"[::{ip}]",
    lambda ip: f"[64:ff9b::{ip}]",
    lambda ip: f"[2002:{int(ip) >> 16:x}:{int(ip) & 0xFFFF:x}::]",
    lambda ip: f"{ip}.",
]


@examples(100)
@given(
    st.one_of([st.ip_addresses(v=4, network=network) for network in BLOCKED]) | st.ip_addresses(v=4),
    st.sampled_from(NOTATIONS),
)
def test_private_addresses(address, notation):
    """In every notation that a resolver takes."""
    url = f"https://{notation(address)}/"
    blocked = any(address in network for network in BLOCKED)
    found = refused(DataValidator(block_private=True).url, url)
    if blocked:
        assert found is not None
        assert "this machine or to a private network" in found
    elif found is not None:  # other ranges that are not public
        assert not address.is_global or address.is_multicast
    assert refused(CHECK.url, url) is None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "a.localhost", "[::1]", "[fe80::1]", "[fd00::1]", "[fec0::1]", "[::]"]
)
def test_private_names_and_ipv6(host):
    """Likewise."""
    assert "private" in refused(DataValidator(block_private=True).url, f"https://{host}/")
    assert refused(CHECK.url, f"https://{host}/") is None
    for public in ("[2606:4700::1111]", "[::ffff:8.8.8.8]"):
        assert refused(DataValidator(block_private=True).url, f"https://{public}/") is None


@examples(100)
@given(st.text(max_size=40) | st.text("htps:/@[]%.\\?#01a", max_size=30).map("https://".__add__))
def test_any_text_as_a_url(text):
    """What is accepted names one host, the same for whoever reads it."""
    if refused(CHECK.url, text) is None:
        scheme, _, rest = text.partition("://")
        authority = re.split("[/?#]", rest)[0]
        assert scheme.lower() == "https"
        assert re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(%[\w.]+)?\])(:[0-9]+)?", authority), text


# Paths


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A root with files and links, beside a folder with a secret."""
    top = tmp_path_factory.mktemp("tree")
    root = top / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("inside")
    (root / "a" / "b" / "file").write_text("inside")
    (top / "outside").mkdir()
    (top / "outside" / "file").write_text("secret")
    (root / "out").symlink_to("../outside")
    (root / "in").symlink_to("a")
    (root / "a" / "up").symlink_to("../..")
    (root / "loop").symlink_to("loop")
    (root / "a" / "link").symlink_to("../../outside/file")
    os.mkfifo(root / "pipe")
    return top


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("a/file", None),
        ("a/./file", None),
        ("a//file", None),
        ("in/file", None),
        ("new", None),
        (".", None),
        (Path("a/file"), None),
        ("", "text of 1 to"),
        ("a\0b", "U+0000"),
        ("/etc/passwd", "it is absolute"),
        ("../outside/file", "it goes up by '..'"),
        ("a/../a/file", "it goes up by '..'"),
        ("out/file", "it leads out of its root"),
        ("a/up/outside/file", "it leads out of its root"),
        ("a/link", "it leads out of its root"),
        (3, "allowed: text"),
    ],
)
def test_path(tree, path, fault):
    """Inside of the root, also after links; it comes back as it was."""
    found = refused(DataValidator(root=tree / "root").path, path)
    assert (found is None) == (fault is None), found
    assert fault is None or fault in found


def test_path_must_exist(tree):
    """If that is asked for."""
    check = DataValidator(root=tree / "root")
    assert refused(check.path, "a/file", must_exist=True) is None
    assert "a path that exists" in refused(check.path, "none", must_exist=True)
    assert "a path that exists" in refused(check.path, "n" * 300, must_exist=True)


def test_path_without_a_root():
    """Its form is looked at."""
    assert refused(CHECK.path, "anything/below") is None
    assert refused(CHECK.path, "../x") is not None
    with pytest.raises(ParameterValidationError, match="without a root opens no files"):
        CHECK.open("x", "field")


def test_open(tree):
    """Files, over no link at all: not even one that stays inside, for it could be another a moment later."""
    check = DataValidator(root=tree / "root")
    with check.open("a/b/file", "field") as file:
        assert file.read() == b"inside"
    for path in (
        "in/file",
        "out/file",
        "a/link",
        "loop",
        "pipe",
        "a",
        ".",
        "a/file/x",
        "../outside/file",
        "/etc/passwd",
    ):
        with pytest.raises(ParameterValidationError) as excinfo:
            check.open(path, "field")
        assert excinfo.value.context["seen"] == repr(path)
    for path in ("none", "a/none", "none/file"):
        with pytest.raises(FileNotFoundError):
            check.open(path, "field")


def test_open_a_socket_or_too_long_a_name(tmp_path, monkeypatch):
    """Neither is a file."""
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path in ("socket", "n" * 300):
            with pytest.raises(ParameterValidationError, match="allowed: a regular file"):
                DataValidator(root=".").open(path, "field")


def test_open_while_a_folder_is_exchanged(tmp_path, monkeypatch):
    """A link that appears between the check and the opening leads nowhere."""
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    opened = os.open

    def exchange(path, flags, **rest):
        if path == "a":  # the moment before the folder is opened
            (tmp_path / "root" / "a").rename(tmp_path / "root" / "b")
            (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
        return opened(path, flags, **rest)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(ParameterValidationError, match="no symbolic links"):
        DataValidator(root=tmp_path / "root").open("a/file", "field")


PARTS = st.sampled_from(
    ["a", "b", "file", "in", "out", "up", "link", "loop", "..", ".", "", "root", "outside", "new", "pipe"]
)


@examples(150)
@given(st.lists(PARTS, min_size=1, max_size=6).map("/".join))
def test_no_path_leads_out(tree, path):
    """What is accepted is nothing that can be reached only from outside; what is opened is a file inside."""
    root = tree / "root"
    check = DataValidator(root=root)
    inside = {(one.stat().st_dev, one.stat().st_ino) for one in (root, *root.rglob("*")) if not one.is_symlink()}
    if refused(check.path, path) is None and (root / path).exists():
        found = (root / path).stat()
        assert (found.st_dev, found.st_ino) in inside
    try:
        with check.open(path, "field") as file:
            assert file.read() == b"inside"
    except (ParameterValidationError, FileNotFoundError):
        parts = [part for part in path.split("/") if part not in {"", "."}]
        assume(".." not in parts and not path.startswith("/"))
        assert parts not in (["a", "file"], ["a", "b", "file"])


@examples(80)
@given(ANYTHING)
def test_any_value_as_anything(value):
    """One kind of error for whatever is given."""
    check = DataValidator(root="/")
    for method in (check.string, check.number, check.identifier, check.path, check.url):
        refused(method, value)
