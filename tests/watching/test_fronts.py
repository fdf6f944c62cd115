"""What is drawn, written and followed: terminal, plain lines, HTML, growing files, the command."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from xml.etree import ElementTree as ET

import pytest

import colosim
from colosim.protocol.trace import Line, encode_line
from colosim.watching.errors import WatchError
from colosim.watching.model import View
from colosim.watching.onlooker import Onlooker
from colosim.watching.page import drawing, page
from colosim.watching.playing import Player, to_end
from colosim.watching.shipped import RECORDED, TRACE
from colosim.watching.sources import Tail, recording
from colosim.watching.terminal import PlainLines, drawn
from tests.small import write

FOUND = colosim.recorded_run()
REASONS = ", ".join(f"{why} {n}" for why, n in FOUND.checkpoints["reason"].value_counts().items())
TELLS = (
    REASONS,
    f"longest {FOUND.checkpoints['pause_ms'].max():.1f} ms",
    f"mean {FOUND.checkpoints['pages'].mean():.0f}",
    f"match {FOUND.holds.groupby('how')['frames'].sum()['match']}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded") / "run"
    colosim.recorded_run(out)
    return out


def player(run, at_s: float) -> Player:
    found = recording(run)
    return Player(View(found.name, found.duration_ns), found.moments(), from_ns=int(at_s * 1e9))


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("at_s", [-20, 0.1, 1.34, 4.05, 11])
def test_a_screen_of_any_width_at_any_time(run, width, at_s):
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True)
    at = player(run, at_s)
    console.print(drawn(at.view, at.now_ns, width))
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert all(len(line) <= width for line in text.splitlines())
    if (width, at_s) == (200, 11):
        assert all(each in text for each in TELLS)
        assert "✔ protected, pair 2; over" in text
    if (width, at_s) == (200, 4.05):
        assert "✖ gone (host crash)" in text
        assert "✖ failing over" in text


@pytest.mark.parametrize("at_s", [0.1, 1.34, 4.3, 11])
def test_a_low_screen_shows_what_is_rare_first(run, at_s):
    """In 80 times 24 no line is cut off below, and nothing of a failover."""
    from rich.console import Console

    at = player(run, at_s)
    console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=True)
    for height in (24, 20, 14):
        with console.capture() as caught:
            console.print(drawn(at.view, at.now_ns, 80, height))
        lines = caught.get().splitlines()
        assert len(lines) <= height
        latest = [note.text for note in list(at.view.notes)[-4:]]
        assert [text for text in latest if not any(text in line for line in lines)] == []
        assert any(line.startswith("output held") for line in lines)
        if height == 24:
            assert any(line.startswith(("checkpoints  ", "output  ")) for line in lines)
            assert not any("…" in line for line in lines if "differences" not in line)


def test_what_left_was_made(run):
    """A survivor's output since the last checkpoint, which it kept, is made as well."""
    sums = colosim.watch(run).view().totals
    assert sum(sums.released.values()) <= sums.made


@pytest.mark.parametrize("at_s", [0.5, 4.05, 9.0])
def test_a_time_that_is_looked_at_is_that_time(run, at_s):
    """However many moments there are until then."""
    seen = colosim.watch(run).view(at_s)
    assert 0 < seen.at_ns <= at_s * 1e9
    assert seen.totals == player(run, at_s).view.totals


def test_a_trace_alone_ends_with_its_last_line(run, tmp_path):
    (tmp_path / "alone").mkdir()
    trace = tmp_path / "alone" / "trace-0.jsonl.gz"
    trace.write_bytes((run / f"{TRACE}.gz").read_bytes())
    *_, last, end = recording(trace).moments()
    assert end.at_ns == last.at_ns
    assert 9 < end.at_ns / 1e9 < 12


def test_plain_lines_say_each_thing_once(run):
    at, lines = player(run, -1), PlainLines()
    said: list[str] = []
    for tenth in range(-10, 112):
        at.until(tenth * 100_000_000)
        said += lines.since(at.view, at.now_ns)
    notes = [line for line in said if re.match(r"-?\d+\.\d{3} s ", line)]
    assert len(notes) == len(at.view.notes)
    assert len(set(said)) == len(said)
    assert 11 <= len(said) - len(notes) <= 13
    assert f"checkpoints {len(FOUND.checkpoints)} ({REASONS})" in said[-1]


