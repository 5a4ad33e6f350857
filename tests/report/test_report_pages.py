"""The pictures and the page: which there are, what stands on it, and that it opens in a browser without a network."""

import base64
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from _histories import finished, sample, started, step, write
from click.testing import CliRunner

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("jinja2", reason="jinja2 is not installed")

from dataclasses import replace

from gaudi3_rt.cli._app import app
from gaudi3_rt.report import _charts, _page, gather, write_report

PNG = b"\x89PNG\r\n\x1a\n"


def full_run(folder):
    """Of two ranks, with everything that there are pictures of."""
    by_rank = {}
    for rank in (0, 1):
        events = [started(rank, 2)]
        for i in range(1, 41):
            phases = {"data": 0.02, "forward": 0.03, "rest": 0.05}
            events.append(step(i, phases=phases, samples=4, tokens=64, loss=3 - i / 20, gradient_norm=1.0, rank=rank))
            if i % 10 == 0:
                memory = {"memory_used_bytes": i << 30, "memory_total_bytes": 128 << 30}
                events.append(sample(i / 10, f"simulated:{rank}", temperature_celsius=40.0 + i, **memory))
        by_rank[rank] = [*events, finished(40, 4.1, rank)]
    return write(folder, by_rank)


class Page(HTMLParser):
    """Texts, and addresses of what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.loads, self.tags = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """An element begins."""
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data):
        """A text between elements."""
        self.texts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of such a run: where each of its files is."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(gather(full_run(folder / "run")), folder / "out")


def test_every_picture_is_a_file_and_on_the_page(written):
    """The page has them within itself: it opens where there is no network, and nothing else."""
    assert written.keys() == {"report", *_charts.CHARTS}
    folder = written["report"].parent
    assert sorted(file.name for file in folder.iterdir()) == sorted(path.name for path in written.values())
    page = Page(written["report"].read_text(encoding="utf-8"))
    assert all(address.startswith("data:image/png;base64,") for address in page.loads)
    embedded = [base64.b64decode(address.partition(",")[2]) for address in page.loads]
    files = [path.read_bytes() for name, path in written.items() if name != "report"]
    assert embedded == files
    assert all(content.startswith(PNG) for content in files)
    assert "script" not in page.tags
    assert "completed" in page.texts
    assert "simulated" in page.texts


def test_what_was_not_measured_has_no_picture(tmp_path):
    """And one of an earlier report does not stay."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "memory.png").write_bytes(PNG)
    written = write_report(gather(write(tmp_path / "run", {0: [started(), step(1), step(2)]})), out)
    assert written.keys() == {"report", "throughput"}
    assert not (out / "memory.png").exists()
    assert "simulated" not in Page(written["report"].read_text(encoding="utf-8")).texts


def test_texts_of_a_run_are_no_html(tmp_path):
    """A run's name is whatever somebody chose."""
    run = gather(write(tmp_path / "run", {0: [started(), step(1)]}))
    run = replace(run, starts=tuple(replace(one, run_id="<script>x</script>") for one in run.starts), run_id="<b>&7")
    text = write_report(run, tmp_path / "out")["report"].read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert "&lt;b&gt;&amp;7" in text


def test_hard_values_can_be_drawn(tmp_path):
    """Losses that are not finite, a single step, a single sample: warnings are errors."""
    nothing = [step(1, loss=math.nan, gradient_norm=math.inf, samples=0, accuracy=0.5), sample(1, power_watts=1.0)]
    run = gather(write(tmp_path / "run", {0: [started(), *nothing]}))
    assert write_report(run, tmp_path / "out").keys() >= {"loss", "throughput", "devices"}


def test_a_rank_without_steps_can_be_drawn(tmp_path):
    """It has begun, and the others are ahead."""
    run = gather(write(tmp_path / "run", {0: [started(0, 2), step(1, loss=1.0, samples=2)], 1: [started(1, 2)]}))
    assert "loss" in write_report(run, tmp_path / "out")


