"""The manager's process of a genuine pair: two monitors, two shadow nodes, the guests' output.

``python -m backends.qemu.pair CONFIG`` is started by the runner (`native.py`), belongs to neither
host, and outlives both.  It tells both QEMUs what COLO wants of a manager and watches them; output
of the pair goes through its ports and waits for what the shadow nodes decide.

Which checkpoint output belongs to is known from times alone, for the pair does not wait for us: a
primary stops after it was handed REPLY, so what its port had read before that is covered by the
checkpoint, and what it read later waits for the next one.

Under a policy that compares output, QEMU's own proxy decides what leaves (`proxy.py`).  Then the
ports pass everything on, our nodes hear nothing of output, and clients' frames reach the secondary
by the primary's mirror.  Only what the primary's QEMU has not read is kept for a takeover.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backends.base import Cause
from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.guests import leave_colo
from backends.qemu.launch import Paths
from backends.qemu.net.config import CONTROL
from backends.qemu.net.control import Control
from backends.qemu.net.port import Port
from backends.qemu.proxy import Proxy
from backends.qemu.qmp import Qmp, QmpLost, event_is
from backends.qemu.shadow import PATIENCE_NS, Difference, Shadow, as_shadow
from backends.qemu.stream import Lines, connect
from backends.qemu.tap import PRIMARY, SECONDARY, Seen
from backends.qemu.world import Trace
from colosim.protocol import types as t
from colosim.protocol.codec import encode
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.node import Node
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line, decode_line

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
HOST_OF = {PRIMARY: "a", SECONDARY: "b"}
NODE_OF = {host: node for node, host in HOST_OF.items()}

#: a deadline's Tick waits for what was seen before it and is still under way
_STRAGGLERS_NS = 100 * NS_PER_MS
_PULSE_S = 1.0
_WAITS = 3
_VOTE_LIMIT_S = 60.0
_OPERATION_LIMIT_S = 10.0
_NET_LIMIT_S = 5.0
_LOOK_S = 0.02
_UNLIMITED_BPS = 1 << 40
_RECEIVED = encode(UPSTREAM, Message.RECEIVED)
_PASSED_BY = "frames of the secondary that passed its proxy by"
_WHATS = {"STOP": "stop", "RESUME": "start", "COLO_EXIT": "exit"}


@dataclass(frozen=True, slots=True)
class PairConfig:
    """What the runner tells the process: the nodes' headers by host, and where things are.

    traces, phases, commands: files to write.  proxy_log: the primary's, of `proxy.arguments`.
    delay_ms: QEMU's x-checkpoint-delay.
    """

    directory: str
    nodes: dict[str, str]
    traces: dict[str, str]
    phases: str
    commands: str
    proxy_log: str
    has_net: bool
    has_return_path: bool
    delay_ms: int


class Output:
    """What one guest sends: passed on, or kept until its node says what becomes of it."""

    def __init__(self, host: str) -> None:
        self.port: Port | None = None
        self.passes = False  # before there is a pair, or where its own proxy holds output
        self.passed = 0  # frames
        self.came: Callable[[], None] = lambda: None
        self._stream = f"{host}.frames"
        self._untold: deque[tuple[int, bytes]] = deque()  # when it was read
        self._told: deque[bytes] = deque()
        self._made = 0

    def read(self, frames: list[bytes]) -> None:
        """The port has read these."""
        if self.passes:
            assert self.port is not None
            self.port.send(frames)
            self.passed += len(frames)
        else:
            at_ns = time.monotonic_ns()
            self._untold.extend((at_ns, frame) for frame in frames)
            self.came()

    def made(self, before_ns: int | None) -> tuple[t.Range, str] | None:
        """Take what was read before this time for told: its range and digest."""
        digest, first = hashlib.blake2b(digest_size=8), self._made
        while self._untold and (before_ns is None or self._untold[0][0] < before_ns):
            _, frame = self._untold.popleft()
            digest.update(frame)
            self._told.append(frame)
            self._made += 1
        if self._made == first:
            return None
        return t.Range(self._stream, first, self._made), digest.hexdigest()

    def release(self, ranges: Iterable[t.Range]) -> None:
        """To the clients: one stream, one consumer, in the order it was made."""
        frames = self._take(ranges)
        if self.port is not None:
            self.port.send(frames)

    def drop(self, ranges: Iterable[t.Range]) -> None:
        self._take(ranges)

    def _take(self, ranges: Iterable[t.Range]) -> list[bytes]:
        return [self._told.popleft() for each in ranges for _ in range(each.first, each.end)]

    def lose(self) -> None:
        """Its host has failed, with all that was held there."""
        self._untold.clear()
        self._told.clear()


class Pair:
    """Both hosts of a genuine pair, as their manager."""

    def __init__(self, config: PairConfig) -> None:
        self._config = config
        self._directory = Path(config.directory)
        self._paths = {host: Paths(self._directory, host) for host in NODE_OF}
        self._qmps: dict[str, Qmp] = {}
        self._output = {host: Output(host) for host in NODE_OF}
        self._network: Control | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._protected = asyncio.Event()
        self._trouble: str | None = None
        self._promoted: str | None = None
        self._before_promotion = 0
        self._is_closing = False
        self._tap: asyncio.StreamWriter | None = None
        self._tapped = asyncio.Event()
        self._mark = 0  # the last that both ends of the network have passed
        self._marked: dict[int, int] = {}  # when
        self._traces = {}
        for host, path in config.traces.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._traces[NODE_OF[host]] = Trace(partial(os.write, os.open(path, flags, 0o600)))
        nodes = [decode_line(config.nodes[host]).body for host in NODE_OF]
        self._proxy: Proxy | None = None
        if config.has_net and POLICIES[nodes[0].policy].output is t.Output.WITNESS:
            self._proxy = Proxy(self._directory, nodes[0], Path(config.proxy_log))
        self._shadow = Shadow(
            [Node(as_shadow(node, config.delay_ms * NS_PER_MS)) for node in nodes],
            self,
            [self._write],
            self._differed,
            None if self._proxy is None else self._proxy.why_asked,
        )

    # -- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the runner ends."""
        runner = await connect(UnixAddress(self._directory / "runner"), {"host": "pair"})
        self._lines = Lines(runner, self._perform)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._defect(context))
        serving = asyncio.create_task(self._lines.serve())
        server = await asyncio.start_unix_server(
            self._tap_connected, str(self._directory / "report"), limit=1 << 20
        )
        try:
            await self._join_network()
            self._lines.tell("up")
        except LiveError as error:
            self._lines.tell("trouble", why=str(error))
        await serving
        server.close()
        await self._close()

    async def _join_network(self) -> None:
        if not self._config.has_net:
            return
        self._network = await Control.connect(UnixAddress(self._directory / CONTROL))
        for host, output in self._output.items():
            keeps = host == HOST_OF[SECONDARY]
            output.port = Port(self._directory, host, output.read, keeps=keeps)
            await output.port.start()
            output.passes = self._proxy is not None or host == HOST_OF[PRIMARY]

    async def _close(self) -> None:
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        for qmp in self._qmps.values():
            await qmp.close()
        for output in self._output.values():
            if output.port is not None:
                await output.port.close()
        if self._network is not None:
            await self._network.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect({"message": "task failed", "exception": error})

    def _defect(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        logging.error("%s", context.get("message"), exc_info=error)
        self._say_trouble(f"defect in the pair's manager: {type(error).__name__}: {error}")

    def _say_trouble(self, why: str) -> None:
        self._trouble = self._trouble or why
        self._protected.set()  # whoever waits for it looks at the trouble first
        self._lines.tell("trouble", why=why)

    # -- what the runner asks ------------------------------------------------------------------

    async def _perform(self, name: str, arguments: dict[str, Any]) -> Any:
        return await getattr(self, f"do_{name}")(**arguments)

    async def do_adopt(self, host: str) -> None:
        """Take the QEMU that was started for this host."""
        node = NODE_OF[host]

        def heard(event: Any) -> None:
            self._heard(node, event)

        def lost(why: str) -> None:
            self._see(Seen(time.monotonic_ns(), node, "gone", why=why))

        qmp = Qmp(f"QEMU of host {host}", heard, lost, partial(self._asked, host))
        await qmp.connect(self._paths[host].qmp)
        self._qmps[host] = qmp

    def _asked(self, host: str, command: str, arguments: Mapping[str, Any] | None) -> None:
        """Write down what a manager has to say; questions are not."""
        if not command.startswith("query-"):
            body = {"execute": command, **({"arguments": arguments} if arguments else {})}
            with Path(self._config.commands).open("a", encoding="utf-8") as file:
                file.write(f"{host}: {json.dumps(body)}\n")

    async def do_prepare(self) -> None:
        """Let both QEMUs know that COLO is wanted; the secondary waits for its first migration."""
        names = ["x-colo", "events", *(["return-path"] if self._config.has_return_path else [])]
        wanted = [{"capability": name, "state": True} for name in names]
        for qmp in self._qmps.values():
            await qmp.execute("migrate-set-capabilities", {"capabilities": wanted})
        a, b = (self._qmps[host] for host in NODE_OF)
        await a.execute(
            "migrate-set-parameters",
            {
                "max-bandwidth": _UNLIMITED_BPS,
                "downtime-limit": 300_000,
                "x-checkpoint-delay": self._config.delay_ms,
            },
        )
        migration = self._paths[HOST_OF[SECONDARY]].migration
        await b.execute("migrate-incoming", {"uri": f"unix:{migration}"})

    async def do_protect(self, within_s: float) -> None:
        """Make the pair; done when its first checkpoint is complete.

        The guest is stopped first, and COLO starts it: under TCG the first migration of a running
        guest loses pages, 23 and 29 of them seen on 11.1.3 with 128 MiB (`Sink` compares).
        """
        a = self._qmps[HOST_OF[PRIMARY]]
        try:
            async with asyncio.timeout(within_s):
                await self._tapped.wait()
                in_colo = a.expect(event_is("MIGRATION", status="colo"))
                failed = a.expect(event_is("MIGRATION", status="failed"))
                completed = a.expect(event_is("MIGRATION", status="completed"))
                await self._stop(a)
                if self._proxy is not None:
                    await self._proxy.join({NODE_OF[host]: qmp for host, qmp in self._qmps.items()})
                await a.execute("migrate", {"uri": f"unix:{self._directory / 'tap'}"})
                waits = [in_colo, failed, completed]
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if in_colo not in done:
                    await self._why_not()
                await self._protected.wait()
        except TimeoutError:
            step = self._shadow.follower(PRIMARY).node.step
            raise LiveError(
                f"no checkpoint was completed within {within_s:g} s; the primary's step is {step}"
            ) from None
        if self._trouble is not None:
            raise LiveError(self._trouble)
        for host, node in NODE_OF.items():
            manager = decode_line(self._config.nodes[host]).body.manager
            self._run(self._watch(node, manager.heartbeat_timeout_ns / NS_PER_S))

    async def _watch(self, node: str, limit_s: float) -> None:
        """A QEMU whose monitor is silent for so long is gone; it may hang.

        One that only waits for its peer to read what it sends, as a redirector of its proxy does,
        still hears what is out of band.  It is given longer: its peer is gone before that.
        """
        qmp = self._qmps[HOST_OF[node]]
        waited = 0
        while not self._is_closing:
            await asyncio.sleep(_PULSE_S)
            try:
                why, deaf = await asyncio.gather(
                    _silence(qmp, "query-status", limit_s),
                    _silence(qmp, "query-yank", limit_s, oob=True),
                )
            except QmpLost:
                return  # which its own callback tells
            waited = waited + 1 if why else 0
            if why and (deaf or waited > _WAITS):
                self._see(Seen(time.monotonic_ns(), node, "silent", why=why))
                return

    async def _stop(self, primary: Qmp) -> None:
        """Stop the guest; what it sent until then leaves, what it sends later is held."""
        await primary.execute("stop")
        output = self._output[HOST_OF[PRIMARY]]
        if output.port is not None:
            await output.port.drain(_NET_LIMIT_S, primary.turns)
        output.passes = self._proxy is not None

    async def _why_not(self) -> None:
        status = await self._qmps[HOST_OF[PRIMARY]].execute("query-migrate")
        why = status.get("error-desc", f"its migration is {status.get('status')}")
        raise LiveError(f"the primary did not enter COLO: {why}")

    async def do_down(self, host: str) -> None:
        """The whole host has failed, its node and what it held included."""
        self._shadow.down(NODE_OF[host])
        self._output[host].lose()

    async def do_finish(self) -> dict[str, Any]:
        """Look no further: what was seen until now must be as our tables want it."""
        end_ns = time.monotonic_ns()
        await asyncio.sleep(3 * _STRAGGLERS_NS / NS_PER_S)
        self._is_closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._shadow.finish(end_ns)
        for trace in self._traces.values():
            trace.flush()
        with Path(self._config.phases).open("w") as rows:
            rows.writelines(json.dumps(row) + "\n" for row in self._shadow.phases.values())
        counts = self._shadow.counts
        if self._proxy is not None:
            self._proxy.finish()
            counts = counts + self._proxy.counts + Counter({_PASSED_BY: self._passed_by()})
        return {"differences": self._shadow.differences, "counts": dict(counts)}

    # -- what is seen --------------------------------------------------------------------------

    async def _tap_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._tap = writer
        await reader.readline()
        self._tapped.set()
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._see(Seen.from_json(line))

    def _heard(self, node: str, event: Any) -> None:
        what = _WHATS.get(event["event"])
        if what is None:
            return
        stamp = event["timestamp"]
        at_ns = stamp["seconds"] * NS_PER_S + stamp["microseconds"] * 1000
        at_ns -= time.time_ns() - time.monotonic_ns()
        data = event.get("data") or {}
        self._see(Seen(at_ns, node, what, why=data.get("reason", "")))

    def _passed_by(self) -> int:
        """Frames of the secondary that came out of it, past its proxy, before it was promoted."""
        if self._promoted is None:
            return self._output[HOST_OF[SECONDARY]].passed
        return self._before_promotion

    def _see(self, seen: Seen) -> None:
        if self._is_closing:
            return
        if self._proxy is not None and seen.data == _RECEIVED:
            self._proxy.flushed(seen.at_ns)
        self._shadow.see(seen)
        self._flush()
        self._work_later()

    def _work_later(self) -> None:
        """What was seen and waits for another channel does not wait for ever."""
        if self._shadow.waits and self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_NS / NS_PER_S / 4, self._work)

    def _work(self) -> None:
        self._patience = None
        if not self._is_closing:
            self._shadow.work(time.monotonic_ns())
            self._flush()
            self._work_later()

    def _write(self, line: Line) -> None:
        self._traces[line.node].see(line)

    def _flush(self) -> None:
        for trace in self._traces.values():
            trace.flush()

    def _differed(self, difference: Difference) -> None:
        self._lines.tell("difference", host=HOST_OF[difference.node], text=str(difference))

    # -- the shadow's hands ----------------------------------------------------------------------

    def made(self, node: str, before_ns: int | None) -> tuple[t.Range, str] | None:
        return self._output[HOST_OF[node]].made(before_ns)

    def wake_at(self, node: str, when_ns: int | None) -> None:
        timer = self._timers.pop(node, None)
        if timer is not None:
            timer.cancel()
        if when_ns is not None and not self._is_closing:
            late_ns = when_ns + _STRAGGLERS_NS - time.monotonic_ns()
            loop = asyncio.get_running_loop()
            self._timers[node] = loop.call_later(max(0, late_ns) / NS_PER_S, self._wake, node)

    def _wake(self, node: str) -> None:
        self._timers.pop(node, None)
        self._shadow.tick(node, time.monotonic_ns() - _STRAGGLERS_NS)
        follower = self._shadow.follower(node)
        if node not in self._timers and not (follower.is_gone or follower.is_down):
            self.wake_at(node, follower.node.deadline_ns())
        self._flush()

    def hear(self, node: str, signal: t.Signal) -> None:
        loop = asyncio.get_running_loop()
        match signal:
            case t.Completed(checkpoint):
                self._protected.set()
                if self._proxy is None:
                    self._run(self._mark_input(checkpoint + 1))
            case t.Protected() if node == PRIMARY:
                self._run(self._mark_input(1))
                if self._proxy is not None:
                    self._run(self._forget_mirrored(1))
            case t.Loaded(checkpoint) if self._proxy is None:
                self._forget(checkpoint)
            case t.Exit(why):
                self._lines.tell("report", host=HOST_OF[node], text=f"left COLO: {why}")
                if not self._protected.is_set():
                    self._say_trouble(f"no checkpoint was completed: {why}")
            case t.Alone():  # not from within the feed that says so
                loop.call_soon(self._tell_output, node)
            case _:
                pass

    def _tell_output(self, node: str) -> None:
        """A guest that goes on alone: what it sends is told at once, and leaves."""

        def tell() -> None:
            made = output.made(None)
            if made is not None:
                self._tell(node, t.GuestOutput(*made))

        output = self._output[HOST_OF[node]]
        output.came = tell
        tell()

    def _tell(self, node: str, event: t.Event, cause: Cause | None = None) -> None:
        if not self._is_closing:
            self._shadow.work(time.monotonic_ns())
            self._shadow.tell(node, event, cause)
            self._flush()

    def perform(self, node: str, action: t.Action, cause: Cause) -> None:
        host = HOST_OF[node]
        output = self._output[host]
        match action:
            case t.Release(ranges):
                output.release(ranges)
            case t.Drop(ranges):
                output.drop(ranges)
            case t.AskVote(op):
                self._run(self._ask_vote(node, op, cause))
            case t.Fence(op):
                self._run(self._fence(node, op, cause))
            case t.Promote():
                self._before_promotion = self._passed_by()
                self._promoted = host
                self._lines.tell("promoted", host=host)
                self._run(self._turn_input(host))
            case t.Report(text):
                self._lines.tell("report", host=host, text=text)
            case t.CloseLink():
                if self._tap is not None and not self._tap.is_closing():
                    self._tap.write(b"\n")  # the tap closes the stream on both sides
            case _:
                raise t.ProtocolError(f"{action} is not the pair's to do")

    def take_over(self, node: str, op: int, cause: Cause) -> None:
        qmp = self._qmps[HOST_OF[node]]

        async def alone() -> None:
            leave = partial(leave_colo, qmp, _OPERATION_LIMIT_S)
            if self._proxy is None:
                await leave()
            else:
                await self._proxy.leave(node, qmp, leave)

        self._run(self._operate(node, op, cause, alone))

    async def _operate(
        self, node: str, op: int, cause: Cause, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        try:
            await work()
        except LiveError as error:
            self._tell(node, t.Failed(op, str(error)), cause)
        else:
            self._tell(node, t.Done(op), cause)

    async def _ask_vote(self, node: str, op: int, cause: Cause) -> None:
        try:
            granted = await self._lines.ask("vote", _VOTE_LIMIT_S, host=HOST_OF[node])
        except LiveError as error:
            self._say_trouble(f"vote: {error}")
        else:
            self._tell(node, t.VoteSeen(op, bool(granted)), cause)

    async def _fence(self, node: str, op: int, cause: Cause) -> None:
        other = HOST_OF[SECONDARY if node == PRIMARY else PRIMARY]

        async def fence() -> None:
            await self._lines.ask("fence", _VOTE_LIMIT_S, host=other, by=HOST_OF[node])

        await self._operate(node, op, cause, fence)

    # -- client input --------------------------------------------------------------------------

    async def _turn_input(self, host: str) -> None:
        port = self._output[host].port
        if self._network is None or port is None:
            return
        try:
            await self._network.ask("own", _NET_LIMIT_S, host=host)
            port.deliver()
            await self._network.ask("resume", _NET_LIMIT_S)
        except LiveError as error:
            self._say_trouble(f"network: {error}")

    async def _mark_input(self, mark: int) -> None:
        """Mark, in what clients send, a place that the primary has read by now.

        What came before it is in the primary's next state, and need not be kept for the secondary
        once that is loaded.  The hub holds clients' frames for the moment that it takes.
        """
        if self._network is None or self._promoted is not None:
            return
        limit_s = _NET_LIMIT_S
        try:
            await self._network.ask("quiesce", limit_s + 1, mark=mark, limit_s=limit_s)
            self._marked[mark] = time.monotonic_ns()
        except LiveError:
            pass  # a guest that does not read: then more is kept
        with suppress(LiveError):
            await self._network.ask("resume", limit_s)

    def _forget(self, checkpoint: int) -> None:
        """Drop what is kept for the secondary and is in the state that it has loaded."""
        port = self._output[HOST_OF[SECONDARY]].port
        at_ns = self._marked.pop(checkpoint, None)
        begun_ns = self._shadow.phases.get(checkpoint, {}).get("request_ns")
        if port is not None and at_ns is not None and begun_ns is not None and at_ns < begun_ns:
            port.forget(checkpoint)

    async def _forget_mirrored(self, mark: int) -> None:
        """Now and then drop what is kept for the secondary and the primary's mirror has sent it.

        Its QEMU mirrors a frame when it reads it.  Both ports count frames from the mark on.
        """
        primary, secondary = (self._output[host].port for host in NODE_OF)
        assert primary is not None
        assert secondary is not None
        while self._promoted is None and not self._is_closing:
            await asyncio.sleep(_LOOK_S)
            read = primary.read_since(mark)
            if read is not None and self._promoted is None:
                secondary.forget(mark, read)


async def _silence(qmp: Qmp, command: str, limit_s: float, oob: bool = False) -> str:
    """How a QEMU does not answer; nothing if it does."""
    try:
        await qmp.execute(command, limit_s=limit_s, oob=oob)
    except QmpLost:
        raise
    except LiveError as error:
        return str(error)
    return ""


def main() -> None:
    """Manage the pair that the file ``argv[1]`` describes."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    raw = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(Pair(PairConfig(**raw)).run())


if __name__ == "__main__":
    main()