def test_a_page_needs_no_script_and_no_network(run):
    found = recording(run)
    view = to_end(View(found.name, found.duration_ns), found.moments())
    html = page(view, view.at_ns, 0)
    assert all(each in html for each in TELLS)
    assert not re.search(r"<script|src=|href=|url\(|@import", html)
    assert set(re.findall(r"https?://[^\"'<]*", html)) == {"http://www.w3.org/2000/svg"}
    svg = ET.fromstring(drawing(view, 0, view.at_ns))
    texts = [each.text for each in svg.iter() if each.tag.endswith("text")]
    assert {"service", "pause", "dirty pages", "output held", "protected", "✖ fault"} <= {*texts}
    bars = [each for each in svg.iter() if each.get("fill") == "#0072b2"]
    assert len(bars) > 2 * len(FOUND.checkpoints)  # pauses, pages, and what was held


def test_what_a_run_says_is_shown_as_text(run):
    at = player(run, 1)
    at.view.name = "<b>&"
    at.view._note(0, "<i>", "<script>alert(1)</script>", next(iter(at.view.notes)).tone)
    html = page(at.view, at.now_ns)
    assert "<script" not in html
    assert "{" not in html
    assert "&lt;b&gt;&amp;" in html


# -- files that grow -----------------------------------------------------------------------------


def test_growing_files_give_what_the_whole_does(run, tmp_path):
    """In pieces that end anywhere, hosts one after the other."""
    found = recording(run)
    lines = [each.what for each in found.moments() if isinstance(each.what, Line)]
    by_host = {"a": ["primary"], "b": ["secondary", "primary.2"], "c": ["secondary.2"]}
    view, tail = View(begin_ns=None), Tail(tmp_path)
    texts = {
        host: "".join(encode_line(line) + "\n" for line in lines if line.node in nodes)
        for host, nodes in by_host.items()
    }
    saves = {host: (RECORDED / f"{host}.saves").read_text() for host in "ab"}
    came_ns = 1_000_000
    for host, text in texts.items():
        for at in range(0, len(text), 9_999):
            with (tmp_path / f"{host}.trace").open("a") as file:
                file.write(text[at : at + 9_999])
            for moment in tail.read(came_ns):
                view.see(moment)
            came_ns += 100_000_000
        (tmp_path / f"{host}.saves").write_text(saves.get(host, ""))
        for moment in tail.read(came_ns):
            view.see(moment)
    tail.close()
    whole = to_end(View(), found.moments())
    assert view.totals == whole.totals
    assert view.serving == whole.serving


def test_what_was_written_last_is_read_when_the_directory_has_its_final_name(tmp_path):
    (tmp_path / ".fresh").mkdir()
    first, second, *_ = (RECORDED / TRACE).read_text().splitlines(keepends=True)
    with (tmp_path / ".fresh" / "a.trace").open("w") as file:
        file.write(first)
        file.flush()
        tail = Tail(tmp_path / ".fresh")
        assert len(tail.read(1)) == 1
        file.write(second)
    (tmp_path / ".fresh").rename(tmp_path / "run")
    assert len(tail.read(2)) == 1
    tail.close()


def test_the_child_that_looks_sees_all_and_ends_with_its_runner(run, tmp_path):
    shown: list[str] = []
    looker = Onlooker("page", shown.append)
    begin_s = time.monotonic()
    with looker.looking(tmp_path, "followed", 11_000_000_000):
        looker.told(time.monotonic_ns(), "run", "begin", "")
        (tmp_path / "a.trace").write_text((RECORDED / TRACE).read_text())
        while not any("pair 2" in html for html in shown):
            assert time.monotonic() < begin_s + 60
            time.sleep(0.05)
        looker.say("nearly done")
        looker.told(time.monotonic_ns(), "secondary", "fault", "host crash")
    assert REASONS in shown[-1]
    assert "fault: host crash" in shown[-1]
    assert "run: nearly done" in shown[-1]
    looker.told(0, "run", "begin", "")  # nobody looks any more: no harm


