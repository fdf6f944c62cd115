"""The doctor: what it says of this machine, of broken ones, and of unsafe scenarios."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import time
from pathlib import Path

import pytest

from backends.qemu import asking, doctor, selftest
from backends.qemu.doctor import Examination, engines, examine
from backends.qemu.findings import Finding, lines_of
from backends.qemu.launch import Qemu
from backends.qemu.runner import LiveRun
from backends.qemu.selftest import SCENARIO
from backends.qemu.unsafe import unsafe
from colosim.scenario import Scenario, load_scenario
from tests.live.pairs import QEMU, needs_qemu

STATUSES = {"ok", "warn", "fail", "skip"}


def quiet(text: str) -> None:
    pass


def examined(*qemus: str, tests: bool = False) -> Examination:
    found = asyncio.run(asyncio.wait_for(examine(qemus, quiet, tests=tests), 500))
    well_formed(found)
    return found


def well_formed(found: Examination) -> None:
    whole = json.loads(found.to_json())
    assert whole["verdict"] == found.verdict
    assert whole["works"] is found.works
    assert [Finding(**each) for each in whole["findings"]] == list(found.findings)
    assert {each.status for each in found.findings} <= STATUSES
    for each in found.findings:
        assert each.status != "fail" or each.advice, each
        assert "\n" not in each.detail + each.advice
    assert found.lines()[-1] == found.verdict


def named(found: Examination, name: str) -> Finding:
    return next(each for each in found.findings if each.name == name)


@pytest.fixture
def program(tmp_path):
    """Makes a shell script, which a user may take for QEMU."""

    def make(text: str) -> str:
        path = tmp_path / "qemu"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


@needs_qemu
def test_this_machine_survives_the_loss_of_a_primary():
    found = examined(QEMU, tests=True)
    assert found.works, found.lines()
    for step in ("boot", "protect", "checkpoints", "takeover", "memory", "replay"):
        assert named(found, f"self-test {step}").status == "ok"
    assert "live runs work here" in found.verdict


@needs_qemu
def test_this_machine_without_a_self_test():
    found = examined(QEMU)
    assert not found.works
    for name in ("qemu", "qemu colo", "memory", "/dev/shm", "guest image"):
        assert named(found, name).status == "ok", named(found, name)
    assert named(found, "wire engine").detail.startswith("QEMU ")
    assert named(found, "self-test boot").status == "skip"


def test_nothing_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = examined(QEMU, tests=True)
    assert not found.works
    for name in ("qemu", "passt", "dpkg and apt", "compiler"):
        assert named(found, name).status == "fail"
    assert named(found, "self-test boot").status == "skip"
    assert found.verdict.startswith("no live run was seen to work here: qemu")


def test_a_self_test_that_cannot_begin(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, *rest = asyncio.run(selftest.self_test(quiet))
    assert first.status == "fail"
    assert {each.status for each in rest} == {"skip"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo nonsense", "is no QEMU system emulator"),
        ("exit 1", "is no QEMU system emulator"),
        ("head -c 9999999 /dev/urandom", "is no QEMU system emulator"),
        ("sleep 1000", "did not tell its version"),
        ("sleep 1000 & wait", "did not tell its version"),
    ],
)
def test_a_wrong_binary(monkeypatch, program, text, why):
    if "sleep" in text:
        monkeypatch.setattr(asking, "ASK_LIMIT_S", 1.0)
    start_s = time.monotonic()
    found, _, qemu = asyncio.run(doctor._examine_qemu(program(text)))
    assert time.monotonic() - start_s < 30
    assert qemu is None
    assert [each.status for each in found] == ["fail"]
    assert why in found[0].detail


def test_a_binary_of_no_program(tmp_path):
    path = tmp_path / "qemu"
    path.write_bytes(bytes(100))
    path.chmod(0o755)
    found, _, qemu = asyncio.run(doctor._examine_qemu(str(path)))
    assert qemu is None
    assert "cannot be run" in found[0].detail


def test_a_binary_that_only_tells_a_version(monkeypatch, program):
    monkeypatch.setattr(asking, "ASK_LIMIT_S", 2.0)
    monkeypatch.setattr(doctor, "ASK_LIMIT_S", 1.0)
    monkeypatch.setattr(doctor, "_KVM_LIMIT_S", 1.0)
    path = program("echo QEMU emulator version 10.1.2; test $1 = --version || sleep 1000 & wait")
    found, _, qemu = asyncio.run(doctor._examine_qemu(path))
    assert qemu is None
    assert [(each.name, each.status) for each in found] == [("qemu", "ok"), ("qemu colo", "fail")]


@needs_qemu
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo it broke >&2; exit 1", "host a: qemu ended at once: it broke"),
        ("exec sleep 1000", "host a: "),
    ],
)
def test_a_self_test_with_a_binary_that_only_tells_a_version(program, text, why):
    path = program(f"test $1 = --version && echo QEMU emulator version 7.2.22 && exit\n{text}")
    parts, boot, *rest = asyncio.run(asyncio.wait_for(selftest.self_test(quiet, path), 200))
    assert parts.status == "ok"
    assert boot.status == "fail"
    assert why in boot.detail
    assert {each.status for each in rest} == {"skip"}


@needs_qemu
def test_ctrl_c_in_a_self_test_leaves_nothing(monkeypatch, tmp_path):
    runs: list[LiveRun] = []

    class Run(LiveRun):
        def __init__(self, *args):
            super().__init__(*args)
            runs.append(self)

    async def interrupted() -> None:
        booting = asyncio.Event()
        test = asyncio.create_task(
            selftest.self_test(lambda text: booting.set() if text.startswith("booting") else None)
        )
        await asyncio.wait_for(booting.wait(), 200)
        assert runs[0].directory.exists()
        test.cancel()
        with pytest.raises(asyncio.CancelledError):
            await test

    monkeypatch.setattr(selftest, "LiveRun", Run)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    asyncio.run(interrupted())
    assert not runs[0].directory.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "accelerator", "wire", "native"),
    [
        ((6, 2, 0), "tcg", "fail", "not tried"),
        ((7, 2, 22), "tcg", "ok", "hangs at the first checkpoint"),
        ((7, 2, 22), "kvm", "warn", "not tried"),
        ((8, 2, 2), "tcg", "warn", "not tried"),
        ((10, 0, 2), "tcg", "ok", "broken for everybody"),
        ((10, 0, 2), "kvm", "warn", "broken for everybody"),
        ((10, 0, 13), "tcg", "ok", "hangs at the first checkpoint"),
        ((10, 1, 3), "kvm", "warn", "broken for everybody"),
        ((11, 0, 0), "tcg", "warn", "works by QEMU's own tests"),
        ((11, 1, 3), "tcg", "ok", "works (11.1.3 was tried)"),
        ((12, 0, 0), "tcg", "warn", "not tried"),
    ],
)
def test_what_is_known_of_a_version(version, accelerator, wire, native):
    found = {each.name: each for each in engines(Qemu("qemu", version), accelerator)}
    assert found["wire engine"].status == wire
    assert native in found["native engine"].detail


def test_a_check_that_fails_is_a_finding(monkeypatch):
    async def broken() -> Finding:
        raise ZeroDivisionError("of the check")

    found = asyncio.run(doctor._guarded("it", broken()))
    assert found.status == "fail"
    assert "of the check" in found.detail


def test_text_is_aligned():
    text = lines_of([Finding("a", "ok", "fine"), Finding("longer", "fail", "bad", "mend it")])
    assert text == ["ok    a       fine", "fail  longer  bad", "              -> mend it"]


def test_too_little_memory():
    for finding in (doctor._memory(1 << 50), doctor._shared_memory(1 << 50)):
        assert finding.status == "fail"
        assert finding.advice


# --------------------------------------------------------------------------------------------
# Scenarios

SAFE = {
    **SCENARIO,
    "manager": {"heartbeat_interval": "50 ms", "heartbeat_timeout": "2 s"},
    "guest": {"qemu": "no-such-qemu"},
    "memory": {**SCENARIO["memory"], "guest_memory": "131080 KiB"},
}
REMOTE = {"primary": "10.0.0.2:7070", "listen": "10.0.0.1", "secret_file": "secret"}
SERVICE = {
    "kind": "service",
    "load": "open",
    "rate": "100 /s",
    "service_time": "1 ms",
}


COLO = {"policy.name": "colo", "policy.colo.compare_timeout": "300 ms"}


def found_in(changes: dict) -> dict[str, Finding]:
    """By key, what is unsafe in a safe scenario with these changes."""
    found = unsafe(Scenario.from_mapping(SAFE).replace(changes))
    assert all(each.advice and each.status in STATUSES for each in found)
    return {each.name: each for each in found}


def test_a_safe_scenario():
    assert found_in({}) == {}
    assert found_in(COLO) == {}
    assert found_in({"guest.engine": "native"}) == {}
    proxy = {"compare.mode": "colo-compare", "compare.rewriter": "qemu", "commit": "received"}
    assert list(found_in({**COLO, **proxy, "guest.engine": "native"})) == ["guest.engine"]


@pytest.mark.parametrize(
    ("changes", "key", "status"),
    [
        ({"policy.name": "none"}, "policy.name", "warn"),
        ({**COLO, "compare.mode": "qemu"}, "compare.mode", "warn"),
        ({**COLO, "compare.rewriter": "qemu"}, "compare.rewriter", "warn"),
        ({"policy.name": "colo"}, "policy.colo.compare_timeout", "warn"),
        ({**COLO, "guest.engine": "native"}, "guest.engine", "warn"),
        ({**COLO, "guest.engine": "native"}, "compare.mode", "fail"),
        ({**COLO, "guest.engine": "native"}, "compare.rewriter", "fail"),
        ({**COLO, "guest.engine": "native"}, "commit", "fail"),
        ({"manager.fence_fails": True}, "manager.fence_fails", "fail"),
        ({"quirks": "qemu-7.2"}, "quirks", "fail"),
        ({"commit": "received"}, "commit", "warn"),
        ({"commit": None}, "commit", "warn"),
        (
            {"manager.heartbeat_timeout": "20 ms", "manager.heartbeat_interval": "5 ms"},
            "manager.heartbeat_timeout",
            "fail",
        ),
        ({"manager.heartbeat_timeout": "100 ms"}, "manager.heartbeat_timeout", "warn"),
        ({"manager.heartbeat_interval": "1 s"}, "manager.heartbeat_interval", "warn"),
        ({"manager.fence_timeout": "100 ms"}, "manager.fence_timeout", "warn"),
        (
            {"hosts": REMOTE, "manager.fence_timeout": "2 s"},
            "manager.fence_timeout",
            "warn",
        ),
        ({"hosts": REMOTE}, "hosts.listen", "warn"),
        ({"limits.send": "10 min"}, "limits", "warn"),
        ({"limits.send": "1 ms"}, "limits.send", "fail"),
        ({"link.bandwidth": "20 Mbit/s"}, "link.bandwidth", "warn"),
        ({"link.bandwidth": "1 Mbit/s"}, "link.bandwidth", "fail"),
        ({"policy.remus.interval": "20 ms"}, "policy", "warn"),
        ({"memory.guest_memory": "100000 GiB"}, "memory.guest_memory", "fail"),
        ({"guest.machine": "q35"}, "guest.machine", "warn"),
        (
            {"guest.secondary_qemu": "other-qemu", "guest.machine": "pc-i440fx"},
            "guest.machine",
            "fail",
        ),
        ({"guest.boot_limit": "1 s"}, "guest.boot_limit", "warn"),
        ({"guest.kernel": "/vmlinuz", "guest.append": "quiet"}, "guest.append", "warn"),
        (
            {"workload": SERVICE, "client.kind": "http", "client.timeout": "1 s"},
            "client.timeout",
            "warn",
        ),
        ({"workload": SERVICE}, "client.kind", "warn"),
    ],
)
def test_an_unsafe_setting(changes, key, status):
    found = unsafe(Scenario.from_mapping(SAFE).replace(changes))
    assert (key, status) in {(each.name, each.status) for each in found}


def test_limits_that_are_too_long_are_named():
    assert found_in({"limits.send": "10 min"})["limits"].detail.endswith("(send)")


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        changes = {"workload": SERVICE, "client.kind": "http", "client.host_port": port}
        assert "taken" in found_in(changes)["client.host_port"].detail
    assert "client.host_port" not in found_in(changes)


@pytest.mark.parametrize(
    ("release", "changes", "key", "status"),
    [
        ("7.2.22", {"guest.machine": "q35"}, "guest.machine", "fail"),
        ("7.2.22", {"guest.machine": "pc-q35-7.2"}, "guest.machine", "fail"),
        ("11.1.3", {"guest.machine": "q35"}, "guest.machine", None),
        ("7.2.22", {"guest.machine": "pc-i440fx-10.0"}, "guest.machine", "fail"),
        ("10.0.13", {"guest.machine": "pc-i440fx-7.2"}, "guest.machine", None),
        ("7.2.22", {"memory.guest_memory": "128 MiB"}, "memory.guest_memory", "skip"),
        ("10.0.13", {"memory.guest_memory": "128 MiB"}, "memory.guest_memory", None),
        ("10.0.13", {"guest.engine": "native"}, "guest.qemu", "fail"),
        ("11.1.3", {"guest.engine": "native"}, "guest.qemu", None),
    ],
)
def test_what_depends_on_the_version(program, release, changes, key, status):
    path = program(f"echo QEMU emulator version {release}")
    found = found_in({"guest.qemu": path, **changes})
    assert (found[key].status if key in found else None) == status


def test_a_queue_size_that_a_newer_qemu_refuses(tmp_path):
    paths = []
    for release in ("10.0.13", "11.1.3"):
        paths.append(tmp_path / release)
        paths[-1].write_text(f"#!/bin/sh\necho QEMU emulator version {release}\n")
        paths[-1].chmod(0o755)
    changes = {
        "workload": SERVICE,
        "client.kind": "http",
        "guest.qemu": str(paths[0]),
        "guest.secondary_qemu": str(paths[1]),
        "guest.machine": "pc-i440fx-10.0",
    }
    assert found_in(changes)["guest.secondary_qemu"].status == "fail"


@pytest.mark.parametrize(
    "words",
    [
        "-netdev tap,id=n,vhost=on",
        "-device virtio-net-pci,mq=on",
        "-device vhost-vsock-pci,guest-cid=3",
        "-global migration.x-multifd=on",
        "-global migration.return-path=on",
        "--spice port=5900",
        "-vga qxl",
        "-snapshot",
        "-drive file=disk.raw,format=raw",
        "-hda disk.raw",
        "-nic user",
        "-virtfs local,path=/,mount_tag=x,security_model=none",
        "-device vfio-pci,host=01:00.0",
        "-daemonize",
        "-m 1G",
        "-S",
        "-object memory-backend-ram,id=x,size=1G",
        "-cpu host",
        "-serial tcp::4444,server=on",
        "-device virtio-balloon-pci",
        "-device pvpanic",
    ],
)
def test_an_unsafe_argument(words):
    found = found_in({"guest.arguments": ["-smp", "1", *words.split()]})
    assert list(found) == ["guest.arguments.2"]
    assert words.lstrip("-") in found["guest.arguments.2"].detail


@pytest.mark.parametrize(
    "words",
    [
        "-smp 2",
        "-cpu qemu64",
        "-nic none",
        "-device virtio-rng-pci",
        "-drive file=disk.raw,format=raw,readonly=on",
        "-drive if=none,driver=replication,mode=primary",
        "-global migration.x-multifd=off",
        "-device virtio-blk-pci,num-queues=4,drive=d",
        "-msg timestamp=on",
    ],
)
def test_an_argument_that_is_safe(words):
    assert found_in({"guest.arguments": words.split()}) == {}


def test_scenarios_of_the_repository():
    folder = Path(__file__).parents[2] / "experiments" / "live"
    for path in folder.glob("*.toml"):
        assert "fail" not in {each.status for each in unsafe(load_scenario(path))}, path
