"""Clients of a live run: what they find wrong in servers that misbehave, and what real ones say."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.qemu.address import free_ports
from backends.qemu.clients import PROTOCOLS, Load, default_port
from backends.qemu.clients.alarm import Alarm
from backends.qemu.errors import LiveError
from backends.qemu.guest import SERVICES, build, cached
from backends.qemu.guest.ground import diverges, stream, work_answer
from backends.sim import run_replication
from colosim.guest import Client
from colosim.model.results import RESPONSE_COLUMNS, RunRecord
from colosim.model.streams import Streams
from colosim.scenario import ClosedService, OpenService, Scenario, validated

LIMIT_S = 60.0
SEED = 7
NS_PER_S = 1_000_000_000
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ALONE = validated(
    ClosedService,
    {
        "kind": "service",
        "load": "closed",
        "clients": 1,
        "think_time": "2 ms",
        "service_time": "100 us",
    },
    "workload",
)
#: each of three connections has a request every 15 ms
OPEN = {
    "kind": "service",
    "load": "open",
    "rate": "200 /s",
    "connections": 3,
    "service_time": "100 us",
}
BUSY = validated(OpenService, OPEN, "workload")


def options(kind: str, **given) -> Client:
    return validated(Client, {"kind": kind, "timeout": "8 s", **given}, "client")


def load_on(port: int, client: Client, workload=ALONE, seed: int = SEED, **given) -> Load:
    start_ns = time.monotonic_ns() + 50_000_000
    return Load(workload, client, Streams(seed, 0), port, start_ns, **given)


Done = Callable[[Load], object]


async def over(load: Load, done: Done) -> Load:
    """The load after ``done`` (or a time limit): it ends at once."""
    load.start()
    end_s = time.monotonic() + LIMIT_S
    while not done(load) and time.monotonic() < end_s:
        await asyncio.sleep(0.02)
    start_s = time.monotonic()
    await load.stop()
    assert time.monotonic() - start_s < 6  # and not the 8 s that an answer may take
    return load


def answers(count: int) -> Done:
    return lambda load: answered(load) >= count


def failures(count: int) -> Done:
    return lambda load: sum(each.count for each in load.tally.failures.values()) >= count


def seconds(duration_s: float) -> Done:
    """From when its clients begin."""
    return lambda load: time.monotonic_ns() - load._start_ns >= duration_s * NS_PER_S


def against(handler: Handler, client: Client, done: Done, workload=ALONE, **given) -> Load:
    """The load against a server of the test's own."""

    async def run() -> Load:
        quiet: set[asyncio.Task[Any]] = set()

        async def handle(reader, writer) -> None:
            task = asyncio.current_task()
            assert task is not None
            quiet.add(task)
            # 3.11's streams complain of a handler that was cancelled
            over_with = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
            with contextlib.suppress(*over_with):
                try:
                    await handler(reader, writer)
                finally:
                    writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            load = await over(load_on(port, client, workload, **given), done)
            for task in quiet:
                task.cancel()
            await asyncio.gather(*quiet, return_exceptions=True)
        return load

    return asyncio.run(asyncio.wait_for(run(), 2 * LIMIT_S))


def rows_of(load: Load) -> list[dict[str, int]]:
    table = load.table()
    return [
        dict(zip(RESPONSE_COLUMNS, map(int, row), strict=True))
        for row in zip(*table.values(), strict=True)
    ]


def answered(load: Load) -> int:
    return int((load.table()["released_ns"] >= 0).sum())


def faultless(load: Load, least: int) -> None:
    assert load.tally.failures == {}
    assert (load.tally.lost, load.tally.wrong, load.tally.doubled) == (0, 0, 0)
    assert answered(load) >= least


async def echo(reader, writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)


def nth(count: int, odd: Callable[[asyncio.StreamWriter, bytes], object], size: int) -> Handler:
    """An echo that does something odd instead of every ``count``-th answer."""
    seen = 0

    async def handle(reader, writer) -> None:
        nonlocal seen
        while True:
            data = await reader.readexactly(size)
            seen += 1
            if seen % count:
                writer.write(data)
            else:
                odd(writer, data)

    return handle


