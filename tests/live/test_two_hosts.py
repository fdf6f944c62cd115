"""Hosts of a run on other machines: `colosim agent`s on loopback, and in network namespaces."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.address import (
    TcpAddress,
    UnixAddress,
    connected,
    endpoint,
    free_ports,
    parse,
)
from backends.qemu.door import Door
from backends.qemu.errors import LiveError
from backends.qemu.host_agent import AGENT, RUNNER, SILENCE_LIMIT_S
from backends.qemu.live import LiveOutcome
from backends.qemu.net.config import CONTROL, HUB, LINK, NetConfig
from backends.qemu.net.control import Control
from backends.qemu.net.port import Port
from backends.qemu.places import RemotePlace, asked
from backends.qemu.records import merged, recorded
from backends.qemu.secret import derived, read_secret
from backends.qemu.selftest import SCENARIO, committed_generation, serial
from backends.qemu.stream import connect
from backends.sim import run_replication
from colosim.protocol import types as t
from colosim.protocol.invariants import check
from colosim.protocol.trace import Line, TraceError, encode_line, replay
from colosim.scenario import Scenario
from tests.live.machines import (
    ROOT,
    AgentProcess,
    agent,
    bridged,
    colosim,
    needs,
    secret_file,
    short_directory,
    until,
    users_of,
    why_no_namespaces,
)
from tests.live.pairs import WAIT_LIMIT_S, needs_qemu
from tests.live.services import LONG, Going, check_served, loses, ran

LIMIT_S = 60.0
CHECKPOINTS = 10
MS = 1_000_000
DELAY_MS = 5

TWO_HOSTS: dict[str, Any] = {
    **SCENARIO,
    "duration": LONG,
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 2,
        "think_time": "50 ms",
        "service_time": "1 ms",
    },
    "memory": {**SCENARIO["memory"], "guest_memory": "131080 KiB"},
    "guest": {"accelerator": "tcg"},
    "client": {"kind": "echo"},
    "link": {"delay": f"{DELAY_MS} ms", "bandwidth": "200 Mbit/s"},
}


def scenario_of(listen: str, secret: Path, primary: str, secondary: str | None) -> dict[str, Any]:
    hosts = {"listen": listen, "secret_file": str(secret), "primary": primary}
    return {**TWO_HOSTS, "hosts": hosts | ({"secondary": secondary} if secondary else {})}


# --------------------------------------------------------------------------------------------
# A pair on two machines


def lived(
    tmp_path: Path, tables: dict[str, Any], survivor: AgentProcess, strike: Callable[[], None]
) -> LiveOutcome:
    """Protect, checkpoint under clients, strike, and let the survivor serve on."""

    async def story(going: Going) -> None:
        await going.checkpoints(CHECKPOINTS)
        await asyncio.to_thread(strike)
        await going.run.until_promoted(WAIT_LIMIT_S)
        await asyncio.to_thread(verify, survivor)
        await going.served()

    return ran(tmp_path, story=story, **tables)


def verify(survivor: AgentProcess) -> None:
    """The survivor's guest works, and finds all its memory as it must be."""
    (directory,) = survivor.directory.glob("colosim-*")
    said = [serial(directory / "b.tty", "verify", WAIT_LIMIT_S) for _ in range(2)]
    assert all(each.startswith("ok ") for each in said), said
    first, second = (int(each.rpartition("generation=")[2]) for each in said)
    assert second > first, "the guest stands still"


def check_survived(outcome: LiveOutcome) -> None:
    """It was the secondary that went on, nothing was lost, and the link had its delay."""
    record = outcome.record
    check_served(outcome)
    assert [line.node for line in outcome.lines if isinstance(line.body, t.Alone)] == ["secondary"]
    assert [each["node"] for each in record.events if each["what"] == "promoted"] == ["secondary"]
    committed = [line.body.checkpoint for line in outcome.lines if isinstance(line.body, t.Loaded)]
    assert len(committed) >= CHECKPOINTS
    table = record.checkpoints
    delayed = (table["started_ns"] > 100 * MS) & (table["committed_ns"] > 0)  # the run has begun
    took_ns = (table["committed_ns"] - table["cut_ns"])[delayed]
    assert len(took_ns) > 0
    assert took_ns.min() > 2 * DELAY_MS * MS, "the link had no delay"


