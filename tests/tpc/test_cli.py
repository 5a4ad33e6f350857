"""The command gaudi3-rt: what it runs, prints, writes and returns."""

import builtins
from importlib.metadata import entry_points

import numpy as np
import pytest
from click.testing import CliRunner

import gaudi3_rt_command
from gaudi3_rt import cli
from gaudi3_rt.cli._app import app

SCALE = """
void main(tensor from, tensor to, float factor, bool round) {
  const int first = get_index_space_offset()[0], last = first + get_index_space_size()[0];
  for (int i = first; i < last; ++i) {
    int5 c = {64 * i};
    v_f32_st_tnsr(c, to, v_f32_ld_tnsr_b(c, from) * factor);
    if (round) printf("member %d\\n", i);
#ifdef EXTRA
    EXTRA;
#endif
  }
}
"""


@pytest.fixture
def gaudi3_rt(tmp_path, monkeypatch):
    """Runs the command where there is a kernel scale.c: its exit status and output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scale.c").write_text(SCALE)

    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


OPTIONS = ("scale.c", "-s", "2.5", "-s", "false", "-x", "2", "-a", "0:64:0:63")


def test_run(gaudi3_rt, tmp_path):
    """Reads and writes .npy files and reports what happened."""
    x = np.arange(100, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    status, text = gaudi3_rt("tpc", "run", *OPTIONS, "-a", "all", "-i", "x.npy", "-o", "f32[100]:y.npy")
    assert status == 0, text
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x * 2.5)
    assert "scale: 2 members in" in text
    assert "checked, emulated" in text
    assert "  from  input   float32[100]  28 lanes padded\n" in text
    assert "  to    output  f32[100]  0 to 247.5, mean 123.75; 28 lanes dropped\n" in text
    assert text.endswith("wrote y.npy\n")


def test_run_in_place_on_random_numbers(gaudi3_rt):
    """The seed decides on them; what the kernel prints is shown."""
    texts = [
        gaudi3_rt("tpc", "run", "scale.c", "-s", "1", "-s", "true", "-x", "2", "-i", "f32[10]", "-o", "@0", *more)[1]
        for more in (("--seed", "1"), ("--seed", "2"), ("--seed", "1", "--fast"))
    ]
    ranges = [t.split("output  f32[10]  ")[1].split(";")[0] for t in texts]
    assert ranges[0] == ranges[2] != ranges[1]
    assert "printed:\nmember " in texts[0]
    assert "not checked" in texts[2]


def test_check(gaudi3_rt):
    """Many seeds; findings are listed and set the exit status."""
    good = ("tpc", "check", *OPTIONS, "-a", "0:64:0:63", "-i", "f32[100]", "-o", "f32[100]", "--runs", "4")
    status, text = gaudi3_rt(*good)
    assert status == 0
    assert "2 members in 1 to 2 boxes, emulated\n" in text
    assert "to: 28 stored lanes were outside and dropped" in text
    assert text.endswith("4 of 4 runs without a finding\n")
    status, text = gaudi3_rt("tpc", "check", *OPTIONS, "-a", "0:64:0:62", *good[-6:])
    assert status == 1
    assert text.count("It stores to to (tensor 1)") == 4
    assert text.endswith("0 of 4 runs without a finding\n")
    assert "none were checked" in gaudi3_rt("tpc", "check", *OPTIONS[:-2], *good[-6:])[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "f32[4]", "-o", "f32[4]", "-x", "2"), "scale has 2 scalars (factor, round); 0 were given"),
        (("-i", "f99[4]", "-o", "f32[4]", "-x", "2"), "'f99' is no element type"),
        (("-i", "none.npy", "-o", "f32[4]", "-x", "2"), "neither an .npy file that exists nor a type"),
        (("-i", "f32[4]", "-o", "@1", "-x", "2"), "'@1' names no input; there are 1"),
        (("-i", "f32[4]", "-o", "y", "-x", "2"), "'y' is not a type and shape"),
        (("-i", "f32[4]", "-o", "@0", "-x", "two"), "index space 'two' is not a list of sizes"),
        (("-i", "f32[4]", "-o", "@0", "-x", "2", "-a", "64"), "'64' is not dim:a:start:end"),
        (("-i", "f32[4]", "-o", "@0", "-x", "2", "-s", "one"), "'one' is not a number, true or false"),
        (("-i", "f32[4]", "-o", "@0", "-x", "2", "-D", "EXTRA=v_f99_b()"), "not declared: v_f99_b;"),
    ],
)
def test_errors(gaudi3_rt, arguments, message):
    """One message, no traceback."""
    status, text = gaudi3_rt("tpc", "run", "scale.c", *arguments)
    assert status != 0
    assert message in " ".join(text.split())


def test_element_types(gaudi3_rt, tmp_path):
    """bfloat16 files are uint16 ones; every type can be random."""
    (tmp_path / "copy.c").write_text("void main(tensor a, tensor b) { int5 c = {0}; COPY(c, b, LOAD(c, a)); }")
    np.save(tmp_path / "x.npy", np.array([0x3F80, 0x4000], np.uint16))
    define = ("-D", "LOAD=v_bf16_ld_tnsr_b", "-D", "COPY=v_bf16_st_tnsr")
    status, text = gaudi3_rt("tpc", "run", "copy.c", "-i", "bf16:x.npy", "-o", "bf16[2]", "-x", "1", *define)
    assert status == 0, text
    assert "bf16[2]  1 to 2, mean 1.5" in text
    for element in ("bf16", "f16", "i32", "u8"):
        define = ("-D", f"LOAD=v_{element}_ld_tnsr_b", "-D", f"COPY=v_{element}_st_tnsr")
        status, text = gaudi3_rt(
            "tpc", "run", "copy.c", "-i", f"{element}[3,4]", "-o", f"{element}[3,4]", "-x", "1", *define
        )
        assert status == 0, text


def test_command_is_installed():
    """Under its name."""
    (entry,) = [e for e in entry_points(group="console_scripts") if e.name == "gaudi3-rt"]
    assert entry.load() is gaudi3_rt_command.main


def test_without_click(monkeypatch):
    """The command says what to install."""
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "click":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SystemExit, match=r'pip install "gaudi3_rt\[cli\]"'):
        cli.main()