def reset(writer: asyncio.StreamWriter, data: bytes) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


# --------------------------------------------------------------------------------------------
# When requests are sent


def test_an_open_load_is_the_simulator_s():
    scenario = Scenario.from_mapping(
        {
            "name": "same",
            "duration": "500 ms",
            "seed": SEED,
            "workload": OPEN,
            "memory": {"kind": "uniform", "working_set_pages": 1, "touches": "0 /s"},
        }
    )
    simulated = run_replication(scenario, "none", SEED, 0).responses
    load = against(echo, options("echo"), answers(130), BUSY)
    faultless(load, 130)
    live = load.table()
    count = simulated["client"].size
    assert count > 60
    for name in ("client", "request", "arrival_ns"):
        assert (live[name][:count] == simulated[name]).all()
    assert (live["served_ns"] == -1).all()
    taken_ns = (live["released_ns"] - live["arrival_ns"])[live["released_ns"] >= 0]
    assert (taken_ns > 0).all()
    RunRecord("none", SEED, 0, 500_000_000, 0, responses=live)


def test_a_closed_load_thinks_as_the_simulator_s_clients():
    load = against(echo, options("echo"), answers(20))
    faultless(load, 20)
    think = Streams(SEED, 0).exponential("think", 0)
    released_ns = 0
    for row in rows_of(load)[:20]:
        due_ns = released_ns + round(ALONE.think_time_ns * think.at(row["request"]))
        assert due_ns <= row["arrival_ns"] < due_ns + NS_PER_S
        released_ns = row["released_ns"]


def test_what_waits_behind_a_slow_answer_is_late_and_not_left_out():
    async def slow(reader, writer) -> None:
        await asyncio.sleep(0.2)  # a pause of the guest
        await echo(reader, writer)

    load = against(slow, options("echo"), answers(60), BUSY)
    faultless(load, 60)
    taken_ms = [(row["released_ns"] - row["arrival_ns"]) / 1e6 for row in rows_of(load)]
    assert sum(taken > 50 for taken in taken_ms) > 10


def test_requests_that_were_due_and_never_sent_are_recorded():
    async def silent(reader, writer) -> None:
        await reader.read()

    load = against(silent, options("echo"), seconds(0.4), BUSY)
    assert answered(load) == 0
    assert len(rows_of(load)) > 30
    assert load.unsent == len(rows_of(load)) - BUSY.connections
    assert load.tally.lost == 0  # they were still waiting


def test_an_alarm_wakes_in_order_and_soon():
    async def run() -> list[int]:
        alarm = Alarm()
        woken: list[int] = []

        async def wake(at_ms: int) -> None:
            await alarm.until(start_ns + at_ms * 1_000_000)
            assert time.monotonic_ns() >= start_ns + at_ms * 1_000_000
            woken.append(at_ms)

        start_ns = time.monotonic_ns()
        tasks = [asyncio.create_task(wake(at_ms)) for at_ms in (30, 10, 50, 20, 0)]
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        alarm.close()
        return woken

    assert asyncio.run(asyncio.wait_for(run(), 2 * LIMIT_S)) == [0, 10, 20, 30]


# --------------------------------------------------------------------------------------------
# Servers that misbehave


def test_connections_that_are_reset_are_lost_and_made_anew():
    load = against(nth(5, reset, 100), options("echo", size="100 B"), failures(3))
    failure = load.tally.failures["reset"]
    assert load.tally.lost == failure.count >= 3
    assert "reset" in failure.first
    rows = rows_of(load)
    assert [row["request"] for row in rows] == list(range(len(rows)))
    assert {row["request"] % 5 for row in rows[:-1] if row["released_ns"] < 0} == {4}


def test_a_connection_that_ends_while_nothing_is_asked_is_lost_too():
    async def once(reader, writer) -> None:
        writer.write(await reader.readexactly(100))

    load = against(once, options("echo", size="100 B"), failures(3))
    assert load.tally.lost >= 2
    assert set(load.tally.failures) <= {"closed", "reset"}
    assert answered(load) >= 3


