"""Mutants of the tables, hunted by exploring: a sample in `make test`, many in the campaign.

Exploring judges by what clients and the other side can see.  So this holds two things: that of the
mutants of the way without faults (`EVIDENT`) each is found, and how many of all are.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from colosim.exploration.space import Design
from colosim.protocol.checkpoint import Verb
from tests.exploration.hunting import first_violation, points
from tests.exploration.mutants import Planted, Touched, mutants

#: how many mutants of each design the campaign hunts
MUTANTS = int(os.environ.get("COLOSIM_EXPLORE_MUTANTS", "1000"))

DESIGN = Design("remus", "upstream", "stop-and-send", "loaded")
MANY = [
    DESIGN,
    Design("colo", "upstream", "copy-then-send", "received"),
    Design("colo", "upstream", "stop-and-send", "received", "qemu-7.2"),
    Design("remus", "rfc2014", "stop-and-send", "loaded"),
]
_ON_THE_WAY = {
    *(Verb.READY, Verb.REQUEST, Verb.REPLY, Verb.SEND, Verb.STATE, Verb.RECEIVED, Verb.LOADED),
    Verb.DONE,
}


#: what of these behaves as the original, as far as anybody outside can see
EQUIVALENT = {
    # in simulation output reaches the node as it is made, so the drain that is skipped did nothing
    "primary: request, reply: to cut",
    "secondary: wait-request, request: to cut",
    # it runs alone and has said so; nothing more happens to it, whatever the state is called
    "secondary: takeover, done: to wait-request",
    "primary: takeover, done: to run",
    "primary: takeover, done: to idle",
}


def is_evident(planted: Planted) -> bool:
    """A row of the way through a checkpoint that is gone or leads elsewhere."""
    keys = [touched for touched in planted.mutant.touches if isinstance(touched, tuple)]
    what = planted.mutant.name.rpartition(": ")[2]
    return bool(keys) and keys[0][1] in _ON_THE_WAY and (what == "deleted" or what[:3] == "to ")


def hunt(planted: Planted, touched: Touched, most: int) -> str:
    """Found, survived or (no point touches it) untouched."""
    candidates = touched.by(planted)[:most]
    if not candidates:
        return "untouched"
    with planted.plant():
        _, wrong = first_violation(candidates)
    return "survived" if wrong is None else "found"


def test_mutants_of_the_way_are_found(record_property):
    touched = Touched(DESIGN, points([DESIGN], 15))
    chosen = [planted for planted in mutants(DESIGN) if is_evident(planted) and touched.by(planted)]
    survivors = {
        planted.name.partition(" ")[2]
        for planted in chosen
        if hunt(planted, touched, 30) != "found"
    }
    record_property("counted", f"{len(chosen)} mutants of the way, {len(survivors)} equivalent")
    assert len(chosen) > 300
    assert survivors == EQUIVALENT


@pytest.mark.campaign
@pytest.mark.parametrize("design", MANY, ids=str)
def test_many_mutants(design, record_property):
    touched = Touched(design, points([design], 600))
    every = list(mutants(design))
    random.Random(2).shuffle(every)
    counts: Counter[str] = Counter()
    survivors = []
    for planted in every[:MUTANTS]:
        became = hunt(planted, touched, 60)
        counts[became] += 1
        if became == "survived":
            survivors.append(planted.name)
    print(*survivors, sep="\n")
    record_property("counted", f"mutants of {design}: {dict(counts)} of {len(every)}")
    assert counts["found"] > counts["survived"]
