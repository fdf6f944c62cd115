"""The accelerator that a live run takes, where KVM does not run code or cannot be tried."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.qemu import sites
from backends.qemu.launch import Qemu
from backends.qemu.selftest import SCENARIO
from colosim.scenario import Scenario

QEMU = Qemu("qemu", (7, 2, 22))
SAID = "guest.accelerator: kvm runs no code on this machine, or more slowly than tcg"


@pytest.mark.parametrize(
    ("asked", "works", "taken", "said"),
    [
        ("auto", True, "kvm", []),
        ("auto", False, "tcg", []),
        ("kvm", True, "kvm", []),
        ("kvm", False, "kvm", [SAID]),  # a slow one may be wanted
        ("tcg", False, "tcg", []),
    ],
)
def test_a_kvm_that_was_asked_for_is_taken_and_said_to_be_of_no_use(
    monkeypatch, asked, works, taken, said
):
    async def kvm_works(qemu):
        return works

    monkeypatch.setattr(sites, "kvm_works", kvm_works)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    scenario = Scenario.from_mapping({**SCENARIO, "guest": {"accelerator": asked}})
    heard: list[str] = []
    qemus = {"primary": QEMU, "secondary": QEMU}
    assert asyncio.run(sites.Sites(scenario).accelerator(qemus, heard.append)) == taken
    assert heard == said