def test_an_answer_that_is_late_is_lost():
    async def late(reader, writer) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(0.4)
            writer.write(data)

    load = against(late, options("echo", timeout="100 ms"), failures(4))
    assert load.tally.lost == load.tally.failures["timeout"].count >= 2
    assert load.tally.failures["timeout"].first == "no answer within 0.1 s"
    assert answered(load) == load.tally.wrong == load.tally.doubled == 0


def test_a_wrong_byte_is_found():
    def flip(writer, data: bytes) -> None:
        writer.write(data[:60] + b"?" + data[61:])

    load = against(nth(3, flip, 100), options("echo", size="100 B"), failures(2))
    assert load.tally.wrong == load.tally.failures["wrong"].count >= 2
    assert load.tally.failures["wrong"].first.startswith("echo 0-2: byte 60 of 100 differs: b'?")
    assert load.tally.lost == 0


def test_bytes_that_come_twice_are_found_and_their_request_is_answered():
    load = against(
        nth(3, lambda writer, data: writer.write(data + data), 100),
        options("echo", size="100 B"),
        failures(2),
    )
    assert load.tally.doubled == load.tally.failures["doubled"].count >= 2
    assert load.tally.failures["doubled"].first.startswith("100 bytes more than asked for")
    assert load.tally.lost == load.tally.wrong == 0
    assert answered(load) >= len(rows_of(load)) - 1


def test_a_second_answer_after_the_last_request_is_found():
    async def twice(reader, writer) -> None:
        data = await reader.readexactly(100)
        writer.write(data)
        await asyncio.sleep(0.05)
        writer.write(data)
        await reader.read()

    def gaps(seed: int) -> tuple[float, float]:
        draws = Streams(seed, 0).exponential("arrival")
        return draws.at(0), draws.at(1)

    seed = next(seed for seed in range(1000) if gaps(seed)[1] > 50 * gaps(seed)[0])
    once = BUSY.model_copy(update={"connections": 1, "rate_per_s": 10 * gaps(seed)[0]})

    def has_come(load: Load) -> bool:
        return any(each.trouble() for each in load._protocols)

    load = against(twice, options("echo", size="100 B"), has_come, once, seed=seed)
    assert [row["request"] for row in rows_of(load)] == [0]
    assert answered(load) == 1
    assert load.tally.doubled == 1


def test_nobody_listens_until_somebody_does():
    async def run() -> Load:
        [port] = free_ports()
        load = load_on(port, options("echo"))
        load.start()
        while not load.tally.failures:
            await asyncio.sleep(0.02)
        assert rows_of(load) == []
        async with await asyncio.start_server(echo, "127.0.0.1", port):
            while answered(load) <= 10:
                await asyncio.sleep(0.02)
            await load.stop()
        return load

    load = asyncio.run(asyncio.wait_for(run(), 2 * LIMIT_S))
    assert load.tally.failures["connect"].count >= 1
    assert load.tally.lost == 0


def test_an_error_of_ours_is_not_taken_for_one_of_the_server(monkeypatch):
    async def broken(*_) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(PROTOCOLS["echo"], "request", broken)
    with pytest.raises(KeyError, match="ours"):
        against(echo, options("echo"), seconds(0.2))


# --------------------------------------------------------------------------------------------
# Each protocol: right answers, and wrong ones


