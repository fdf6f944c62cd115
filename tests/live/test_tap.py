"""Clients that reach the guest by its own address, at a TAP, in a network namespace."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backends.qemu.errors import LiveError
from backends.qemu.net.gateway import check_tap
from tests.live.machines import ROOT, bridged, colosim, ip, needs, why_no_namespaces
from tests.live.pairs import needs_qemu

GROUND = ROOT / "experiments" / "live" / "ground.toml"
CLIENTS = """
[workload]
kind = "service"
load = "closed"
clients = 4
think_time = "20 ms"
service_time = "1 ms"
"""


def why_no_tap() -> str | None:
    if why := why_no_namespaces():
        return why
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return None


needs_tap = needs(why_no_tap)


def scenario(tmp_path: Path, client: dict[str, str], kill: str = "3 s") -> Path:
    """ground.toml for 7 s, with clients instead of its job."""
    text = GROUND.read_text()
    before, _, after = text.partition("[workload]\n")
    _, _, after = after.partition("[memory]\n")
    text = before + CLIENTS + "\n[memory]\n" + after
    text = text.replace('duration = "15 s"', 'duration = "7 s"').replace("10 s", kill)
    text = text.replace('scope = "vm"', 'scope = "host"')
    text += '\n[manager]\nheartbeat_timeout = "2 s"\n\n[client]\n'
    text += "".join(f'{key} = "{value}"\n' for key, value in client.items())
    path = tmp_path / "tap.toml"
    path.write_text(text)
    return path


def live(namespace: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", namespace, *colosim("live", *arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False
    )


def devices(namespace: str) -> list[str]:
    command = ["ip", "-j", "-n", namespace, "link"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return sorted(each["ifname"] for each in json.loads(done.stdout))


@needs_qemu
@needs_tap
@pytest.mark.parametrize("tap", ["made", "there"])
def test_clients_at_a_tap_do_not_notice_that_the_primary_was_killed(tmp_path, tap):
    with bridged("t") as net:
        space = net.namespaces["t"]
        client = {"kind": "echo", "network": "tap"}
        if tap == "there":
            client["tap"] = "own0"
            ip("-n", space, "tuntap", "add", "dev", "own0", "mode", "tap")
            ip("-n", space, "addr", "add", "10.0.0.1/24", "dev", "own0")
            ip("-n", space, "link", "set", "own0", "up")
        before = devices(space)
        out = tmp_path / "run"
        done = live(space, scenario(tmp_path, client), "--out", out, "--json")
        assert done.returncode == 0, done.stderr
        assert devices(space) == before, "one that was made goes, one that was there stays"
    assert json.loads(done.stdout)["violations"] == []
    (finished,) = json.loads((out / "manifest.json").read_text())["finished"]
    for what in ("lost", "wrong", "doubled"):
        assert finished["counters"][f"{what}_responses"] == 0, finished["counters"]
    events = pd.read_csv(out / "events.csv")
    [promoted_ns] = events.query("what == 'promoted'")["at_ns"]
    answers = pd.read_parquet(out / "responses.parquet")
    later = answers[answers["released_ns"] > promoted_ns].groupby("client").size()
    assert len(later) == 4, "somebody was not served after the kill"
    assert later.sum() > 8
    assert (out / "gateway.pcap").stat().st_size > 1000


# --------------------------------------------------------------------------------------------
# What cannot be had is one line


def said(namespace: str, path: Path, *before: str) -> str:
    command = ["ip", "netns", "exec", namespace, *before, *colosim("live", path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("colosim: ")


@needs_qemu
@needs_tap
def test_a_tap_that_cannot_be_had(tmp_path):
    client = {"kind": "echo", "network": "tap", "tap": "own0"}
    with bridged("t") as net:
        space = net.namespaces["t"]
        path = scenario(tmp_path, client)
        if shutil.which("setpriv"):
            assert said(space, path, "setpriv", "--bounding-set=-all", "--inh-caps=-all") == (
                "TAP own0: may not be made or opened; be root or have CAP_NET_ADMIN, or use passt"
            )
        ip("-n", space, "tuntap", "add", "dev", "own0", "mode", "tap")
        assert said(space, path) == "TAP own0: is down; ip link set own0 up"
        ip("-n", space, "link", "del", "own0")
        ip("-n", space, "link", "add", "own0", "type", "bridge")
        assert said(space, path) == "TAP own0: a device of this name is no TAP; name another"
        ip("-n", space, "link", "del", "own0")
        ip("-n", space, "link", "add", "other0", "type", "bridge")
        ip("-n", space, "addr", "add", "10.0.0.9/24", "dev", "other0")
        ip("-n", space, "link", "set", "other0", "up")
        assert said(space, path) == (
            "TAP own0: 10.0.0.2 is reached by other0 here; "
            "run in a network namespace (ip netns exec), or use passt"
        )


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b"])
def test_a_name_that_no_device_can_have(name):
    with pytest.raises(LiveError, match="no name of a device"):
        check_tap(name, "10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"kind": "echo", "tap": "own0"}, 'client.tap: goes with network = "tap", and only'),
        (
            {"kind": "echo", "network": "tun"},
            "client.network: 'tun' is unknown; use one of passt, tap",
        ),
    ],
)
def test_a_table_that_contradicts_itself(tmp_path, client, says):
    done = subprocess.run(
        colosim("live", scenario(tmp_path, client)),
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
