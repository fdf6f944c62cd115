"""QEMU's whole COLO, proxy included, as reference: a genuine pair of QEMU 11 under policy `colo`.

COLOSIM_QEMU_11 names the QEMU.  QEMU alone decides what leaves, so nothing of colosim's own
comparison is tried here: only that the pair is made, watched, struck and taken over as it should.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.clients.datagrams import Udp
from backends.qemu.errors import LiveError
from backends.qemu.live import LiveOutcome
from backends.qemu.qemu_log import event_of
from backends.qemu.selftest import SCENARIO
from colosim.protocol import types as t
from tests.live.native_pairs import QEMU, needs_qemu_11
from tests.live.services import KILL, check_served, ran

CAMPAIGN = pytest.mark.campaign
NATIVE: dict[str, Any] = {
    "policy": {"name": "colo", "colo": {"checkpoint_delay": "1 s", "compare_timeout": "300 ms"}},
    "commit": "received",
    "compare": {"mode": "colo-compare", "rewriter": "qemu"},
}


MISCOMPARE = "colo_compare_udp_miscompare"
SIZES = {"download": "1 MiB", "work": "4 KiB"}


def lived(tmp_path, kind: str, **tables: Any) -> LiveOutcome:
    """A run of a native pair; it did what our tables do."""
    services = ["ground", "nginx"] if kind == "http" else ["ground"]
    guest = {"engine": "native", "qemu": QEMU, "accelerator": "tcg", "services": services}
    size = SIZES.get(kind, "1 KiB")
    tables = {**tables, "guest": {**guest, **tables.get("guest", {})}}
    given = {"client": {"kind": kind, "size": size}, **NATIVE, **tables}
    outcome = ran(tmp_path, "colo", **given)
    print(outcome.record.counters, list(outcome.record.checkpoints["reason"]))
    assert outcome.record.counters["differences"] == 0
    assert "frames of the secondary that passed its proxy by" not in outcome.record.counters
    return outcome


def count(outcome: LiveOutcome, what: type) -> int:
    return sum(isinstance(line.body, what) for line in outcome.lines)


def told(outcome: LiveOutcome, what: str) -> list[str]:
    return [event["node"] for event in outcome.record.events if event["what"] == what]


@needs_qemu_11
@pytest.mark.parametrize(
    "client",
    ["http", pytest.param("echo", marks=CAMPAIGN), pytest.param("download", marks=CAMPAIGN)],
)
def test_clients_are_served(tmp_path, client):
    outcome = lived(tmp_path, client)
    check_served(outcome, 7)
    reasons = outcome.record.checkpoints["reason"]
    assert set(reasons) <= {"checkpoint-delay", "mismatch", "compare-timeout"}
    assert len(reasons) >= 6  # one a second at the least
    assert count(outcome, t.GuestOutput) == 0  # what leaves is QEMU's business
    assert (tmp_path / "gateway.pcap").stat().st_size > 10_000  # and is seen here
    assert told(outcome, "lost") == []


@needs_qemu_11
@pytest.mark.parametrize(
    ("client", "target", "scope"),
    [
        ("echo", "primary", "host"),
        ("download", "primary", "vm"),
        ("echo", "secondary", "host"),
        pytest.param("http", "primary", "host", marks=CAMPAIGN),
        pytest.param("http", "secondary", "vm", marks=CAMPAIGN),
        pytest.param("download", "primary", "host", marks=CAMPAIGN),
        pytest.param("download", "secondary", "host", marks=CAMPAIGN),
        pytest.param("echo", "primary", "vm", marks=CAMPAIGN),
    ],
)
def test_the_other_side_goes_on(tmp_path, client, target, scope):
    outcome = lived(
        tmp_path, client, fault=[{**KILL, "target": target, "scope": scope, "at": "4 s"}]
    )
    check_served(outcome, 7)
    assert count(outcome, t.Alone) == 1
    survivor = "secondary" if target == "primary" else "primary"
    assert told(outcome, "promoted") == [survivor]
    assert told(outcome, "lost") == ["primary"]  # what was held there is gone in either case


@needs_qemu_11
@pytest.mark.parametrize("target", ["primary", pytest.param("secondary", marks=CAMPAIGN)])
def test_a_qemu_that_waits_for_one_that_hangs_is_not_given_up(tmp_path, target):
    """A redirector's write to a peer that does not read keeps its whole QEMU waiting."""
    fault = [{"target": target, "scope": "vm", "kind": "hang", "at": "3 s"}]
    outcome = lived(tmp_path, "download", duration="14 s", fault=fault)
    assert count(outcome, t.Alone) == 1
    assert told(outcome, "promoted") == ["secondary" if target == "primary" else "primary"]
    assert outcome.record.responses["released_ns"].max() > 12e9


