"""Policy `colo` on real guests: equal output leaves at once, and clients do not notice a kill."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.live import LiveOutcome
from backends.qemu.selftest import SCENARIO
from colosim.protocol import types as t
from tests.live.pairs import needs_qemu
from tests.live.services import KILL, check_served, ran
from tests.live.test_takeover import PRIMARY_STEPS, SECONDARY_STEPS

COLO: dict[str, Any] = {
    "policy": {"name": "colo", "colo": {"checkpoint_delay": "1 s", "compare_timeout": "300 ms"}}
}


def found(outcome, what: type) -> list[Any]:
    return [line.body for line in outcome.lines if isinstance(line.body, what)]


CAMPAIGN = pytest.mark.campaign


@needs_qemu
@pytest.mark.parametrize(
    ("client", "rewriter"),
    [
        ("echo", "strict"),
        ("download", "strict"),
        ("work", "qemu"),
        pytest.param("work", "strict", marks=CAMPAIGN),
        pytest.param("echo", "qemu", marks=CAMPAIGN),
        pytest.param("download", "qemu", marks=CAMPAIGN),
    ],
)
def test_equal_output_leaves_without_a_checkpoint(tmp_path, client, rewriter):
    size = "1 MiB" if client == "download" else "1 KiB"
    outcome = ran(
        tmp_path,
        "colo",
        client={"kind": client, "size": size},
        compare={"rewriter": rewriter},
        **COLO,
    )
    check_served(outcome)
    matched = sum(each.range.end - each.range.first for each in found(outcome, t.Match))
    print(matched, [str(each) for each in found(outcome, t.Mismatch) + found(outcome, t.Stale)])
    assert matched > 100


def survived(
    tmp_path, client: str, fault: dict[str, Any], size: str = "1 KiB", **tables: Any
) -> LiveOutcome:
    """A run in which one side is struck and the other goes on."""
    outcome = ran(
        tmp_path,
        "colo",
        client={"kind": client, "size": "1 MiB" if client == "download" else size},
        fault=[fault],
        **{**COLO, **tables},
    )
    check_served(outcome)
    assert len(found(outcome, t.Alone)) == 1
    return outcome


@needs_qemu
@pytest.mark.parametrize(
    ("client", "scope"),
    [
        ("echo", "vm"),
        ("work", "host"),
        ("download", "host"),
        pytest.param("echo", "host", marks=CAMPAIGN),
        pytest.param("work", "vm", marks=CAMPAIGN),
        pytest.param("download", "vm", marks=CAMPAIGN),
    ],
)
def test_clients_do_not_notice_that_the_primary_was_killed(tmp_path, client, scope):
    survived(tmp_path, client, {**KILL, "scope": scope, "at": "4 s"})


def at_steps(target: str, steps: Iterable[str]) -> list[Any]:
    """Every other step in `make test`, by turns of the host and of the process; else campaign."""
    cases = [(step, scope) for step in steps for scope in ("host", "vm")]
    return [
        pytest.param(target, step, scope, marks=() if number % 8 in (0, 7) else CAMPAIGN)
        for number, (step, scope) in enumerate(cases)
    ]


@needs_qemu
@pytest.mark.parametrize(
    ("target", "step", "scope"),
    [*at_steps("primary", PRIMARY_STEPS), *at_steps("secondary", SECONDARY_STEPS)],
)
def test_kill_at_each_step_with_connections_open(tmp_path, target, step, scope):
    fault = {"target": target, "kind": "crash", "scope": scope, "step": step, "occurrence": 3}
    survived(tmp_path, "download", fault)


@needs_qemu
@pytest.mark.parametrize(
    ("target", "scope"),
    [
        ("primary", "vm"),
        ("secondary", "host"),
        pytest.param("primary", "host", marks=CAMPAIGN),
        pytest.param("secondary", "vm", marks=CAMPAIGN),
    ],
)
def test_hang(tmp_path, target, scope):
    fault = {"target": target, "kind": "hang", "scope": scope, "at": "3 s"}
    limits = dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "1 s")
    survived(
        tmp_path,
        "echo",
        fault,
        duration="14 s",
        limits={**SCENARIO["limits"], **limits, "save": "2 s", "send": "2 s"},
    )


@needs_qemu
@pytest.mark.parametrize(
    ("service", "client"), [("nginx", "http"), ("redis", "redis"), ("memcached", "memcached")]
)
def test_services_of_the_world(tmp_path, service, client):
    """Their answers differ now and then by themselves: by the date, or by what came first."""
    survived(
        tmp_path,
        client,
        {**KILL, "scope": "host", "at": "4 s"},
        guest={"accelerator": "tcg", "services": [service]},
    )


@needs_qemu
def test_guests_that_differ_are_checkpointed(tmp_path):
    """Clients get answers that only one of two guests would give."""
    outcome = ran(
        tmp_path,
        "colo",
        client={"kind": "work", "size": "4 KiB"},
        divergence={"probability": 0.1},
        fault=[{**KILL, "scope": "host", "at": "5 s"}],
        **COLO,
    )
    check_served(outcome)
    counters = outcome.record.counters
    assert counters["mismatches_content"] > 5
    reasons = outcome.record.checkpoints["reason"]
    assert (reasons == "mismatch").sum() > 5
    # what left was in a state that the survivor had, or was said by both
    hows = set(outcome.record.holds["how"])
    assert {"match", "commit"} <= hows


@needs_qemu
@pytest.mark.parametrize("client", ["echo", "download"])
def test_connections_stay_through_a_new_pair_and_a_second_kill(tmp_path, client):
    outcome = ran(
        tmp_path,
        "colo",
        duration="24 s",
        client={"kind": client, "size": "1 KiB" if client == "echo" else "1 MiB"},
        # a loaded machine takes seconds to start a host and to synchronise with one at work
        fault=[{**KILL, "scope": "host", "at": f"{at} s"} for at in (3, 15)],
        manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "500 ms"},
        **COLO,
    )
    check_served(outcome, 22)
    alone = [line.node for line in outcome.lines if isinstance(line.body, t.Alone)]
    assert alone == ["secondary", "secondary.2"]
    # the second pair compares as the first did: what clients have open matches
    second = [line for line in outcome.lines if line.node == "primary.2"]
    assert sum(isinstance(line.body, t.Match) for line in second) > 50
    assert sum(isinstance(line.body, t.Mismatch | t.Stale) for line in second) <= 5


@needs_qemu
def test_connections_that_the_guest_opens(tmp_path):
    """Both guests are told to, and each chooses a first sequence number of its own."""
    script = Path(__file__).with_name("dialled.py")
    command = f"{sys.executable} {script} 9 {tmp_path / 'dialled'}"
    outcome = ran(
        tmp_path,
        "colo",
        duration="12 s",
        client={"kind": "command", "command": command, "guest_port": 5000},
        fault=[{**KILL, "scope": "host", "at": "5 s"}],
        **COLO,
    )
    connections, fewest_echoes = map(int, (tmp_path / "dialled").read_text().split())
    assert connections >= 3
    assert fewest_echoes >= 1
    assert len(found(outcome, t.Alone)) == 1


@needs_qemu
@pytest.mark.parametrize("size", ["512 B", "1400 B"])
def test_datagrams(tmp_path, size):
    survived(tmp_path, "udp", {**KILL, "scope": "host", "at": "4 s"}, size=size)


@needs_qemu
def test_colo_compare_itself_compares(tmp_path):
    outcome = ran(
        tmp_path, "colo", client={"kind": "echo"}, compare={"mode": "colo-compare"}, **COLO
    )
    check_served(outcome)
    assert len(found(outcome, t.Compared)) > 100


@needs_qemu
def test_colo_compare_goes_on_in_the_next_pair(tmp_path):
    """The secondary is killed: the primary's QEMU, and the object in it, stay."""
    outcome = ran(
        tmp_path,
        "colo",
        duration="14 s",
        client={"kind": "echo"},
        compare={"mode": "colo-compare"},
        fault=[{**KILL, "target": "secondary", "scope": "host", "at": "3 s"}],
        manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "500 ms"},
        **COLO,
    )
    check_served(outcome, 13)
    second = [line for line in outcome.lines if line.node == "primary.2"]
    assert sum(isinstance(line.body, t.Compared) for line in second) > 50


@needs_qemu
def test_mode_qemu_serves_too(tmp_path):
    outcome = ran(tmp_path, "colo", client={"kind": "echo"}, compare={"mode": "qemu"}, **COLO)
    check_served(outcome)


@needs_qemu
@CAMPAIGN
@pytest.mark.parametrize("seed", range(200))
def test_a_session_through_a_kill_at_a_random_moment(tmp_path, seed):
    draw = random.Random(seed)
    target = "secondary" if seed % 5 == 4 else "primary"
    fault = {**KILL, "target": target, "scope": draw.choice(["vm", "host"])}
    client = draw.choice(["echo", "work", "download"])
    survived(tmp_path, client, {**fault, "at": f"{draw.uniform(1, 6):.4f} s"})
