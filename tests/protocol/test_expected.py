"""Scripts in ``expected/``, written from the references: what a node does, told what it is told."""

import pytest

from colosim.protocol import types as t
from tests.protocol.script import (
    Player,
    ScriptError,
    Unexpected,
    config_of,
    configurations,
    expected_blocks,
    expected_scripts,
    manager_configurations,
    name_of,
    parse,
    scripts,
)

CASES = [
    pytest.param(config, script, id=f"{name_of(config)}: {script.name}")
    for config in (*configurations(), *manager_configurations())
    for script in expected_scripts(config)
]
PRIMARY, SECONDARY = config_of("upstream", t.Role.PRIMARY), config_of("upstream", t.Role.SECONDARY)


@pytest.mark.parametrize(("config", "script"), CASES)
def test_expected(config, script):
    Player(config).play(script.lines)


def test_every_script_is_played():
    every = (*configurations(), *manager_configurations())
    played = {script.name for config in every for script in expected_scripts(config)}
    assert played == {block.name for block in expected_blocks()}


# ------------------------------------------------------------- what the scripts themselves can say


@pytest.mark.parametrize(
    "spoiled",
    [
        "< start > StartVm ~ Takeover clean 0 @stop",  # another step
        "< start > StartVm ~ Takeover clean 0",  # the step stays
        "< start ~ Takeover clean 0 @start",  # an action less
        "< start > StartVm > StopVm ~ Takeover clean 0 @start",  # an action more
        "< start > Start ~ Takeover clean 0 @start",  # another name
        "< start > StartVm ~ Takeover clean 1 @start",  # another signal
        "< start > StartVm @start",  # a signal less
        "< tick +1s",  # no deadline
        "< done StartVm",  # never asked for
    ],
)
def test_a_wrong_script_fails(spoiled):
    [script] = scripts(parse(f"== upstream\npath spoiled\n{spoiled}", "f"), frozenset({"upstream"}))
    with pytest.raises(Unexpected):
        Player(SECONDARY).play(script.lines)


@pytest.mark.parametrize(
    "unreadable", ["< start", "path p\n> StartVm", "path p\nstart", "at nowhere\n< start"]
)
def test_an_unreadable_script_is_an_error(unreadable):
    with pytest.raises(ScriptError):
        scripts(parse(unreadable, "f"), frozenset())


# ------------------------------------------------------------------------- the contract of a world


TO_QUIESCE = ("start", "bytes 00000000", "done StartVm", "mismatch a")


def fed(config, *inputs):
    player = Player(config)
    for what in inputs:
        player.feed(what)
    return player


def test_late_completions_are_dropped_and_counted():
    player = fed(SECONDARY, "start", "tick +20s")
    assert player.node.cancelled == 0
    player.feed("done StartVm")
    player.feed("failed StartVm")
    assert (player.actions, player.signals, player.node.cancelled) == ([], [], 2)


@pytest.mark.parametrize(
    ("config", "inputs", "event"),
    [
        (SECONDARY, ["start"], t.Done(2)),  # never asked for
        (SECONDARY, ["start"], t.Failed(0, "")),
        (SECONDARY, ["start"], t.Start()),  # twice
        (
            PRIMARY,
            [*TO_QUIESCE, "done Quiesce", "bytes 00000002", "done StopVm", "done Drain"],
            t.Done(5),  # saved, but what?
        ),
    ],
)
def test_a_world_that_breaks_the_contract_is_told(config, inputs, event):
    player = fed(config, *inputs)
    with pytest.raises(t.ProtocolError):
        player.node.feed(event, player.now_ns)


def test_what_nobody_will_read_is_not_kept():
    player = fed(SECONDARY, "start", "done StartVm", "link lost", *["bytes 00000001"] * 9)
    assert player.node.step == "exited"
    assert not player.node.checkpointer._inbox