def test_long_runs_are_drawn_by_medians_and_ranges():
    """One that is not a number does not reach its neighbours."""
    x = np.arange(10_000.0)
    y = np.where(x % 10 == 3, 100.0, 1.0)
    y[17] = np.nan
    where, median, least, most = _charts.binned(x, y)
    assert len(where) <= _charts._POINTS
    assert np.all(np.diff(where) > 0)
    assert set(median) == set(least) == {1.0}
    assert set(most[:-1]) == {100.0}  # the last one has fewer neighbours
    thinned = np.concatenate([x[:9000:64], x[9000:]])  # the older part of a long history
    where, *_ = _charts.binned(thinned, thinned)
    assert np.histogram(where, 10)[0].max() <= _charts._POINTS / 10 + 1
    few = _charts.binned(x[:100], y[:100])
    assert all(len(column) == 99 for column in few)


def test_the_mean_of_phases_is_of_ranks_that_tell_them(tmp_path):
    """One that has ended does not halve it; a phase that only one of them has is nothing on the other."""
    stays = [started(0, 2), *(step(i, 1.0, phases={"forward": 0.75, "data": 0.25}) for i in (1, 2)), step(3)]
    leaves = [started(1, 2), step(1, 1.0, phases={"forward": 0.25, "rest": 0.75}, rank=1)]
    numbers, means = _charts.phase_means(gather(write(tmp_path, {0: stays, 1: leaves})))
    assert numbers.tolist() == [1, 2]
    assert {name: column.tolist() for name, column in means.items()} == {
        "forward": [0.5, 0.75],
        "data": [0.125, 0.25],
        "rest": [0.375, 0.0],
    }


def test_lines_break_where_nobody_measured():
    """Between two attempts."""
    where, values = _charts._with_gaps(np.array([0.0, 1, 2, 50, 51]), np.array([1.0, 2, 3, 4, 5]))
    assert where.tolist() == [0, 1, 2, 50, 50, 51]
    assert np.isnan(values).tolist() == [False, False, False, True, False, False]
    for few in ([], [1.0], [1.0, 9.0]):
        assert len(_charts._with_gaps(np.array(few))[0]) == len(few)


def test_lines_do_not_break_where_steps_were_thinned():
    """In the older part of a long history they are further apart; a gap in it is one all the same."""
    older = np.arange(0.0, 3200, 32)
    newest = np.arange(3200.0, 3800)
    where, _ = _charts._with_gaps(np.concatenate([older, newest]), np.zeros(700))
    assert len(where) == 700
    where, values = _charts._with_gaps(np.concatenate([older[:50], older[60:], newest]), np.zeros(690))
    assert where[np.isnan(values)].tolist() == [older[60]]


def test_the_command(tmp_path):
    """Figures on standard output, files named on standard error; as JSON nothing is written."""
    run = full_run(tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(run), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["samples"] == 320
    assert not (run / "report").exists()
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert re.search(r"^samples per second +80$", done.stdout, re.MULTILINE)
    assert f"wrote {run / 'report' / 'report.html'}" in done.stderr
    done = CliRunner().invoke(app, ["report", str(tmp_path / "other")])
    assert (done.exit_code, "has no history" in done.stderr) == (2, True), done.stderr


def test_a_folder_that_cannot_be_written_to(tmp_path):
    """A sentence, not a traceback."""
    run = full_run(tmp_path / "run")
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "file" / "x")])
    assert done.exit_code == 1
    assert done.stderr.startswith("no report was written: ")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_without_a_network(written, tmp_path):
    """All pictures have a size there, which they have not when they could not be loaded."""
    page = written["report"]
    probe = tmp_path / "probe.html"
    sizes = "<script>onload=()=>{document.title=[...document.images].map(i=>i.naturalWidth>0)}</script>"
    text = page.read_text(encoding="utf-8").replace("style-src", "script-src 'unsafe-inline'; style-src")
    probe.write_text(text.replace("</body>", f"{sizes}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    done = subprocess.run(  # noqa: S603
        [shutil.which("chromium"), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "<title>true,true,true,true,true</title>" in done.stdout


def test_two_that_write_at_once(tmp_path, monkeypatch):
    """Each file is one of theirs, and whole; what a full disk has kept from being written is gone."""
    path, write_bytes = tmp_path / "report.html", Path.write_bytes

    def overtaken(self, content):
        monkeypatch.undo()
        write_bytes(self, content)
        _page._replace(path, b"other")

    monkeypatch.setattr(Path, "write_bytes", overtaken)
    _page._replace(path, b"one")
    assert path.read_bytes() == b"one"

    def full(self, content):
        write_bytes(self, content[:1])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            _page._replace(path, b"third")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == b"one"
