"""The one process that owns every child of a live run, so that none outlives it.

`Supervisor` (in the runner) talks to ``python -m backends.qemu.supervisor`` over a socket pair,
one JSON object a packet.  That process is single-threaded and does nothing but start, signal and
reap: a parent-death signal fires when the *thread* that started a child ends, so the thread that
starts them must be one that lives longest.

* The runner ends, SIGKILL included: the pair's other end closes; every child is killed and reaped
  and the run's directory is removed.
* The supervisor itself is killed: each child gets SIGKILL from the kernel.

A child belongs to a *domain*, what one host's failure takes with it, and is called by a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.qemu.errors import LiveError

_PACKET_BYTES = 1 << 18
_REAP_LIMIT_S = 10.0
_ANSWER_LIMIT_S = 20.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that was reaped; ``status`` is its exit status, or minus the signal."""

    domain: str
    name: str
    status: int


# --------------------------------------------------------------------------------------------
# The runner's end


class Supervisor:
    """Starts and ends processes by the supervising process; use as an async context manager.

    directory is removed when the run ends, whoever ends it.  ended(Ended) is called for every
    child that ends.
    """

    def __init__(self, directory: Path, ended: Callable[[Ended], None]) -> None:
        self._directory = directory
        self._ended = ended
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None

    async def __aenter__(self) -> Supervisor:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(theirs.fileno()), str(self._directory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the runner alone
            )
        ours.setblocking(False)
        self._ours = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._lost("the supervisor was closed")
        try:
            await asyncio.to_thread(self._process.wait, _REAP_LIMIT_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LiveError("the supervisor did not end; its children were killed") from None

    async def spawn(
        self,
        domain: str,
        name: str,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a child whose stdout and stderr go to ``log``; its process id."""
        return int(
            await self._ask(
                do="spawn", domain=domain, name=name, argv=list(argv), log=str(log), env=env
            )
        )

    async def signal(self, domain: str, number: int, name: str | None = None) -> None:
        """Send a signal to a child, or to a whole domain; those that ended are passed over."""
        await self._ask(do="signal", domain=domain, name=name, signal=number)

    async def kill(self, domain: str) -> None:
        """SIGKILL a domain; returns when every process of it was reaped."""
        await self._ask(do="kill", domain=domain)

    async def _ask(self, **request: Any) -> Any:
        if self._ours is None:
            raise LiveError("the supervisor has ended, and all processes of the run with it")
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._ours.send(json.dumps({"id": number, **request}).encode())
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                result = await answer
        except TimeoutError:
            do = request["do"]
            raise LiveError(
                f"{do}: the supervisor did not answer in {_ANSWER_LIMIT_S:g} s"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if "why" in result:
            raise LiveError(result["why"])
        return result["ok"]

    def _readable(self) -> None:
        assert self._ours is not None
        try:
            packet = self._ours.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lost("the supervisor ended, and all processes of the run with it")
            return
        message = json.loads(packet)
        if "ended" in message:
            self._ended(Ended(**message["ended"]))
        elif (answer := self._waiting.get(message["id"])) and not answer.done():
            answer.set_result(message)

    def _lost(self, why: str) -> None:
        if self._ours is not None:
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()
            self._ours = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(LiveError(why))
        self._waiting.clear()


# --------------------------------------------------------------------------------------------
# The supervising process

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Between fork and exec of a child."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Keeper:
    """Children by (domain, name)."""

    def __init__(self, runner: socket.socket) -> None:
        self._runner = runner
        self._children: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Until the runner ends."""
        woken, waker = socket.socketpair()
        woken.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        with selectors.DefaultSelector() as ready:
            ready.register(self._runner, selectors.EVENT_READ)
            ready.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is woken:
                        woken.recv(4096)
                        self.reap()
                    elif not self._request():
                        return

    def _request(self) -> bool:
        try:
            packet = self._runner.recv(_PACKET_BYTES)
        except OSError:
            packet = b""
        if not packet:
            return False
        request = json.loads(packet)
        number, do = request.pop("id"), request.pop("do")
        try:
            answer = {"ok": getattr(self, f"do_{do}")(**request)}
        except OSError as error:
            answer = {"why": f"{request.get('name')}: {error.strerror}: {error.filename}"}
        self._say({"id": number, **answer})
        return True

    def do_spawn(
        self, domain: str, name: str, argv: list[str], log: str, env: dict[str, str] | None
    ) -> int:
        with Path(log).open("ab") as out:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        self._children[domain, name] = child
        return child.pid

    def do_signal(self, domain: str, name: str | None, signal: int) -> None:
        for (where, what), child in self._children.items():
            if where == domain and name in (None, what) and child.poll() is None:
                child.send_signal(signal)

    def do_kill(self, domain: str) -> None:
        self.end([key for key in self._children if key[0] == domain])

    def end(self, keys: list[tuple[str, str]]) -> None:
        """SIGKILL and reap these children, with what they started."""
        for key in keys:
            child = self._children[key]
            for kill in (os.killpg, os.kill):
                try:
                    kill(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        end_s = time.monotonic() + _REAP_LIMIT_S
        for key in keys:
            try:
                self._children[key].wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:  # uninterruptible: it dies when it can
                continue
        self.reap()

    def reap(self) -> None:
        for (domain, name), child in list(self._children.items()):
            status = child.poll()
            if status is not None:
                del self._children[domain, name]
                self._say({"ended": {"domain": domain, "name": name, "status": status}})

    def end_all(self) -> None:
        self.end(list(self._children))

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the runner may be gone: `serve` sees that next
            self._runner.send(json.dumps(message).encode())


def main() -> None:
    """Serve the runner at the other end of file descriptor ``argv[1]``."""
    keeper = _Keeper(socket.socket(fileno=int(sys.argv[1])))
    try:
        keeper.serve()
    finally:
        keeper.end_all()
        shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