class KeyValue:
    """A small store for both protocols: some writes it loses, some it ends the connection at."""

    def __init__(self, lose=lambda writes: False, mute=lambda writes: False) -> None:
        self.data: dict[bytes, bytes] = {}
        self.writes = 0
        self._lose = lose
        self._mute = mute

    def set(self, key: bytes, value: bytes) -> None:
        self.writes += 1
        if not self._lose(self.writes):
            self.data[key] = value

    async def redis(self, reader, writer) -> None:
        while True:
            count = int((await reader.readuntil(b"\r\n"))[1:])
            words = []
            for _ in range(count):
                size = int((await reader.readuntil(b"\r\n"))[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words[0] == b"SET":
                self.set(words[1], words[2])
                if self._mute(self.writes):
                    return
                writer.write(b"+OK\r\n")
            elif (value := self.data.get(words[1])) is None:
                writer.write(b"$-1\r\n")
            else:
                writer.write(b"$%d\r\n%b\r\n" % (len(value), value))

    async def memcached(self, reader, writer) -> None:
        while True:
            words = (await reader.readuntil(b"\r\n")).split()
            if words[0] == b"set":
                value = (await reader.readexactly(int(words[4]) + 2))[:-2]
                self.set(words[1], value)
                writer.write(b"STORED\r\n")
            elif (held := self.data.get(words[1])) is None:
                writer.write(b"END\r\n")
            else:
                writer.write(b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (words[1], len(held), held))


STORES = ("redis", "memcached")


@pytest.mark.parametrize("kind", STORES)
def test_a_store_that_is_right(kind):
    store = KeyValue()
    store.data[b"colosim:0"] = b"of an earlier run"
    load = against(getattr(store, kind), options(kind, keys=10), answers(100), BUSY)
    faultless(load, 50)
    assert len(store.data) == 10
    assert 0.3 < store.writes / answered(load) < 0.7
    assert set(map(len, store.data.values())) <= {1024, 17}


@pytest.mark.parametrize("kind", STORES)
def test_a_write_that_was_acknowledged_and_is_gone_is_found(kind):
    store = KeyValue(lose=lambda writes: writes % 5 == 0)
    load = against(getattr(store, kind), options(kind, keys=2), failures(2))
    assert load.tally.wrong >= 1
    assert "the value of request 0-" in load.tally.failures["wrong"].first
    assert load.tally.lost == 0


def test_a_write_without_an_answer_may_have_happened_or_not():
    store = KeyValue(lose=lambda writes: writes % 6 == 0, mute=lambda writes: writes % 3 == 0)
    load = against(store.redis, options("redis", keys=1, size="50 B"), failures(5))
    assert load.tally.lost >= 2
    assert load.tally.wrong == 0
    assert answered(load) > 10


@pytest.mark.parametrize(
    ("kind", "said", "text"),
    [
        ("redis", b"-LOADING wait\r\n", "redis says LOADING wait"),
        ("redis", b":3\r\n", ": 3"),
        ("redis", b"*2\r\n+a\r\n$-1\r\n", "['a', None]"),
        ("redis", b"HTTP/1.1 200\r\n", "no answer of this protocol"),
        ("redis", b"$x\r\n", "no answer of this protocol"),
        ("memcached", b"SERVER_ERROR out of memory\r\n", "SERVER_ERROR out of memory"),
        ("memcached", b"VALUE a b c\r\n", "VALUE a b c"),
        ("http", b"HTTP/1.1 503 no\r\nContent-Length: 2\r\n\r\nno", "GET /: status 503"),
        ("http", b"+OK\r\n\r\n", "no answer of this protocol"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n", "base 16"),
        ("work", b"error: no such thing\n", "error: no such thing"),
        ("work", b"x" * 5000, "without b'\\n'"),
    ],
)
def test_nonsense_is_wrong(kind, said, text):
    async def nonsense(reader, writer) -> None:
        while await reader.read(65536):
            writer.write(said)

    load = against(nonsense, options(kind), failures(1))
    assert load.tally.wrong >= 1
    assert text in load.tally.failures["wrong"].first
    assert answered(load) == 0


def web(*answers: bytes, closes: bool = False) -> Handler:
    """Gives the answers in turn."""

    async def handle(reader, writer) -> None:
        while True:
            for answer in answers:
                question = await reader.readuntil(b"\r\n\r\n")
                assert question.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:")
                writer.write(answer)
                if closes or b"Connection: close" in question:
                    return

    return handle


BODY = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\n\r\nbody"
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;a=b\r\nbod\r\n1\r\ny\r\n0\r\nT: v\r\n\r\n"
)


@pytest.mark.parametrize(
    ("server", "keep_alive"),
    [
        (web(BODY, CHUNKS), True),
        (web(BODY), False),
        (web(CHUNKS), False),
        (web(b"HTTP/1.0 200 OK\r\n\r\nbody", closes=True), True),
        (web(BODY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), closes=True), True),
    ],
)
def test_http_bodies_of_every_kind(server, keep_alive):
    client = options("http", path="/x", keep_alive=keep_alive)
    load = against(server, client, answers(40), BUSY)
    faultless(load, 30)
    assert load.tally.reopened == 0
    assert load.tally.received_bytes == 4 * answered(load)


def test_a_kept_connection_that_the_server_closes_is_no_failure():
    load = against(web(BODY, closes=True), options("http", path="/x"), answers(15))
    assert load.tally.reopened >= 10
    assert answered(load) >= 10


def test_a_body_that_ends_early_is_lost_and_a_longer_one_doubled():
    short = against(web(BODY[:-1], closes=True), options("http", path="/x"), failures(1))
    assert short.tally.lost >= 1
    assert answered(short) == 0
    long = against(web(BODY + b"y"), options("http", path="/x"), failures(1))
    assert long.tally.doubled >= 1


def work(odd: Callable[[str, str], str] = lambda name, answer: answer) -> Handler:
    async def handle(reader, writer) -> None:
        while line := await reader.readline():
            given = dict(word.split(b"=") for word in line.split()[1:])
            name = given[b"id"].decode()
            writer.write(odd(name, work_answer(name, int(given[b"bytes"]))).encode() + b"\n")

    return handle


def test_work_is_the_simulated_demand_and_its_answer_is_known():
    asked: list[bytes] = []

    async def heard(reader, writer) -> None:
        while line := await reader.readline():
            asked.append(line)
            writer.write(work_answer(line.split(b"id=")[1].strip().decode(), 1024).encode() + b"\n")

    load = against(heard, options("work"), answers(20))
    faultless(load, 20)
    draw = Streams(SEED, 0).exponential("service", 0).at(3)
    assert asked[3] == b"work us=%d bytes=1024 id=0-3\n" % round(100 * draw)


def test_only_the_end_of_a_diverging_answer_may_differ():
    def tail(name: str, answer: str) -> str:
        return answer[:-16] + "#" * 16 if diverges(name, 0.5) else answer

    def middle(name: str, answer: str) -> str:
        return answer[:-17] + "#" * 17 if diverges(name, 0.5) else answer

    client = options("work", size="100 B")
    faultless(against(work(tail), client, answers(20), diverge=0.5), 20)
    assert against(work(tail), client, failures(1)).tally.wrong >= 1
    assert against(work(middle), client, failures(1), diverge=0.5).tally.wrong >= 1


def downloads(odd: Callable[[bytes], bytes] = lambda data: data) -> Handler:
    async def handle(reader, writer) -> None:
        while line := await reader.readline():
            writer.write(odd(stream(int(line.split()[1]))))
            await writer.drain()

    return handle


def test_downloads_are_hashed_and_timed():
    load = against(downloads(), options("download", size="3 MB"), answers(2))
    faultless(load, 2)
    assert load.tally.received_bytes >= 3_000_000 * answered(load)
    assert len(load.tally.samples["download_mbit_per_s"]) == answered(load)
    assert min(load.tally.samples["download_mbit_per_s"]) > 1


def test_downloads_that_are_not_whole_right_or_single():
    client = options("download", size="100 kB", timeout="1 s")
    flipped = against(downloads(lambda data: data[:99_999] + b"?"), client, failures(1))
    assert "SHA-256" in flipped.tally.failures["wrong"].first
    assert against(downloads(lambda data: data[:-1]), client, failures(1)).tally.lost >= 1
    assert against(downloads(lambda data: data + data[:1]), client, failures(1)).tally.doubled >= 1


def test_a_slow_download_may_take_longer_than_the_limit():
    async def slow(reader, writer) -> None:
        size = int((await reader.readline()).split()[1])
        for start in range(0, size, size // 8):
            await asyncio.sleep(0.2)
            writer.write(stream(min(size // 8, size - start), start))
        await reader.read()

    client = options("download", size="80 kB", timeout="1 s")
    faultless(against(slow, client, answers(1)), 1)


# --------------------------------------------------------------------------------------------
# The user's own command


def run_command(text: str, done: Done) -> Load:
    async def run() -> Load:
        return await over(load_on(4321, options("command", command=text)), done)

    return asyncio.run(asyncio.wait_for(run(), 2 * LIMIT_S))


def test_a_command_knows_the_port_and_its_end_is_recorded(tmp_path):
    out = tmp_path / "out"
    load = run_command(f"echo $COLOSIM_HOST $COLOSIM_PORT >{out}; sleep 0.1; exit 3", failures(1))
    assert out.read_text() == "127.0.0.1 4321\n"
    (end,) = load.tally.commands
    assert (end.status, end.stopped) == (3, False)
    assert end.duration_ns > NS_PER_S // 10
    assert load.tally.failures["exit"].first.endswith("ended with status 3")
    assert rows_of(load) == []
    assert load.tally.lost == 0


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_a_command_ends_with_the_run_and_all_that_it_started(tmp_path, trap):
    pids = tmp_path / "pids"

    def both_run(load: Load) -> bool:
        return pids.exists() and len(pids.read_text().split()) == 2

    load = run_command(f"{trap} echo $$ >{pids}; sleep 60 & echo $! >>{pids}; wait", both_run)
    (end,) = load.tally.commands
    assert (end.status, end.stopped) == (-signal.SIGKILL if trap else -signal.SIGTERM, True)
    assert load.tally.failures == {}
    for pid in pids.read_text().split():
        until(functools.partial(gone, int(pid)))


def test_a_command_ends_when_its_runner_is_killed(tmp_path):
    pids = tmp_path / "pids"
    program = (
        "import asyncio, sys, time\n"
        "from backends.qemu.clients import Load\n"
        "from colosim.model.streams import Streams\n"
        "from tests.live.test_clients import ALONE, options\n"
        "async def run():\n"
        f"    client = options('command', command='echo $$ >{pids}; sleep 60')\n"
        "    Load(ALONE, client, Streams(1, 0), 1, time.monotonic_ns()).start()\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(run())\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as runner:
        try:
            until(lambda: pids.exists() and pids.read_text())
        finally:
            runner.kill()
    until(lambda: gone(int(pids.read_text())))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "time limit"
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------
# What a person may give


def test_ports_are_those_of_the_guest_s_services():
    assert default_port("http", ("ground", "lighttpd", "httpd")) == SERVICES["lighttpd"].port
    assert default_port("redis") == 6379
    assert [default_port(kind, ("ground",)) for kind in ("echo", "download", "work")] == [
        7,
        5001,
        5000,
    ]
    with pytest.raises(LiveError, match=r"client\.kind: http .* add one to guest\.services"):
        default_port("http", ("ground",))
    with pytest.raises(LiveError, match=r"client\.guest_port: "):
        default_port("command", ("ground",))


@pytest.mark.parametrize(
    ("kind", "size"), [("echo", "0 B"), ("work", "2 MiB"), ("download", "0 B"), ("redis", "1 GiB")]
)
def test_sizes_that_cannot_be_asked_for(kind, size):
    with pytest.raises(LiveError, match=rf"client\.size: {size}: kind {kind} takes .* to "):
        load_on(1, options(kind, size=size))


# --------------------------------------------------------------------------------------------
# Real servers


@contextlib.contextmanager
def serving(*argv: str, cwd: Path) -> Iterator[int]:
    """A server on a free port, which is ``{port}`` in its arguments."""
    [port] = free_ports()
    words = [word.format(port=port) for word in argv]
    with subprocess.Popen(
        words, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            until(lambda: listens(port))
            yield port
        finally:
            server.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def real(port: int, client: Client, done: Done, workload=BUSY) -> Load:
    async def run() -> Load:
        return await over(load_on(port, client, workload), done)

    return asyncio.run(asyncio.wait_for(run(), 2 * LIMIT_S))


@pytest.mark.parametrize("keep_alive", [True, False])
def test_python_s_web_server(tmp_path, keep_alive):
    (tmp_path / "file").write_bytes(stream(20_000))
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
    argv += ["--protocol", "HTTP/1.1", "{port}"]
    with serving(*argv, cwd=tmp_path) as port:
        client = options("http", path="/file", keep_alive=keep_alive)
        load = real(port, client, answers(50))
        faultless(load, 50)
        assert load.tally.received_bytes >= 20_000 * answered(load)
        missing = real(port, options("http", path="/none"), failures(1))
        assert missing.tally.failures["wrong"].first == "GET /none: status 404"


@pytest.mark.parametrize(
    ("kind", "argv"),
    [
        ("redis", ("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "")),
        ("memcached", ("memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", "{port}")),
    ],
)
def test_real_stores(tmp_path, kind, argv):
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    with serving(*argv, cwd=tmp_path) as port:
        faultless(real(port, options(kind, keys=20), answers(80)), 80)


# --------------------------------------------------------------------------------------------
# The real guest, through QEMU's own network

QEMU = "qemu-system-x86_64"
GUEST_SERVICES = ("ground", "redis", "nginx", "lighttpd", "memcached", "httpd")
GUEST_PORTS = {5000, 5001, 7} | {SERVICES[name].port for name in GUEST_SERVICES}
BOOT_LIMIT_S = 250.0
GUEST_CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "echo": ("echo", {"size": "3000 B"}, 7),
    "work": ("work", {}, 5000),
    "download": ("download", {"size": "2 MiB"}, 5001),
    "redis": ("redis", {"keys": 30}, 6379),
    "memcached": ("memcached", {"keys": 30}, 11211),
    "nginx": ("http", {"path": "/16k"}, 80),
    "lighttpd": ("http", {"path": "/1k", "keep_alive": False}, 8080),
    "httpd": ("http", {"path": "/1k"}, 8081),
}


@pytest.fixture(scope="module")
def guest(tmp_path_factory) -> Iterator[dict[int, int]]:
    """A booted guest: its port -> port of this machine."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    try:
        image = cached(GUEST_SERVICES) or build(GUEST_SERVICES, print)
    except LiveError as error:
        pytest.skip(str(error))
    console = tmp_path_factory.mktemp("guest") / "console"
    ports = dict(zip(sorted(GUEST_PORTS), free_ports(len(GUEST_PORTS)), strict=True))
    forwards = [f"hostfwd=tcp:127.0.0.1:{ours}-10.0.0.2:{its}" for its, ours in ports.items()]
    net = "user,id=n0,net=10.0.0.0/24,host=10.0.0.1,restrict=on," + ",".join(forwards)
    argv = (
        *(QEMU, "-nodefaults", "-display", "none", "-no-reboot", "-machine", "pc,accel=tcg"),
        *("-m", "256", "-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", image.command_line(ground="pages=200,rate=100")),
        *("-serial", f"file:{console}", "-serial", "null"),
        *("-netdev", net, "-device", "virtio-net-pci,netdev=n0,romfile="),
    )
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as qemu:
        try:
            end_s = time.monotonic() + BOOT_LIMIT_S
            while "colosim: ready" not in (console.read_text() if console.exists() else ""):
                assert qemu.poll() is None, "QEMU ended"
                assert time.monotonic() < end_s, console.read_text()
                time.sleep(0.1)
            yield ports
        finally:
            qemu.kill()


@pytest.mark.live
@pytest.mark.parametrize("case", GUEST_CASES)
def test_the_guest_s_services(guest, case):
    kind, given, port = GUEST_CASES[case]
    workload = BUSY.model_copy(update={"rate_per_s": 10.0 if kind == "download" else 60.0})
    least = 5 if kind == "download" else 60
    load = real(guest[port], options(kind, **given), answers(least), workload)
    faultless(load, least)
    if kind == "http":
        size = int(given["path"][1:-1]) * 1024
        begun = load.tally.received_bytes - answered(load) * size  # on their way at the end
        assert 0 <= begun < workload.connections * size
    rows = [row for row in rows_of(load) if row["released_ns"] >= 0]
    latency_ms = [(row["released_ns"] - row["arrival_ns"]) / 1e6 for row in rows]
    print(f"{case}: median {np.median(latency_ms):.1f} ms of {answered(load)}")


@pytest.mark.live
def test_many_connections_to_the_guest(guest):
    workload = BUSY.model_copy(update={"connections": 64, "rate_per_s": 150.0})
    faultless(real(guest[7], options("echo"), answers(200), workload), 200)
