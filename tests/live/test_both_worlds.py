"""One scenario in both worlds: the same words, the same steps in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from backends.qemu.selftest import SCENARIO
from backends.sim import run_replication
from colosim.protocol.node import Node
from colosim.protocol.trace import Line, encode_line
from colosim.scenario import Scenario
from tests.live.pairs import needs_qemu
from tests.live.services import LONG, ran

#: with what a checkpoint begins: step, signal, action
BEGIN = {
    "primary": ("quiesce", "CheckpointStarted", "Quiesce"),
    "secondary": ("stop", "CheckpointStarted", "StopVm"),
}


def cycles(lines: list[Line], name: str) -> list[list[tuple[str, ...]]]:
    """Of steps, signals and actions: what a node did in each whole checkpoint.

    A feed may pass several steps, and end one checkpoint and begin the next: how bytes are cut
    into pieces is no business of the protocol.  So steps come from the node itself, fed again.
    """
    (header,) = (line.body for line in lines if line.node == name and line.kind == "node")
    node = Node(header)
    words: tuple[list[str], list[str], list[str]] = ([], [], [])
    for line in lines:
        if line.node == name and line.kind == "event":
            node.feed(line.body, line.now_ns)
            words[0].extend(node.entered())
            words[1].extend(_names(node.signals()))
            words[2].extend(_names(node.actions()))
    return [_cut(each, begin) for each, begin in zip(words, BEGIN[name], strict=True)]


def _cut(words: list[str], begin: str) -> list[tuple[str, ...]]:
    """At each ``begin``; the first part is no checkpoint, the last may not be whole."""
    at = [i for i, word in enumerate(words) if word == begin]
    return [tuple(words[i:j]) for i, j in pairwise(at)]


def _names(said: Iterable[object]) -> list[str]:
    names = [type(each).__name__ for each in said]
    return [name for name in names if name not in ("Heartbeat", "CheckpointNow")]


def keys(lines: list[Line]) -> set[tuple[str, ...]]:
    """The shape of every kind of line."""
    shapes = set()
    for line in lines:
        raw = json.loads(encode_line(line))
        (name, body), *_ = raw["body"].items()
        shapes.add((*sorted(set(raw) - {"cause"}), raw["kind"], name, *sorted(body)))
    return shapes


@needs_qemu
@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send"])
@pytest.mark.parametrize("commit", ["received", "loaded"])
def test_a_checkpoint_has_the_same_steps(tmp_path, commit, transfer):
    tables: dict[str, Any] = {
        **SCENARIO,
        "duration": "2 s",
        "commit": commit,
        "transfer": transfer,
        "guest": {"accelerator": "tcg"},
        "workload": {"kind": "batch", "work": "2 s"},
        "memory": {**SCENARIO["memory"], "guest_memory": "128 MiB"},
    }
    scenario = Scenario.from_mapping(tables)
    simulated: list[Line] = []
    run_replication(scenario, "remus", 1, 0, [simulated.append])
    outcome = ran(
        tmp_path, story=lambda going: going.checkpoints(6), **{**tables, "duration": LONG}
    )
    for node in BEGIN:
        for seen, wanted in zip(cycles(outcome.lines, node), cycles(simulated, node), strict=True):
            assert len(seen) >= 3
            assert len(set(wanted)) == 1
            assert set(seen) == set(wanted), node
    assert keys(simulated) <= keys(outcome.lines)
