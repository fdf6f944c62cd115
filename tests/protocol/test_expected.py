"""Scripts in ``expected/``, written from the references: what a node does, told what it is told."""

import pytest

from tests.protocol.script import Player, configurations, expected_scripts, name_of

CASES = [
    pytest.param(config, script, id=f"{name_of(config)}: {script.name}")
    for config in configurations()
    for script in expected_scripts(config)
]


@pytest.mark.parametrize(("config", "script"), CASES)
def test_expected(config, script):
    Player(config).play(script.lines)