def test_whoever_does_not_read_is_not_waited_for(tmp_path, monkeypatch):
    looker = Onlooker("page", lambda html: None)
    with looker.looking(tmp_path, "slow", 0):
        for _ in range(20_000):  # more than a pipe holds
            looker.told(0, "run", "says", "x" * 100)


# -- the command ---------------------------------------------------------------------------------


def lasting(out: str) -> list[str]:
    """Notes and the last line; how many there are between depends on how busy the machine is."""
    *lines, last = out.splitlines()
    return [*(line for line in lines if not re.match(r"\S+ s of ", line)), last]


def test_a_recorded_and_a_simulated_run_are_played(run, tmp_path, colosim_main):
    status, out, err = colosim_main("watch", run, "--speed", "max")
    assert (status, err) == (0, "")
    fault_ns = FOUND.events.query("what == 'fault'")["at_ns"].item()
    [alone_s] = re.findall(r"^(\S+) s secondary: serves alone$", out, re.MULTILINE)
    assert fault_ns / 1e9 < float(alone_s) < fault_ns / 1e9 + 0.5
    trace = run / f"{TRACE}.gz"
    again = colosim_main("watch", trace, "--speed", "1e308x")
    assert (again[0], lasting(again[1])) == (0, lasting(out))
    scenario = write(tmp_path / "small.toml")
    status, out, err = colosim_main("watch", scenario, "--policy", "remus", "--speed", "max")
    assert (status, err) == (0, "")
    result = colosim.simulate(scenario, "remus", replications=1, out=tmp_path / "small")
    count = len(result.records[0].checkpoints["checkpoint"])
    assert f"checkpoints {count:,} (interval {count:,})" in out.splitlines()[-1]
    again = colosim_main("watch", tmp_path / "small", "--speed", "max")
    assert lasting(again[1]) == lasting(out)
    played = colosim.watch(scenario, "remus")
    assert played.view().totals.checkpoints == count
    assert 0 < played.view(1.0).totals.checkpoints < count
    assert played.page() == colosim.watch(tmp_path / "small").page()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("watch {run} --speed 0", "speed '0': expected a number above 0, such as 10x, or max"),
        ("watch {run} --speed quick", "speed 'quick': expected a number above 0"),
        ("watch {run} --from 12s", "--from 12 s: is after the end of the run, 11 s"),
        ("watch {run} --from 1", "1: "),
        ("watch {run} --seed 1", "was run already; policy and seed are for a scenario"),
        ("watch {tmp}/none", "none: not there; give a run directory, a trace, or a scenario"),
        ("watch {tmp}", "holds no trace; run with --out"),
        ("watch {tmp}/none.toml", "none.toml: No such file"),
        ("watch {tmp}/odd.gz", "odd.gz: is no trace, or damaged"),
    ],
)
def test_errors_are_one_line(run, tmp_path, colosim_main, arguments, says):
    (tmp_path / "odd.gz").write_text("{}")
    status, out, err = colosim_main(*arguments.format(run=run, tmp=tmp_path).split())
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert says in line


def test_a_comparison_says_which_runs_it_holds(tmp_path, colosim_main):
    colosim.compare(write(tmp_path / "small.toml"), ["none", "colo"], out=tmp_path / "both")
    status, _, err = colosim_main("watch", tmp_path / "both")
    assert status == 2
    assert "holds 2 traces; give one of " in err
    assert "both/colo/trace-0.jsonl.gz" in err


def test_an_interrupted_live_run_ends_where_its_record_does(run, tmp_path):
    """Its hosts' end is in the trace and is no failure."""
    copy = tmp_path / "interrupted"
    colosim.recorded_run(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "interrupted": True}))
    view = to_end(View(), recording(copy).moments())
    assert view.nodes["primary.2"].step == "run"


def test_speeds_and_times_that_cannot_be_are_refused(run):
    with pytest.raises(WatchError, match="expected a number above 0"):
        asyncio.run(colosim.watch(run).play("-1x"))
    with pytest.raises(WatchError, match="policy and seed are for a scenario"):
        colosim.watch(run, seed=1)
