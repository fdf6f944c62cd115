"""`colosim live` and `colosim doctor` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.pairs import needs_qemu

ROOT = Path(__file__).parents[2]
GROUND = ROOT / "experiments" / "live" / "ground.toml"
LIMIT_S = 400
END_LIMIT_S = 100  # of a run that was told to end


def colosim(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "colosim.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT, check=False, **options
    )


def changed(tmp_path: Path, *lines: str) -> Path:
    """ground.toml with other first lines of the table [guest], or other top-level keys."""
    path = tmp_path / "changed.toml"
    path.write_text(GROUND.read_text().replace("[guest]\n", "[guest]\n" + "\n".join(lines) + "\n"))
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('qemu = "/no/such/qemu"', "/no/such/qemu: not found; install the Debian package"),
        ('qemu = "/bin/true"', "/bin/true: is no QEMU system emulator; give a QEMU binary"),
        ('qemo = "x"', "guest.qemo: unknown key; did you mean qemu?"),
        ('secondary_qemu = "q"', "guest.machine: two versions of QEMU need the same machine"),
        ('kernel = "/no/such/kernel"', "/no/such/kernel: not there; give a kernel"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_status_2(tmp_path, line, says):
    done = colosim("live", changed(tmp_path, line))
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("colosim: ")
    assert says in said


def test_without_qemu_on_the_path_it_says_what_to_install(tmp_path):
    done = colosim("live", GROUND, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("colosim: qemu-system-x86_64: not found; install")


def test_doctor_names_unsafe_settings(tmp_path):
    path = tmp_path / "unsafe.toml"
    path.write_text(GROUND.read_text() + "\n[manager]\nfence_fails = true\n")
    done = colosim("doctor", path, "--json")
    assert done.returncode == 1
    found = {each["name"]: each["status"] for each in json.loads(done.stdout)["findings"]}
    assert found["manager.fence_fails"] == "fail"
    assert colosim("doctor", GROUND).returncode == 0


@needs_qemu
def test_a_live_run_is_kept_and_replays(tmp_path):
    path = tmp_path / "ground.toml"
    path.write_text(GROUND.read_text().replace('"15 s"', '"8 s"').replace('"10 s"', '"4 s"'))
    done = colosim("live", path, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["violations"] == []
    assert "; the secondary took over " in body["happened"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["world"] == "live"
    assert manifest["accelerator"] in ("tcg", "kvm")
    assert "a.console.log" in manifest["files"]
    replayed = colosim("replay", tmp_path / "run")
    assert replayed.returncode == 0
    assert "same decisions, no invariant broken" in replayed.stdout
    page = colosim("report", tmp_path / "run", "--out", tmp_path / "live.html")
    assert page.returncode == 0, page.stderr
    assert "both sides of the pair" in (tmp_path / "live.html").read_text()
    timeline = colosim("export", "--perfetto", tmp_path / "run", "--out", tmp_path / "live.trace")
    assert timeline.returncode == 0, timeline.stderr
    assert (tmp_path / "live.trace").stat().st_size


@needs_qemu
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_no_process(tmp_path, number):
    """Ctrl-C keeps what was run; after SIGKILL the supervisor cleans up alone."""
    command = [sys.executable, "-m", "colosim.cli", "live", str(GROUND), "--out"]
    runner = subprocess.Popen(
        [*command, str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        # a test run in the background may have it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    assert runner.stderr is not None
    while "protected" not in runner.stderr.readline():
        assert runner.poll() is None
    children = _descendants(runner.pid)
    assert len(children) >= 6  # supervisor, hub, two QEMUs, two agents
    time.sleep(1)
    runner.send_signal(number)
    runner.wait(END_LIMIT_S)
    end_s = time.monotonic() + END_LIMIT_S
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end_s, alive
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert runner.returncode == 130
        assert json.loads((tmp_path / "run" / "manifest.json").read_text())["interrupted"]


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found


LOGS = Path(__file__).parent / "qemu_logs"


def test_logs_of_a_genuine_pair_are_read(tmp_path):
    out = tmp_path / "pair"
    logs = LOGS / "11.1-primary.log", LOGS / "11.1-secondary.log"
    done = colosim("import-qemu-log", *logs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("0 differences from our tables\n")
    assert len((out / "phases.csv").read_text().splitlines()) == 1 + 3
    assert "same decisions, no invariant broken" in colosim("replay", out).stdout
    done = colosim("import-qemu-log", GROUND)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "expected a QEMU log" in said
