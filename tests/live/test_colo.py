"""Policy `colo` on real guests: equal output leaves at once, and clients do not notice a kill."""

from __future__ import annotations

from typing import Any

import pytest

from colosim.protocol import types as t
from tests.live.pairs import needs_qemu
from tests.live.services import KILL, check_served, ran

COLO: dict[str, Any] = {
    "policy": {"name": "colo", "colo": {"checkpoint_delay": "1 s", "compare_timeout": "300 ms"}}
}


def found(outcome, what: type) -> list[Any]:
    return [line.body for line in outcome.lines if isinstance(line.body, what)]


@needs_qemu
@pytest.mark.parametrize("rewriter", ["strict", "qemu"])
@pytest.mark.parametrize("client", ["echo", "work", "download"])
def test_equal_output_leaves_without_a_checkpoint(tmp_path, client, rewriter):
    size = "4 MiB" if client == "download" else "1 KiB"
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


@needs_qemu
@pytest.mark.parametrize("scope", ["vm", "host"])
@pytest.mark.parametrize("client", ["echo", "work", "download"])
def test_clients_do_not_notice_that_the_primary_was_killed(tmp_path, client, scope):
    size = "4 MiB" if client == "download" else "1 KiB"
    outcome = ran(
        tmp_path,
        "colo",
        client={"kind": client, "size": size},
        fault=[{**KILL, "scope": scope, "at": "4 s"}],
        **COLO,
    )
    check_served(outcome)
    assert len(found(outcome, t.Alone)) == 1