@needs_qemu
def test_a_pair_on_two_machines_of_loopback(tmp_path):
    """Without root: separate directories; the primary's whole domain is killed."""
    secret = secret_file(tmp_path)
    with agent(secret) as a, agent(secret) as b:

        def strike() -> None:
            a.kill()
            until(lambda: users_of(a.directory) == [], "the end of the primary's domain")

        tables = scenario_of("127.0.0.1", secret, a.at, b.at)
        outcome = lived(tmp_path, tables, b, strike)
        check_survived(outcome)
        until(lambda: b.processes() == [], "the end of the secondary's domain")
        assert "nothing of its run is left" in b.end()
    assert outcome.about["machine of primary"] == a.at


@needs_qemu
@needs(why_no_namespaces)
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_machine_that_says_nothing_any_more(tmp_path, how):
    """Its plug is pulled: no FIN tells of it.  One that still lives ends its run by itself."""
    secret = secret_file(tmp_path)
    with (
        bridged("ab") as net,
        agent(secret, net.there["a"], net.namespaces["a"]) as a,
        agent(secret, net.there["b"], net.namespaces["b"]) as b,
    ):

        def strike() -> None:
            net.unplug("a")
            if how == "killed":
                a.kill()

        tables = scenario_of(net.here, secret, a.at, b.at)
        outcome = lived(tmp_path, tables, b, strike)
        check_survived(outcome)
        events = outcome.record.events
        (fenced,) = [each["detail"] for each in events if each["what"] == "fenced"]
        assert fenced.startswith("by b; only shut out of the network: colosim agent at")
        until(lambda: a.processes() == [], "the end of what was cut off")
        if how == "cut off":
            assert a.process.poll() is None, "the agent itself goes on"


@needs_qemu
def test_only_the_primary_is_elsewhere(tmp_path):
    """Ways to this machine and to another in one run; a kill that the runner does."""
    secret = secret_file(tmp_path)
    with agent(secret) as a:
        port, _ = free_ports(2)
        hosts = scenario_of("127.0.0.1", secret, a.at, None)["hosts"]
        tables = {
            **TWO_HOSTS,
            "hosts": {**hosts, "port": port},
            "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "3 s"}],
        }

        async def story(going: Going) -> None:
            await going.run.until_promoted(WAIT_LIMIT_S)
            await going.served()

        check_served(ran(tmp_path, story=story, **tables))
        assert committed_generation(tmp_path) == 0, "traces were removed, saves stay"
        assert "colosim: ready" in (tmp_path / "a.console.log").read_text()
        received = sorted((a.directory / "received").iterdir())
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in received] == [
            path.name for path in received
        ]
        assert len(received) == 2, "kernel and initramfs, once each"


@needs_qemu
def test_a_survivor_is_protected_again_on_the_other_machine(tmp_path):
    """Three hosts on two machines: the third where the first was, and it takes over too."""
    secret = secret_file(tmp_path)
    with agent(secret) as a, agent(secret) as b:
        tables = {
            **scenario_of("127.0.0.1", secret, a.at, b.at),
            "manager": {**SCENARIO["manager"], "reprotect": True},
        }

        async def story(going: Going) -> None:
            await loses()(going)
            await going.until(lambda: [*a.directory.glob("colosim-*/c.ram")], "the third host")
            assert not [*a.directory.glob("colosim-*/a.ram")], "the dead host's memory is free"
            await going.happened("protected")
            await going.told(t.Committed, 5, "primary.2")
            await loses()(going)

        outcome = ran(tmp_path, story=story, **tables)
    alone = [line.node for line in outcome.lines if isinstance(line.body, t.Alone)]
    assert alone == ["secondary", "secondary.2"]
    check_served(outcome)


# --------------------------------------------------------------------------------------------
# The agent as a user meets it


