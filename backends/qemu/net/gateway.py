"""The hub's way to the clients, whatever it is: frames in, frames out, and an end.

`Passt` speaks to passt's stream socket, `Tap` is an Ethernet device of this machine's kernel
(or network namespace): clients reach the guest by its own address, through the kernel's TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from backends.qemu.errors import LiveError
from backends.qemu.net.frames import Splitter, pack
from backends.qemu.net.sockets import Stream

DEFAULT_TAP = "colosim%d"  # the kernel takes the first free number
_TUN = Path("/dev/net/tun")
_FRAME_BYTES = 1 << 16
_READS = 64  # frames before others in the loop have their turn
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_IFF_UP = 1
_NAME_BYTES = 15
#: of a frame: IPv4 with a header of five words, TCP, and its flags SYN and ACK (and ECE)
_PLAIN_IPV4, _TCP, _SYN_ACK = b"\x08\x00\x45", 6, (b"\x12", b"\x52")
_MOST_ANSWERED = 4096  # connections


def _nothing(*_: object) -> None:
    pass


class Gateway(Protocol):
    """``received`` gets frames, ``ended`` is called once; both are set by the hub."""

    received: Callable[[list[bytes]], None]
    ended: Callable[[], None]
    dropped: Counter[str]

    @property
    def why(self) -> str:
        """Why it ended."""

    @property
    def is_closed(self) -> bool: ...

    @property
    def backlog_bytes(self) -> int:
        """Written, and not taken yet."""

    def write(self, frames: list[bytes]) -> int:
        """Frames to the clients; their bytes."""

    async def drained(self, limit_s: float) -> bool:
        """Wait until all that was written was taken; whether it was."""

    def close(self) -> None: ...


class Passt:
    """A connection with passt.

    A SYN-ACK that it has is left out: when two come together, passt (of 2023) repeats the client's
    first segment without end, and serves nobody any more.  A guest whose output is held repeats its
    own after a second; released, both come together.  Nothing is lost on the way to passt.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._splitter = Splitter()
        self._answered: dict[bytes, None] = {}  # SYN-ACKs: addresses, ports, numbers
        self.received: Callable[[list[bytes]], None] = _nothing
        self.ended: Callable[[], None] = _nothing
        self.dropped: Counter[str] = Counter()
        stream.received = self._read
        stream.ended = self._end

    def _read(self, data: bytes) -> None:
        self.received(self._splitter.feed(data))

    def _end(self) -> None:
        self.ended()

    @property
    def why(self) -> str:
        return f"passt is lost: {self._stream.fault or 'it closed its socket'}"

    @property
    def is_closed(self) -> bool:
        return self._stream.is_closed

    @property
    def backlog_bytes(self) -> int:
        return self._stream.backlog_bytes

    def write(self, frames: list[bytes]) -> int:
        data = pack([f for f in frames if f[47:48] not in _SYN_ACK or not self._has(f)])
        self._stream.write(data)
        return len(data)

    def _has(self, frame: bytes) -> bool:
        """Whether this SYN-ACK went there before."""
        if frame[12:15] != _PLAIN_IPV4 or frame[23] != _TCP:
            return False
        key = frame[26:46]
        if key in self._answered:
            self.dropped["SYN-ACK that passt has"] += 1
            return True
        self._answered[key] = None
        if len(self._answered) > _MOST_ANSWERED:
            del self._answered[next(iter(self._answered))]
        return False

    async def drained(self, limit_s: float) -> bool:
        return await self._stream.drained(limit_s)

    def close(self) -> None:
        self._stream.close()


class Tap:
    """A TAP device: one that is there already, or one that goes when this process ends.

    One that is made here gets ``address`` and is set up; one that is there is left as it is.
    """

    def __init__(self, name: str, address: str, guest_ip: str) -> None:
        self._descriptor, self.name = _made(name, address, guest_ip)
        self.received: Callable[[list[bytes]], None] = _nothing
        self.ended: Callable[[], None] = _nothing
        self.dropped: Counter[str] = Counter()
        self.is_closed = False
        self.backlog_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    @property
    def why(self) -> str:
        return f"the TAP {self.name} is lost: somebody removed it"

    def _readable(self) -> None:
        frames: list[bytes] = []
        is_lost = False
        while len(frames) < _READS:
            try:
                frame = os.read(self._descriptor, _FRAME_BYTES)
            except BlockingIOError:
                break
            except OSError:
                is_lost = True
                break
            frames.append(frame)
        if frames:
            self.received(frames)
        if is_lost:
            self._loop.remove_reader(self._descriptor)
            self.ended()

    def write(self, frames: list[bytes]) -> int:
        total = 0
        for frame in frames:
            try:
                total += os.write(self._descriptor, frame)
            except OSError as error:  # as a switch whose port is down
                self.dropped[f"TAP: {error.strerror}"] += 1
        return total

    async def drained(self, limit_s: float) -> bool:
        """What was written has gone: the kernel took it at once."""
        return True

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)


