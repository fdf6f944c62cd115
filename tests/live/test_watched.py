"""`colosim live --watch` on real guests: what it says, that it ends, and that nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from backends.qemu.selftest import SCENARIO
from tests.live.pairs import needs_qemu
from tests.live.test_live_command import ROOT, _descendants

LIMIT_S = 300
END_LIMIT_S = 100  # of a run that was told to end
TEXT = f"""
name = "watched"
duration = "10 min"
commit = "loaded"
[policy]
name = "remus"
[policy.remus]
interval = "100 ms"
[workload]
kind = "service"
load = "closed"
clients = 2
think_time = "50 ms"
service_time = "1 ms"
[memory]
kind = "uniform"
guest_memory = "131080 KiB"
working_set_pages = 200
touches = "500 /s"
[manager]
heartbeat_interval = "50 ms"
heartbeat_timeout = "2 s"
[limits]
{chr(10).join(f'{name} = "{limit}"' for name, limit in SCENARIO["limits"].items())}
[guest]
accelerator = "tcg"
[client]
kind = "echo"
[[fault]]
target = "primary"
scope = "vm"
kind = "crash"
at = "3 s"
"""


@needs_qemu
def test_a_watched_run_shows_its_failover_and_ends_by_ctrl_c(tmp_path):
    scenario, out = tmp_path / "watched.toml", tmp_path / "run"
    scenario.write_text(TEXT)
    answer = tmp_path / "answer.json"
    with answer.open("w") as stdout:
        runner = subprocess.Popen(
            [
                *(sys.executable, "-m", "colosim.cli", "live", str(scenario)),
                *("--watch", "--json", "--out", str(out)),
            ],
            stderr=subprocess.PIPE,
            stdout=stdout,
            text=True,
            cwd=ROOT,
            # a test run in the background may have it ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
    assert runner.stderr is not None
    said: list[str] = []
    end_s = time.monotonic() + LIMIT_S
    while not said or "secondary: serves alone" not in said[-1]:
        said.append(runner.stderr.readline())
        assert runner.poll() is None, said
        assert time.monotonic() < end_s, said
    children = _descendants(runner.pid)
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert sum(b"colosim.watching.child" in name for name in names) == 1
    time.sleep(1)
    runner.send_signal(signal.SIGINT)
    said += runner.stderr.readlines()  # not communicate(): it loses what readline() had read ahead
    assert runner.wait(END_LIMIT_S) == 130, said
    end_s = time.monotonic() + END_LIMIT_S
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end_s, alive
        time.sleep(0.05)
    text = "".join(said)
    for each in (
        "starting run: booting the guest",
        "primary: protected: both guests run in step",
        "primary: fault: vm crash",
        "secondary: promoted: clients talk to its guest",
        "primary: fenced: by b",
    ):
        assert text.count(each) == 1, text
    kept = pd.read_parquet(out / "checkpoints.parquet")
    [last] = [line for line in said if "; over;" in line]
    assert f"checkpoints {len(kept)} (interval {len(kept)})" in last
    mean_ms = kept["pause_ms"].mean()
    assert f"mean {mean_ms:.1f} ms" in last
    assert f"mean {kept['pages'][kept['pages'] >= 0].mean():,.0f}" in last
    assert json.loads(answer.read_text())["out"] == str(out)
    assert not [path for path in out.iterdir() if path.suffix == ".trace"]
