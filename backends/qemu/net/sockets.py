"""Stream sockets in the event loop, where reading and writing fail apart.

asyncio's own transports close at the first write error and lose what was still to be read: the
last frames of a QEMU that was killed.  They also cannot say when the other side has read
everything, which a mark must wait for.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import select
import socket
import stat
import termios
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from backends.qemu.address import Address, check_path, connected
from backends.qemu.errors import LiveError
from backends.qemu.net.frames import FrameError

_READ_BYTES = 1 << 18
_BUFFERS_A_WRITE = 64
_SPIN_NS = 200_000
_POLL_S = 0.0005


def _nothing(*_: object) -> None:
    pass


class Stream:
    """One connected socket.

    ``received`` gets what was read, ``ended`` is called once when reading reached its end, and
    ``room`` when some of the backlog was written.  Nothing is written or dropped in part: `write`
    takes all it is given, so whoever writes looks at ``backlog_bytes`` first.
    """

    def __init__(self, sock: socket.socket, speaker: str | None = None) -> None:
        sock.setblocking(False)
        self.speaker = speaker  # who proved to be at the other end; None: it need not
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._queue: deque[memoryview] = deque()
        self._reading = True
        self._is_finishing = False
        self._closes_when_written = False
        self.received: Callable[[bytes], None] = _nothing
        self.ended: Callable[[], None] = _nothing
        self.room: Callable[[], None] = _nothing
        self._has_moved = asyncio.Event()  # some of the backlog was written, or never will be
        self.backlog_bytes = 0
        self.has_ended = False
        self.is_closed = False
        self.is_broken = False  # nobody reads what is written
        self.fault: str | None = None
        self._loop.add_reader(sock, self._readable)

    # -- reading

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._reading and not self.has_ended and not self.is_closed:
            self._loop.remove_reader(self._sock)
        self._reading = False

    def resume(self) -> None:
        if not self._reading and not self.has_ended and not self.is_closed:
            self._loop.add_reader(self._sock, self._readable)
        self._reading = True

    def read_now(self) -> int:
        """Read until the socket is empty, within bounds; how many bytes there were."""
        total = 0
        for _ in range(64):
            size = self._readable()
            if not size:
                break
            total += size
        return total

    def _readable(self) -> int:
        if self.is_closed or self.has_ended:
            return 0
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            data = b""
        if data:
            try:
                self.received(data)
            except FrameError as error:
                self.fault = str(error)
            else:
                return len(data)
        self._end()
        return 0

    def _end(self) -> None:
        if not self.is_closed and not self.has_ended:
            if self._reading:
                self._loop.remove_reader(self._sock)
            self.has_ended = True
            self.ended()

    def is_gone(self) -> bool:
        """The other side has closed, not just finished writing."""
        if self.is_closed or self.is_broken:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    # -- writing

    def write(self, *parts: bytes | memoryview) -> None:
        """Write now what the socket takes, the rest when it can be written.

        Nothing is copied: what a view shows must stay until it is written.
        """
        if self.is_closed or self.is_broken or self._closes_when_written:
            return
        waits = bool(self._queue)
        for part in parts:
            if part:
                self._queue.append(memoryview(part))
                self.backlog_bytes += len(part)
        if waits or not self._queue:
            return
        while self._queue and self._send():
            pass
        if self._queue:
            self._loop.add_writer(self._sock, self._writable)

    def _send(self) -> bool:
        """Whether the socket took all that it was given, and may take more."""
        some = list(islice(self._queue, _BUFFERS_A_WRITE))
        try:
            size = self._sock.sendmsg(some)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._break()
            return False
        self.backlog_bytes -= size
        took_all = size == sum(map(len, some))
        while size:
            head = self._queue[0]
            if len(head) > size:
                self._queue[0] = head[size:]
                break
            size -= len(head)
            self._queue.popleft()
        return took_all

    def _writable(self) -> None:
        self._send()
        if self.is_broken:
            return
        if not self._queue:
            self._loop.remove_writer(self._sock)
            self._written()
        self._has_moved.set()
        self.room()

    async def taken(self, left_bytes: int, limit_s: float | None = None) -> None:
        """Until no more than this is left of what was written.

        `TimeoutError` after the limit, `ConnectionError` where nobody reads what is written.
        """
        if self.backlog_bytes > left_bytes:
            async with asyncio.timeout(limit_s):
                while self.backlog_bytes > left_bytes:
                    self._has_moved.clear()
                    await self._has_moved.wait()
        if self.is_closed or self.is_broken:
            raise ConnectionError("nobody reads what is written")

    def _written(self) -> None:
        if self._closes_when_written:
            self.close()
        elif self._is_finishing and not self.is_closed:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _break(self) -> None:
        """Nobody reads any more; what is there to be read is still read."""
        self._loop.remove_writer(self._sock)
        self._queue.clear()
        self.backlog_bytes = 0
        self.is_broken = True
        self._has_moved.set()
        if self._closes_when_written:
            self.close()
        self.room()

    def finish(self) -> None:
        """End the output after everything that was written before."""
        self._is_finishing = True
        if not self._queue:
            self._written()

    def close_when_written(self) -> None:
        """Close after everything that was written before."""
        self._closes_when_written = True
        if not self._queue:
            self.close()

    def unread_bytes(self) -> int:
        """What was written and the other side has not read yet, by the kernel's measure."""
        if self.is_closed or self.is_broken:
            return 0
        size = array.array("i", [0])
        fcntl.ioctl(self._sock, termios.TIOCOUTQ, size)  # SIOCOUTQ has the same number
        return self.backlog_bytes + size[0]

    async def drained(self, limit_s: float) -> bool:
        """Wait until the other side has read everything; whether it did.

        The kernel tells nobody when that happens.  It is a matter of microseconds, so look often
        at first.
        """
        start_ns = time.monotonic_ns()
        while self.unread_bytes():
            passed_ns = time.monotonic_ns() - start_ns
            if passed_ns > limit_s * 1e9:
                return False
            await asyncio.sleep(0 if passed_ns < _SPIN_NS else _POLL_S)
        return True

    def close(self) -> None:
        """At once; what was not written is lost."""
        if self.is_closed:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._queue.clear()
        self.backlog_bytes = 0
        self.is_closed = True
        self._has_moved.set()
        self._sock.close()


class Listener:
    """A unix listener; ``accepted(stream)`` for each connection."""

    def __init__(self, path: Path, accepted: Callable[[Stream], None]) -> None:
        self._path = path
        self._accepted = accepted
        self._sock = _bound(path)
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        self._accepted(Stream(sock))

    def close(self) -> None:
        """Listen no more; the socket's file goes too."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._path.unlink(missing_ok=True)


def _bound(path: Path) -> socket.socket:
    check_path(path)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise LiveError(f"{path}: cannot listen here: {error.strerror}") from None
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed process left; one that is listened on is an error."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise LiveError(f"{path}: a file is in the way of this socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise LiveError(f"{path}: {error.strerror or error}") from None
    raise LiveError(f"{path}: another process listens here already")


async def connect(address: Address, limit_s: float, who: str) -> Stream:
    """Connect as soon as the socket is there; ``who`` is named if it is not in time."""
    return Stream(await connected(address, limit_s, who))