@needs_qemu_11
@CAMPAIGN
def test_guests_that_differ_ask_for_checkpoints(tmp_path):
    outcome = lived(tmp_path, "work", divergence={"probability": 0.1})
    check_served(outcome, 7)
    reasons = list(outcome.record.checkpoints["reason"])
    assert reasons.count("mismatch") > 5
    assert outcome.record.counters["mismatches_asked"] >= reasons.count("mismatch")


@needs_qemu_11
def test_why_checkpoints_begin_is_what_qemu_itself_logs(tmp_path):
    """Of datagrams, unlike TCP, colo-compare can log each difference.

    So what follows from times is held against QEMU's own word, by QEMU's own clock.
    """
    command = f"{sys.executable} {Path(__file__).with_name('bursts.py')} 7"
    client = {"kind": "command", "command": command, "guest_port": Udp.ports["ground"]}
    logged = {"arguments": ["-trace", f"enable={MISCOMPARE}"]}
    outcome = lived(tmp_path, "udp", guest=logged, client=client)
    reasons = outcome.record.checkpoints["reason"]
    rows = [json.loads(line) for line in (tmp_path / "phases.jsonl").read_text().splitlines()]
    ahead_ns = time.time_ns() - time.monotonic_ns()
    events = map(event_of, (tmp_path / "a.proxy.log").read_text().splitlines())
    differed = [each.at_ns - ahead_ns for each in events if each and each.name == MISCOMPARE]
    flushed_ns = 0
    asked: Counter[tuple[str, bool]] = Counter()
    for reason, row in zip(reasons, rows, strict=True):
        logged_by_then = any(flushed_ns < at_ns <= row["request_ns"] for at_ns in differed)
        asked[reason, logged_by_then] += 1
        flushed_ns = row.get("received_ns", row["request_ns"])
    print(asked)
    assert asked["mismatch", True] >= 3
    assert asked["mismatch", False] == 0
    assert asked["checkpoint-delay", False] >= 1


@needs_qemu_11
def test_output_that_waits_too_long_and_output_that_a_full_queue_loses(tmp_path):
    """As both are set, no download gets by without either."""
    compare = {**NATIVE["compare"], "queue_frames": 1, "scan_cycle": "5 ms"}
    colo = {"checkpoint_delay": "1 s", "compare_timeout": "10 ms"}
    policy = {"name": "colo", "colo": colo}
    outcome = lived(tmp_path, "download", compare=compare, policy=policy)
    assert outcome.record.counters["frames that a full queue of colo-compare lost"] > 0
    assert "compare-timeout" in set(outcome.record.checkpoints["reason"])
    assert outcome.record.counters["compare_timeouts"] > 0


@needs_qemu_11
def test_without_clients_there_is_no_proxy_and_only_the_timer(tmp_path):
    kill = [{**KILL, "scope": "host", "at": "4 s"}]
    outcome = lived(tmp_path, "none", workload=SCENARIO["workload"], duration="6 s", fault=kill)
    assert set(outcome.record.checkpoints["reason"]) == {"checkpoint-delay"}
    assert told(outcome, "promoted") == ["secondary"]
    assert told(outcome, "lost") == []


@needs_qemu_11
def test_a_comparison_of_ours_is_refused(tmp_path):
    with pytest.raises(LiveError, match=r"compare.mode: strict: in a native pair"):
        lived(tmp_path, "echo", compare={"rewriter": "qemu"})
