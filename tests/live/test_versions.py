"""Pairs of other releases than the distribution's, and of two: an upgrade by failover.

Other releases are named in the environment, COLOSIM_QEMU_10 and COLOSIM_QEMU_11.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from backends.qemu.asking import probe
from backends.qemu.launch import Qemu
from tests.live.pairs import QEMU, checked, live, needs_qemu, plan, until_checkpoint
from tests.live.test_takeover import survives

VARIABLES = {"10.0": "COLOSIM_QEMU_10", "11.1": "COLOSIM_QEMU_11"}
PAIRS = (
    *(("10.0", "10.0"), ("11.1", "11.1")),
    *(("debian", "10.0"), ("debian", "11.1"), ("10.0", "11.1")),
    *(("11.1", "10.0"), ("11.1", "debian")),
)


def qemu_of(release: str) -> Qemu:
    """Debian's own, or one that the environment names."""
    if release == "debian":
        return asyncio.run(probe(QEMU))
    program = os.environ.get(VARIABLES[release])
    if not program:
        pytest.skip(f"{VARIABLES[release]} names no QEMU")
    found = asyncio.run(probe(program))
    assert found.release.startswith(f"{release}."), f"{program} is {found.release}"
    return found


@needs_qemu
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_takeover_and_a_new_pair(tmp_path, before, after):
    """The guest goes on in the other release, and is protected there again."""
    qemus = [qemu_of(before), qemu_of(after)]
    made = asyncio.run(plan())
    major, minor, _ = min(qemu.version for qemu in qemus)
    hosts = tuple(replace(host, qemu=qemu) for host, qemu in zip(made.hosts, qemus, strict=True))
    machine = replace(made.machine, kind=f"pc-i440fx-{major}.{minor}")

    async def given():
        return replace(made, machine=machine, hosts=hosts)

    async def block(run):
        await until_checkpoint(tmp_path, 10)
        await run.strike("a", "host", "crash")
        first = await survives(run, "b")
        await run.reprotect()
        await until_checkpoint(tmp_path, 3, node="primary.2", host="b")
        await run.strike("b", "vm", "crash")
        assert await survives(run, "c") > first

    live(tmp_path, given(), block)
    checked(tmp_path, "abc")
