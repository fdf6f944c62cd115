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
from tests.live.pairs import WAIT_LIMIT_S, needs_qemu
from tests.live.services import (
    KILL,
    Going,
    Story,
    check_served,
    loses,
    ran,
    to_the_end,
)
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

    async def story(going: Going) -> None:
        await going.told(t.Match, 101)
        await going.served()

    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": client, "size": size},
        compare={"rewriter": rewriter},
        **COLO,
    )
    check_served(outcome)
    matched = sum(each.range.end - each.range.first for each in found(outcome, t.Match))
    print(matched, [str(each) for each in found(outcome, t.Mismatch) + found(outcome, t.Stale)])
    assert matched > 100


def survived(
    tmp_path, client: str, story: Story, size: str = "1 KiB", end_s: float = 0.0, **tables: Any
) -> LiveOutcome:
    """A run in which one side is struck and the other goes on."""
    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": client, "size": "1 MiB" if client == "download" else size},
        **{**COLO, **tables},
    )
    check_served(outcome, end_s)
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
    survived(tmp_path, client, loses(scope=scope))


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
    async def story(going: Going) -> None:
        await going.run.until_promoted(WAIT_LIMIT_S)
        await going.served(3)

    fault = {"target": target, "kind": "crash", "scope": scope, "step": step, "occurrence": 3}
    survived(tmp_path, "download", story, fault=[fault])


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
    limits = dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "2 s")
    survived(
        tmp_path,
        "echo",
        loses(target, scope, "hang"),
        limits={**SCENARIO["limits"], **limits, "save": "3 s", "send": "3 s"},
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
        loses(),
        guest={"accelerator": "tcg", "services": [service]},
    )


@needs_qemu
def test_guests_that_differ_are_checkpointed(tmp_path):
    """Clients get answers that only one of two guests would give."""

    async def story(going: Going) -> None:
        await going.told(t.Mismatch, 8)
        await loses(checkpoints=10)(going)

    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": "work", "size": "4 KiB"},
        divergence={"probability": 0.1},
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
    async def story(going: Going) -> None:
        await loses()(going)
        await going.happened("protected")
        await going.told(t.Match, 101, "primary.2")
        await loses()(going)

    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": client, "size": "1 KiB" if client == "echo" else "1 MiB"},
        manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "500 ms"},
        policy={"name": "colo", "colo": {**COLO["policy"]["colo"], "compare_timeout": "1 s"}},
    )
    check_served(outcome)
    alone = [line.node for line in outcome.lines if isinstance(line.body, t.Alone)]
    assert alone == ["secondary", "secondary.2"]
    # the second pair compares as the first did: what clients have open matches, also where a busy
    # machine makes answers late
    second = [line for line in outcome.lines if line.node == "primary.2"]
    matches = sum(isinstance(line.body, t.Match) for line in second)
    assert matches > 100
    assert sum(isinstance(line.body, t.Mismatch | t.Stale) for line in second) <= matches / 20


@needs_qemu
def test_connections_that_the_guest_opens(tmp_path):
    """Both guests are told to, and each chooses a first sequence number of its own."""
    script, told = Path(__file__).with_name("dialled.py"), tmp_path / "dialled"

    def echoes() -> list[int]:
        """Of each connection so far."""
        return [*map(int, told.read_text().split())] if told.exists() else []

    async def on_all(going: Going, connections: int) -> None:
        """Until there are so many, and each echoes on."""
        await going.until(lambda: len(echoes()) >= connections, f"{connections} connections")
        before = echoes()
        await going.until(
            lambda: all(now >= was + 3 for now, was in zip(echoes(), before, strict=False)),
            "echoes on all",
        )

    async def story(going: Going) -> None:
        await on_all(going, 3)
        await going.checkpoints(3)
        await going.lose()
        await on_all(going, 5)

    command = f"{sys.executable} {script} {told}"
    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": "command", "command": command, "guest_port": 5000},
        **COLO,
    )
    assert len(found(outcome, t.Alone)) == 1


@needs_qemu
@pytest.mark.parametrize("size", ["512 B", "1400 B"])
def test_datagrams(tmp_path, size):
    survived(tmp_path, "udp", loses(), size=size)


@needs_qemu
def test_colo_compare_itself_compares(tmp_path):
    async def story(going: Going) -> None:
        await going.told(t.Compared, 101)
        await going.served()

    outcome = ran(
        tmp_path, "colo", story, client={"kind": "echo"}, compare={"mode": "colo-compare"}, **COLO
    )
    check_served(outcome)
    assert len(found(outcome, t.Compared)) > 100


@needs_qemu
def test_colo_compare_goes_on_in_the_next_pair(tmp_path):
    """The secondary is killed: the primary's QEMU, and the object in it, stay."""

    async def story(going: Going) -> None:
        await loses("secondary")(going)
        await going.happened("protected")
        await going.told(t.Compared, 51, "primary.2")
        await going.served()

    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": "echo"},
        compare={"mode": "colo-compare"},
        manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "500 ms"},
        **COLO,
    )
    check_served(outcome)
    second = [line for line in outcome.lines if line.node == "primary.2"]
    assert sum(isinstance(line.body, t.Compared) for line in second) > 50


@needs_qemu
def test_mode_qemu_serves_too(tmp_path):
    async def story(going: Going) -> None:
        await going.checkpoints(3)
        await going.served()

    outcome = ran(
        tmp_path, "colo", story, client={"kind": "echo"}, compare={"mode": "qemu"}, **COLO
    )
    check_served(outcome)


@needs_qemu
@CAMPAIGN
@pytest.mark.parametrize("seed", range(200))
def test_a_session_through_a_kill_at_a_random_moment(tmp_path, seed):
    draw = random.Random(seed)
    target = "secondary" if seed % 5 == 4 else "primary"
    fault = {**KILL, "target": target, "scope": draw.choice(["vm", "host"])}
    client = draw.choice(["echo", "work", "download"])
    fault["at"] = f"{draw.uniform(1, 6):.4f} s"
    survived(tmp_path, client, to_the_end, end_s=7, fault=[fault])