def check_tap(name: str, address: str, guest_ip: str) -> None:
    """`LiveError` unless this TAP can be had here and now; nothing is left behind."""
    os.close(_made(name, address, guest_ip)[0])


def _made(name: str, address: str, guest_ip: str) -> tuple[int, str]:
    """An open TAP and its name."""
    raw = name.encode()
    if not 0 < len(raw) <= _NAME_BYTES or "/" in name or any(map(str.isspace, name)):
        raise LiveError(f"TAP {name!r}: no name of a device; 1 to {_NAME_BYTES} letters and digits")
    was_there = _is_there(name)
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LiveError(_why_not(name, error)) from None
    try:
        try:
            request = struct.pack("16sH22x", raw, _IFF_TAP_NO_PI)
            made = fcntl.ioctl(descriptor, _TUNSETIFF, request)
        except OSError as error:
            raise LiveError(_why_not(name, error)) from None
        name = made[:16].rstrip(b"\0").decode()
        if was_there:
            _check_up(name)
        else:
            _set_up(name, address, guest_ip)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, name


_RIGHT = {
    errno.ENOENT: "there is no /dev/net/tun; load the module tun, or use passt",
    errno.ENODEV: "there is no /dev/net/tun; load the module tun, or use passt",
    errno.ENXIO: "there is no /dev/net/tun; load the module tun, or use passt",
    errno.EACCES: "may not be made; be root or have CAP_NET_ADMIN, or use passt",
    errno.EPERM: "may not be made or opened; be root or have CAP_NET_ADMIN, or use passt",
    errno.EBUSY: "another program uses it; end that, or name another",
    errno.EINVAL: "a device of this name is no TAP; name another",
}


def _why_not(name: str, error: OSError) -> str:
    return f"TAP {name}: {_RIGHT.get(error.errno or 0, error.strerror)}"


def _is_there(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _interface(name: str, what: str) -> Iterator[Callable[[int, bytes], bytes]]:
    """ioctl(number, what follows the name) on a network interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            yield lambda number, body: fcntl.ioctl(
                sock, number, struct.pack("16s24s", name.encode(), body)
            )[16:]
        except OSError as error:
            raise LiveError(f"TAP {name}: {what}: {error.strerror}") from None


def _check_up(name: str) -> None:
    with _interface(name, "cannot be looked at") as ask:
        (flags,) = struct.unpack_from("H", ask(_SIOCGIFFLAGS, b""))
    if not flags & _IFF_UP:
        raise LiveError(f"TAP {name}: is down; ip link set {name} up")


def _set_up(name: str, address: str, guest_ip: str) -> None:
    """Address, mask of 24 bits, up; no IPv6, which would talk to the guest by itself."""
    if (other := _way_to(guest_ip)) is not None:
        raise LiveError(
            f"TAP {name}: {guest_ip} is reached by {other} here; run in a network namespace "
            "(ip netns exec), or use passt"
        )
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    with _interface(name, "cannot be set up") as ask:
        for number, ip in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            ask(number, struct.pack("HH", socket.AF_INET, 0) + socket.inet_aton(ip))
        (flags,) = struct.unpack_from("H", ask(_SIOCGIFFLAGS, b""))
        ask(_SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP))


def _way_to(ip: str) -> str | None:
    """The interface that leads there by a route of its own, not by the default route."""
    target = int.from_bytes(socket.inet_aton(ip), "little")
    try:
        rows = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return None
    for row in rows:
        fields = row.split()
        destination, mask = int(fields[1], 16), int(fields[7], 16)
        if mask and target & mask == destination:
            return fields[0]
    return None
