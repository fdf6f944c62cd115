"""One Linux TCP of its own: a process in a new network namespace behind a TAP device.

``python -m tests.live.tcp_host guest|client FD [jobs...]`` makes the namespace and the TAP, sends
the TAP's descriptor through socket FD, and then serves, or does jobs and says on stdout what
became of them.  The namespace ends with the process, and that with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLIENT, GUEST = "10.9.0.1", "10.9.0.2"
MACS = {CLIENT: "02:00:00:00:00:01", GUEST: "02:00:00:00:00:02"}  # both guests have the same
PORT = 80
LIMIT_S = 150.0
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TAP_NO_PI = 0x400454CA, 0x1002
_PR_SET_PDEATHSIG = 1
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing resets
BIG = 2 << 20


def content(size: int) -> bytes:
    """The same for everybody, and nowhere periodic."""
    blocks = (hashlib.sha256(b"%d" % n).digest() for n in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def join(address: str) -> int:
    """Into a namespace with a TAP; its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"t0", _TAP_NO_PI))
    with contextlib.suppress(FileNotFoundError):  # a kernel without it needs no telling
        Path("/proc/sys/net/ipv6/conf/t0/disable_ipv6").write_text("1")
    for command in (
        "ip link set lo up",
        f"ip link set t0 address {MACS[address]}",
        f"ip addr add {address}/24 dev t0",
        "ip link set t0 up",
    ):
        subprocess.run(command.split(), check=True)
    return tap


# -- a guest


def serve() -> None:
    data = content(BIG)
    with socket.create_server((GUEST, PORT), backlog=64) as door:
        print("listens", flush=True)
        while True:
            line, _ = door.accept()
            threading.Thread(target=_answer, args=(line, data), daemon=True).start()


def _answer(line: socket.socket, data: bytes) -> None:
    with line, line.makefile("rb") as asked:
        for request in asked:
            what, number = request.split()
            size = int(number)
            if what == b"get":
                line.sendall(data[:size])
            elif what == b"put":
                line.sendall(hashlib.sha256(asked.read(size)).hexdigest().encode() + b"\n")
            elif what == b"call":
                _call(size, data)
            elif what == b"reset":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                return
            elif what == b"close":
                return


def _call(port: int, data: bytes) -> None:
    """A connection opened by the guest, with the same port by both."""
    with socket.create_connection((CLIENT, port), LIMIT_S, (GUEST, port)) as line:
        line.sendall(b"hello\n")
        assert line.recv(3) == b"go\n"
        line.sendall(data[:200_000])


# -- the client


def _get(size: int, then: Callable[[socket.socket], None]) -> None:
    with socket.create_connection((GUEST, PORT), LIMIT_S) as line:
        line.sendall(b"get %d\n" % size)
        with line.makefile("rb") as answer:
            assert answer.read(size) == content(size)
        then(line)


def _nothing(line: socket.socket) -> None:
    pass


def _guest_closes(line: socket.socket) -> None:
    line.sendall(b"close 0\n")
    assert line.recv(1) == b""


def _guest_resets(line: socket.socket) -> None:
    line.sendall(b"reset 0\n")
    try:
        assert line.recv(1) == b"", "no reset"
    except ConnectionResetError:
        return
    raise AssertionError("closed, not reset")


def _reset(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _half_close(line: socket.socket) -> None:
    line.shutdown(socket.SHUT_WR)
    assert line.recv(1) == b""


def _put() -> None:
    data = content(300_000)
    with socket.create_connection((GUEST, PORT), LIMIT_S) as line:
        line.sendall(b"put %d\n" % len(data) + data)
        with line.makefile("rb") as answer:
            assert answer.readline().strip().decode() == hashlib.sha256(data).hexdigest()


def _called() -> None:
    with socket.create_server((CLIENT, 0)) as door:
        door.settimeout(LIMIT_S)
        with socket.create_connection((GUEST, PORT), LIMIT_S) as asking:
            asking.sendall(b"call %d\n" % door.getsockname()[1])
            line, _ = door.accept()
            line.settimeout(LIMIT_S)
            with line, line.makefile("rb") as said:
                assert said.readline() == b"hello\n"
                line.sendall(b"go\n")
                assert said.read() == content(200_000)


JOBS: dict[str, Callable[[], None]] = {
    "client closes": lambda: _get(20_000, _nothing),
    "guest closes": lambda: _get(20_000, _guest_closes),
    "half close": lambda: _get(20_000, _half_close),
    "client resets": lambda: _get(20_000, _reset),
    "guest resets": lambda: _get(20_000, _guest_resets),
    "upload": _put,
    "guest calls": _called,
    "download": lambda: _get(BIG, _nothing),
}


def work(names: list[str]) -> None:
    """Four at a time."""
    with ThreadPoolExecutor(4) as pool:
        for name, job in [(name, pool.submit(JOBS[name])) for name in names]:
            error = job.exception()
            print(f"{name}: {'done' if error is None else repr(error)}", flush=True)


def main() -> None:
    role, number, *jobs = sys.argv[1:]
    tap = join(CLIENT if role == "client" else GUEST)
    with socket.socket(fileno=int(number)) as parent:
        socket.send_fds(parent, [b"tap"], [tap])
        if role == "client":
            parent.recv(1)  # everybody is there
    if role == "client":
        work(jobs)
    else:
        serve()


if __name__ == "__main__":
    main()