def one_line(command: list[str], **options: Any) -> str:
    """What a command says that cannot do what it should: one line, status 2, no result."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False, **options
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("colosim: booting")]
    assert len(said) == 1, said
    assert said[0].startswith("colosim: ")
    return said[0].removeprefix("colosim: ")


def written(tmp_path: Path, tables: dict[str, Any]) -> Path:
    """A scenario file: ground.toml with these tables."""
    text = (ROOT / "experiments" / "live" / "ground.toml").read_text()
    for name, table in tables.items():
        text += f"\n[{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in table.items())
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("nowhere", "nowhere: no address and port; 10.0.0.2:7070 or [fd00::2]:7070 would be right"),
        ("127.0.0.1:70700", "127.0.0.1:70700: no address and port; 10.0.0.2:7070 or"),
        ("203.0.113.7:7070", "203.0.113.7:7070: cannot listen here: Cannot assign"),
        ("no.such.invalid:7070", "no.such.invalid:7070: cannot listen here: "),
    ],
)
def test_an_agent_that_cannot_listen(tmp_path, listen, says):
    command = colosim("agent", "--listen", listen, "--secret-file", secret_file(tmp_path))
    assert one_line(command).startswith(says)


def test_an_agent_whose_port_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        command = colosim("agent", "--listen", at, "--secret-file", secret_file(tmp_path))
        assert one_line(command) == (
            f"{at}: cannot listen here: Address already in use; "
            "give an address of this machine and a free port"
        )


def test_a_secret_that_is_none(tmp_path):
    def said(path: Path) -> str:
        return one_line(colosim("agent", "--listen", "127.0.0.1:0", "--secret-file", path))

    assert "no secret can be read: No such file" in said(tmp_path / "none")
    assert "a secret of 5 bytes; 16 to 4096 bytes would be right" in said(
        secret_file(tmp_path, "short")
    )
    path = secret_file(tmp_path)
    path.chmod(0o640)
    assert f"others can read this secret; chmod 600 {path}" in said(path)


def test_a_directory_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.touch()
    base = colosim("agent", "--listen", "127.0.0.1:0", "--secret-file", secret_file(tmp_path))
    assert "cannot be written: Not a directory" in one_line([*base, "--directory", str(file / "x")])
    far = tmp_path / ("x" * 100)
    assert "a socket's path has at most 107 bytes" in one_line([*base, "--directory", str(far)])


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ({"primary": "10.0.0.2"}, "hosts.primary: '10.0.0.2': no address and port; 10.0.0.2:7070"),
        (
            {"primary": "10.0.0.2:7070", "secret_file": "s"},
            "hosts.listen: hosts of other machines connect to it; give the address of this machine",
        ),
        (
            {"secondary": "10.0.0.2:7070", "listen": "10.0.0.1"},
            "hosts.secret_file: missing; give the file with the secret",
        ),
        (
            {"primary": "10.0.0.2:7070", "listen": "10.0.0.1", "secret_file": "/no/such/secret"},
            "/no/such/secret: no secret can be read: No such file or directory",
        ),
    ],
)
def test_hosts_that_cannot_be_used(tmp_path, hosts, says):
    assert says in one_line(colosim("live", written(tmp_path, {"hosts": hosts})))


def test_a_runner_without_agent_or_with_another_secret(tmp_path):
    ours = secret_file(tmp_path)
    (tmp_path / "theirs").mkdir()
    theirs = secret_file(tmp_path / "theirs", "another secret of some length")
    table = {"listen": "127.0.0.1", "secret_file": ours}
    nobody = {**table, "primary": "127.0.0.1:9"}
    said = one_line(colosim("live", written(tmp_path, {"hosts": nobody})))
    assert said == (
        "tcp:127.0.0.1:9/agent: colosim agent was not there within 5 s: Connection refused"
    )
    with agent(theirs) as a:
        path = written(tmp_path, {"hosts": {**table, "primary": a.at}})
        assert one_line(colosim("live", path)) == (
            f"tcp:{a.at}/agent: colosim agent: the secrets of the two sides are not the same"
        )
        assert a.end() == (
            "colosim: a connection from 127.0.0.1 was refused: "
            "the secrets of the two sides are not the same\n"
        )


def place_at(a: AgentProcess, scratch: Path, told: list[Any]) -> RemotePlace:
    return RemotePlace(a.at, scratch, told.append, lambda place, why: told.append(why))


async def begun(a: AgentProcess, secret: Path, scratch: Path, told: list[Any]) -> RemotePlace:
    place = place_at(a, scratch, told)
    await place.begin("run", read_secret(secret), 1 << 20)
    return place


def within(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, LIMIT_S))


def test_an_agent_serves_one_runner_at_a_time(tmp_path):
    secret = secret_file(tmp_path)

    async def test(a: AgentProcess) -> None:
        told: list[Any] = []
        first = await begun(a, secret, tmp_path, told)
        pid = await first.start_qemu("a", ["sh", "-c", "echo the last words; sleep 600"])
        second = place_at(a, tmp_path, told)
        with pytest.raises(LiveError, match=r"at 127.*: it serves another runner; wait until"):
            await second.begin("run", read_secret(secret), 1 << 20)
        await second.end()
        async with asked(a.at, read_secret(secret)) as third:  # asking is for everybody
            with pytest.raises(LiveError, match="/no/such: not found; install"):
                await third.probe("/no/such")
        log = tmp_path / "a.log"
        while not (log.exists() and log.read_text()):
            await asyncio.sleep(0.02)
        assert await first.fence("a") == ""
        assert not Path(f"/proc/{pid}").exists()
        assert log.read_text() == "the last words\n"
        directory = first.directory
        assert directory.is_dir()
        await first.end()
        assert not directory.exists()
        assert [(each.name, each.status) for each in told] == [("qemu", -9)]
        again = await begun(a, secret, tmp_path, told)
        await again.end()

    with agent(secret) as a:
        within(test(a))


def test_an_agent_without_room_says_so(tmp_path):
    secret = secret_file(tmp_path)

    async def test(a: AgentProcess) -> None:
        place = place_at(a, tmp_path, [])
        with pytest.raises(LiveError, match=r"MiB free, \d+ MiB needed; give the guest less"):
            await place.begin("run", read_secret(secret), 1 << 60)
        await place.end()

    with agent(secret) as a:
        within(test(a))


def test_a_silent_runner_is_given_up(tmp_path):
    secret = secret_file(tmp_path)

    async def test(a: AgentProcess) -> None:
        told: list[Any] = []
        place = await begun(a, secret, tmp_path, told)
        await place.start_qemu("a", ["sleep", "600"])
        for task in place._tasks[1:]:
            task.cancel()  # it says that it is alive no more; its connection stays
        start_s = time.monotonic()
        while place.directory.exists():
            await asyncio.sleep(0.1)
        assert SILENCE_LIMIT_S - 2 < time.monotonic() - start_s < SILENCE_LIMIT_S + 20
        await place.end()

    with agent(secret) as a:
        within(test(a))


@needs_qemu
def test_a_killed_runner_leaves_nothing_anywhere(tmp_path):
    secret = secret_file(tmp_path)
    with agent(secret) as a, agent(secret) as b:
        hosts = {"listen": "127.0.0.1", "secret_file": secret, "primary": a.at, "secondary": b.at}
        runner = subprocess.Popen(
            colosim("live", written(tmp_path, {"hosts": hosts})),
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert runner.stderr is not None
        while "protected" not in (line := runner.stderr.readline()):
            assert line, runner.wait()
        assert len(a.processes()) >= 3, "supervisor, QEMU and node agent"
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        for each in (a, b):
            until(lambda each=each: each.processes() == [], "the end of the run")
            until(lambda each=each: not [*each.directory.glob("colosim-*")], "its directory")
            said = each.end().splitlines()
            assert said[-1] == (
                "colosim: the runner at 127.0.0.1 has gone; nothing of its run is left"
            )


def test_files_are_sent_once_and_checked(tmp_path):
    secret = secret_file(tmp_path)
    ours = tmp_path / "kernel"
    ours.write_bytes(os.urandom(1_000_000))
    digest = hashlib.sha256(ours.read_bytes()).hexdigest()

    async def test(a: AgentProcess) -> None:
        async with asked(a.at, read_secret(secret)) as place:
            there = await place._file(ours)
            assert there.read_bytes() == ours.read_bytes()
        written_ns = there.stat().st_ino
        async with asked(a.at, read_secret(secret)) as place:
            assert await place._file(ours) == there
            assert there.stat().st_ino == written_ns, "it was sent again"
        there.write_bytes(b"damaged")
        async with asked(a.at, read_secret(secret)) as place:
            assert (await place._file(ours)).read_bytes() == ours.read_bytes()
            for wrong in ("../../etc/passwd", digest[:-1]):
                with pytest.raises(LiveError, match="a file is named by its SHA-256"):
                    await place._ask("file", 5, digest=wrong, size=5)
            with pytest.raises(LiveError, match=r"a file of .* bytes; at most"):
                await place._ask("file", 5, digest="0" * 64, size=1 << 60)
            assert await place._ask("file", 5, digest="0" * 64, size=5) is None
            data = base64.b64encode(b"other").decode()
            with pytest.raises(LiveError, match="is not what was announced"):
                await place._ask("piece", 5, digest="0" * 64, data=data)
            with pytest.raises(LiveError, match="that was not announced"):
                await place._ask("piece", 5, digest="0" * 64, data=data)
            assert await place._ask("file", 5, digest="1" * 64, size=5) is None
        until(lambda: [each.name for each in there.parent.iterdir()] == [digest], "no parts left")

    with agent(secret) as a:
        within(test(a))


def test_names_stay_in_the_directory_of_the_run(tmp_path):
    secret = secret_file(tmp_path)

    async def test(a: AgentProcess) -> None:
        place = await begun(a, secret, tmp_path, [])
        for domain in ("../x", "/x", "", "a/b"):
            with pytest.raises(LiveError, match="no name of a run's file"):
                await place.start_qemu(domain, ["true"])
        await place.end()

    with agent(secret) as a:
        within(test(a))


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\2{}", b"\xff" * 100_000])
def test_strangers_are_sent_away(tmp_path, data):
    secret = secret_file(tmp_path)
    with agent(secret) as a:
        with socket.create_connection(endpoint(a.at), 5) as stranger:
            stranger.settimeout(LIMIT_S)
            with contextlib.suppress(OSError):  # it may be sent away before it has said all
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass

        async def test() -> None:
            async with asked(a.at, read_secret(secret)) as place:
                assert await place._ask("clock", 5) > 0

        within(test())


# --------------------------------------------------------------------------------------------
# Doors and addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_doors_open_for_who_has_the_key(host):
    async def test() -> None:
        came: list[str] = []
        refused: list[str] = []
        key, other = derived(b"secret", "a"), derived(b"secret", "b")

        def serve(sock: socket.socket, speaker: str) -> None:
            came.append(speaker)
            sock.close()

        door = await Door.opened(host, 0, {"a": key}, {"hub": serve}, refused.append)

        async def tried(name: str, speaker: str, with_key: bytes) -> None:
            address = TcpAddress(*door.at, name, speaker, with_key)
            (await connected(address, 5, "the hub")).close()

        await tried("hub", "a", key)
        for name, speaker, wrong in (("hub", "a", other), ("hub", "b", key), ("link", "a", key)):
            with pytest.raises(LiveError, match="the hub: the secrets of the two sides are not"):
                await tried(name, speaker, wrong)
        assert came == ["a"]
        assert len(refused) == 3
        door.close()
        with pytest.raises(LiveError, match=r"the hub was not there within 0\.1 s"):
            await connected(TcpAddress(*door.at, "hub", "a", key), 0.1, "the hub")

    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    within(test())


def test_a_host_of_another_machine_speaks_for_itself_only():
    """At the network process: hub, link and control; and not at all when it is fenced."""

    async def test(directory: Path) -> None:
        keys = {host: derived(b"secret", host) for host in "ab"}
        config = NetConfig(
            directory,
            has_gateway=False,
            listen="127.0.0.1",
            keys=tuple((host, key.hex()) for host, key in keys.items()),
        )
        path = directory / "network.json"
        path.write_text(config.to_json())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "backends.qemu.net", str(path)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        runner = await Control.connect(UnixAddress(directory / CONTROL), LIMIT_S)
        host, number = (await runner.ask("stats", 5))["door"]

        def to(name: str) -> TcpAddress:
            return TcpAddress(host, number, name, "a", keys["a"])

        port = Port(directory, "b", lambda frames: None, hub=to(HUB))
        with pytest.raises(LiveError, match="not let in: host a says that it is b"):
            await port.start(LIMIT_S)
        link = await connect(to(LINK), {"host": "b", "channel": "stream"})
        assert await link.reader.read() == b"", "it was let in as another"
        with pytest.raises(LiveError, match="host a says that it is b"):
            await Control.connect(to(CONTROL), LIMIT_S, host="b")
        lost = asyncio.Event()
        control = await Control.connect(to(CONTROL), LIMIT_S, host="a", lost=lost.set)
        port = Port(directory, "a", lambda frames: None, hub=to(HUB))
        await port.start(LIMIT_S)
        link = await connect(to(LINK), {"host": "a", "channel": "stream"})
        await runner.ask("fence", 5, host="a")
        await lost.wait()
        assert await link.reader.read() == b""
        await port.close()
        with pytest.raises(LiveError, match="host a is fenced"):
            await Port(directory, "a", lambda frames: None, hub=to(HUB)).start(LIMIT_S)
        silent = await Control.connect(to(CONTROL), LIMIT_S)
        with pytest.raises(LiveError):
            await silent.ask("own", 5, host="a")
        assert (await runner.ask("stats", 5))["hub"]["owner"] is None
        for each in (runner, control, silent):
            await each.close()
        assert process.stdin is not None
        process.stdin.close()
        _, said = await process.communicate()
        assert process.returncode == 0, said

    with short_directory() as directory:
        within(test(directory))


def test_who_listens_must_have_the_key_too():
    """One who pretends to be the door learns nothing that it could use, and is not believed."""

    async def test() -> None:
        heard = bytearray()

        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonce = b'{"nonce": "00"}'
            writer.write(len(nonce).to_bytes(2, "big") + nonce)
            size = int.from_bytes(await reader.readexactly(2), "big")
            heard.extend(await reader.readexactly(size))
            proof = b'{"proof": "00"}'
            writer.write(len(proof).to_bytes(2, "big") + proof)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        key = b"a key of some length"
        with pytest.raises(LiveError, match="it does not have our secret"):
            await connected(TcpAddress("127.0.0.1", port, AGENT, RUNNER, key), 5, "colosim agent")
        assert key not in heard
        assert key.hex().encode() not in heard
        server.close()

    within(test())


def test_addresses_are_text_and_back():
    unix = UnixAddress(Path("/run/x/hub"))
    assert parse(str(unix), "a", None) == unix
    tcp = TcpAddress("fd00::1", 7070, "hub", "a", b"key")
    assert str(tcp) == "tcp:[fd00::1]:7070/hub"
    assert parse(str(tcp), "a", b"key") == tcp
    assert "key" not in repr(tcp)
    for wrong in ("hub", "unix:", "tcp:10.0.0.1/hub", "tcp:10.0.0.1:70/", "udp:10.0.0.1:70/hub"):
        with pytest.raises(LiveError):
            parse(wrong, "a", b"key")
    with pytest.raises(LiveError):
        parse(str(tcp), "a", None)


# --------------------------------------------------------------------------------------------
# Traces of other machines


def of_a_takeover() -> list[Line]:
    tables = {
        **{key: value for key, value in TWO_HOSTS.items() if key not in ("guest", "client")},
        "duration": "3 s",
        "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "2 s"}],
    }
    lines: list[Line] = []
    run_replication(Scenario.from_mapping(tables), "remus", 1, 0, [lines.append])
    return lines


def traces_of(tmp_path: Path, lines: list[Line]) -> list[Path]:
    """As the hosts of a live run write them."""
    paths = [tmp_path / "a.trace", tmp_path / "b.trace"]
    for path, node in zip(paths, ("primary", "secondary"), strict=True):
        path.write_text("".join(encode_line(ln) + "\n" for ln in lines if ln.node == node))
    return paths


def test_a_trace_whose_end_died_with_its_machine_still_merges(tmp_path):
    lines = of_a_takeover()
    primary = [line for line in lines if line.node == "primary"]
    events = [line.n for line in primary if line.kind == "event"]
    unknown = 0
    for end in events[-40:]:
        a, b = traces_of(tmp_path, [ln for ln in lines if ln.node != "primary" or ln.n < end])
        found = merged([a, b], ["primary"])
        assert len(found) == len(lines) - sum(line.n >= end for line in primary)
        assert replay(found) == []
        assert check(found) == []
        with contextlib.suppress(TraceError):  # for an end that nobody had heard of
            assert merged([a, b]) == found
            continue
        unknown += 1
    assert unknown > 10, "too few cuts where something came of what was lost"


def test_a_record_has_one_clock(tmp_path):
    """Clocks of two machines have nothing in common; a record's times are the runner's."""
    lines = of_a_takeover()
    ahead_ns = {"primary": 10**15, "secondary": -(10**12)}
    shifted = [replace(line, now_ns=line.now_ns + ahead_ns[line.node]) for line in lines]
    expected = recorded(lines, {}, 5)
    found = recorded(shifted, {}, 5, ahead_ns)
    assert found.events == expected.events
    for name, column in expected.table().items():
        assert (found.table()[name] == column).all(), name
