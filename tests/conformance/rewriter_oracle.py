"""A genuine filter-rewriter between two sockets: QEMU without a machine, a guest or a network card.

Two stream netdevs meet on a hub; the filter sits on the outer one.  All that a test sends into one
socket comes out of the other, in order, so a marker behind the frames says that they are through.
Every wait is limited, and the kernel ends QEMU when the test's process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

LIMIT_S = 60.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_LENGTH = struct.Struct(">I")

#: which QEMU to try, and where its path comes from
VERSIONS = {"installed": "COLOSIM_QEMU", "10": "COLOSIM_QEMU_10", "11": "COLOSIM_QEMU_11"}


def qemu_of(version: str) -> str:
    """The binary; skips the test, with the reason, where there is none."""
    variable = VERSIONS[version]
    default = shutil.which("qemu-system-x86_64") if version == "installed" else None
    path = os.environ.get(variable) or default
    if path is None:
        absent = " and no qemu-system-x86_64 is on the path" if version == "installed" else ""
        pytest.skip(f"{variable} is not set{absent}")
    if not Path(path).exists():
        pytest.skip(f"{variable}={path} does not exist")
    return path


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Qmp:
    """The few commands that are needed, one at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = connected(path)
        self._file = self._socket.makefile("rb")
        assert b"QMP" in self._file.readline()
        self._heard: Counter[str] = Counter()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> object:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while (answer := self._next(command)) is None:
            pass
        assert "return" in answer, answer
        return answer["return"]

    def wait_for(self, event: str, times: int) -> None:
        """Until it was told so often since the beginning."""
        while self._heard[event] < times:
            self._next(event)

    def _next(self, waits_for: str) -> dict[str, object] | None:
        """An answer; None if it was an event, which is counted."""
        line = self._file.readline()
        assert line, f"QEMU ended at {waits_for}"
        said: dict[str, object] = json.loads(line)
        if "event" not in said:
            return said
        self._heard[str(said["event"])] += 1
        return None

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def connected(path: Path) -> socket.socket:
    """A connection to a socket that QEMU is about to make."""
    end_s = time.monotonic() + LIMIT_S
    while True:
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(LIMIT_S)
        try:
            end.connect(str(path))
        except OSError:
            end.close()
            assert time.monotonic() < end_s, f"QEMU does not listen at {path}"
            time.sleep(0.01)
        else:
            return end


class Side:
    """One netdev's socket: frames with their length in front."""

    def __init__(self, path: Path) -> None:
        self._socket = connected(path)
        self._buffer = bytearray()

    def send(self, frames: Sequence[bytes]) -> None:
        self._socket.sendall(b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames))

    def receive(self) -> bytes:
        """The next frame; TimeoutError if there is none."""
        buffer = self._buffer
        while len(buffer) < 4 or len(buffer) < 4 + _LENGTH.unpack_from(buffer)[0]:
            data = self._socket.recv(1 << 16)
            assert data, "QEMU closed the link"
            buffer += data
        size = _LENGTH.unpack_from(buffer)[0]
        frame = bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
        return frame

    def close(self) -> None:
        self._socket.close()


class RewriterOracle:
    """QEMU with one filter-rewriter; a context manager."""

    def __init__(self, qemu: str) -> None:
        self._markers = itertools.count()
        self.directory = Path(tempfile.mkdtemp(prefix="rw-", dir="/dev/shm"))
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = contextlib.ExitStack()
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._start(qemu)
        except BaseException:
            self.close()
            raise

    def _start(self, qemu: str) -> None:
        at = self.directory
        command = [qemu, "-machine", "none", "-nodefaults", "-display", "none", "-no-user-config"]
        command += ["-qmp", f"unix:{at}/qmp,server=on,wait=off"]
        for n in (0, 1):
            command += [
                "-netdev",
                f"stream,id=n{n},server=on,addr.type=unix,addr.path={at}/n{n}",
                "-netdev",
                f"hubport,id=hp{n},hubid=0,netdev=n{n}",
            ]
        command += ["-object", "filter-rewriter,id=rew0,netdev=n0,queue=all"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 -- a test has one thread
            )
        self._closing.callback(self._end)
        self.qmp = Qmp(at / "qmp")
        self._closing.callback(self.qmp.close)
        self.outside = Side(at / "n0")
        self._closing.callback(self.outside.close)
        self.guest = Side(at / "n1")
        self._closing.callback(self.guest.close)
        # QEMU 7.2 is killed by a frame for a socket that it has yet to accept
        self.qmp.wait_for("NETDEV_STREAM_CONNECTED", 2)

    def __enter__(self) -> RewriterOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closing.close()

    @property
    def process(self) -> int:
        """QEMU's process id."""
        assert self._process is not None
        return self._process.pid

    def version(self) -> str:
        answer = self.qmp.ask("query-version")
        assert isinstance(answer, dict)
        number = answer["qemu"]
        return f"{number['major']}.{number['minor']}.{number['micro']}"

    def reset(self) -> None:
        """A filter that knows nothing."""
        self.qmp.ask("object-del", id="rew0")
        self.qmp.ask(
            "object-add", **{"qom-type": "filter-rewriter"}, id="rew0", netdev="n0", queue="all"
        )

    def checkpoint(self) -> None:
        self.qmp.ask("xen-colo-do-checkpoint")

    def to_guest(self, frames: Sequence[bytes]) -> list[bytes]:
        return self._through(self.outside, self.guest, frames)

    def from_guest(self, frames: Sequence[bytes]) -> list[bytes]:
        return self._through(self.guest, self.outside, frames)

    def _through(self, into: Side, out: Side, frames: Sequence[bytes]) -> list[bytes]:
        marker = self._marker()
        into.send([*frames, marker])
        return list(iter(out.receive, marker))

    def _marker(self) -> bytes:
        """No IP, so that no filter looks at it; never the same twice."""
        return bytes(12) + b"\x88\xb5colosim" + struct.pack(">Q", next(self._markers)) + bytes(30)

    def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT_S)
