"""Genuine colo-compare objects without a guest, and a fence behind every step.

QEMU inherits its ends of socket pairs, so there are no files, nothing has to be waited for until
it is connected, and nothing is left when a test is killed: QEMU is killed with it.

A step is over when its fence came out: behind it nothing of the step is on its way any more, and
what QEMU notified can be read.  The fence of the primary's link is a frame that QEMU forwards
unseen.  The secondary's link has nothing like that: a datagram of its own connection goes there
behind the step's frames and then to the primary's link, and comes out when QEMU has both.

This holds as long as QEMU's end of the out link has room, for what finds it full comes out in
reverse order: `ROOM_FRAMES` of 1,500 bytes at a time are always safe.
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
from collections.abc import Sequence
from typing import Any, Self

import pytest

LIMIT_S = 60
_DIES_S = 5
ROOM_FRAMES = 60
FOREVER_MS = 3_600_000  # no scan comes into a test that does not ask for it
_VARIABLES = {"10.0": "COLOSIM_QEMU_10", "11.1": "COLOSIM_QEMU_11"}
RELEASES = ("debian", *_VARIABLES)
_LINKS = ("pri", "sec", "out", "nd")
_DO_CHECKPOINT = b"DO_CHECKPOINT"
_CHECKPOINT = b"COLO_CHECKPOINT"
_ASK = b"COLO_USERSPACE_PROXY_INIT"
_ANSWER = b"COLO_COMPARE_GET_XEN_INIT"
_PR_SET_PDEATHSIG = 1
_SO_SNDBUFFORCE = 32
_OUT_BYTES = 8 << 20
_REST_S = 0.0002

_libc = ctypes.CDLL(None, use_errno=True)

#: What left QEMU in a step, in order, and how often it asked for a checkpoint.
Seen = tuple[list[bytes], int]


class OracleError(Exception):
    """QEMU ended or did not answer."""


def program_of(release: str) -> str:
    """Debian's QEMU, or one that the environment names; skips where there is none."""
    if release == "debian":
        program = shutil.which("qemu-system-x86_64")
        return program or pytest.skip("qemu-system-x86_64 is not installed")
    variable = _VARIABLES[release]
    return os.environ.get(variable) or pytest.skip(f"{variable} names no QEMU")


def _die_with_parent() -> None:
    """Between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


class _Frames:
    """Cuts what comes from a link into frames; ``prefix`` bytes stand behind the length."""

    def __init__(self, link: socket.socket, name: str) -> None:
        self._link = link
        self._name = name
        self._buffer = b""
        self.prefix = 0

    def take(self, flags: int = 0) -> list[bytes]:
        """At least one frame, or with MSG_DONTWAIT those that are there."""
        found: list[bytes] = []
        buffer = self._buffer
        while not found:
            try:
                data = self._link.recv(1 << 20, flags)
            except BlockingIOError:
                if flags:
                    break
                raise OracleError(f"nothing from {self._name} within {LIMIT_S} s") from None
            if not data:
                raise OracleError(f"QEMU closed {self._name}")
            buffer += data
            at = 0
            while len(buffer) - at >= 4:
                end = at + 4 + int.from_bytes(buffer[at : at + 4]) + self.prefix
                if len(buffer) < end:
                    break
                found.append(buffer[at + 4 : end])
                at = end
            buffer = buffer[at:]
        self._buffer = buffer
        return found


class Oracle:
    """One QEMU with one colo-compare; use as a context manager.

    program: of QEMU.  With vnet headers frames are given and returned with the length of their
    header and the header in front, as `QemuComparator` takes them.  restarts: how often QEMU did
    not survive that its object was replaced.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.vnet = False
        self.restarts = 0
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        with contextlib.ExitStack() as stack:
            names = ("qmp", *_LINKS)
            ours: dict[str, socket.socket] = {}
            theirs: dict[str, socket.socket] = {}
            for name in names:
                ours[name], theirs[name] = map(stack.enter_context, socket.socketpair())
                ours[name].setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", LIMIT_S, 0)
                )
                ours[name].setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", LIMIT_S, 0)
                )
            with contextlib.suppress(PermissionError):  # more room, where it is allowed
                theirs["out"].setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _OUT_BYTES)
            self._log = stack.enter_context(tempfile.TemporaryFile())
            line = [self.program, "-machine", "none", "-nodefaults", "-no-user-config"]
            line += ["-display", "none", "-object", "iothread,id=iot"]
            for name in names:
                line += ["-chardev", f"socket,id={name},fd={theirs[name].fileno()}"]
            line += ["-mon", "chardev=qmp,mode=control"]
            process = subprocess.Popen(
                line,
                pass_fds=[each.fileno() for each in theirs.values()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - these tests have one thread
            )
            stack.callback(process.wait, LIMIT_S)
            stack.callback(process.kill)
            self.process = process
            for each in theirs.values():
                each.close()
            self._qmp, self._pri, self._sec, out, nd = ours.values()
            self._out = _Frames(out, "out")
            self._nd_link = nd
            self._nd = _Frames(nd, "nd")
            self._lines = b""
            self._has_object = False
            try:
                version = self._line()["QMP"]["version"]["qemu"]
                self.release = ".".join(str(version[k]) for k in ("major", "minor", "micro"))
                self.qmp("qmp_capabilities")
            except (OracleError, OSError) as error:
                raise OracleError(f"{error}; it said: {self.said()}") from None
            self._stack = stack.pop_all()

    def said(self) -> str:
        """What QEMU has written for people."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    # ---------------------------------------------------------------------------------------
    # The object

    def fresh(self, *, vnet: bool = False, **properties: int) -> None:
        """A comparator that has seen nothing; properties by QEMU's names.

        An object that is deleted while its thread is still in the handler of a link takes QEMU
        with it (seen: SIGSEGV, SIGABRT in free).  A fence can come out before the handler that sent
        it has returned; an answer on the notify link is from a later handler, which is short.
        """
        try:
            if self._has_object:
                self._ask(_ASK)
                time.sleep(_REST_S)
                self.qmp("object-del", id="comp0")
            self._add(vnet, properties)
        except (OracleError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_DIES_S)  # its links end before it does
            if self.process.poll() is None:
                raise
            self._stack.close()
            self._start()
            self.restarts += 1
            self._add(vnet, properties)

    def _add(self, vnet: bool, properties: dict[str, int]) -> None:
        given = {
            "compare_timeout": FOREVER_MS,
            "expired_scan_cycle": FOREVER_MS,
            "max_queue_size": 1024,
            **properties,
        }
        self.qmp(
            "object-add",
            **{"qom-type": "colo-compare", "id": "comp0", "iothread": "iot"},
            primary_in="pri",
            secondary_in="sec",
            outdev="out",
            notify_dev="nd",
            **given,
            vnet_hdr_support=vnet,
        )
        self._has_object = True
        self.vnet = vnet
        self._out.prefix = 4 if vnet else 0

    def set(self, **properties: int) -> None:
        """Change properties of the running object."""
        for name, value in properties.items():
            self.qmp("qom-set", path="/objects/comp0", property=name, value=value)

    def qmp(self, command: str, **arguments: Any) -> Any:
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = self._line()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise OracleError(f"{command}: {answer['error']['desc']}")

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._lines:
            try:
                data = self._qmp.recv(1 << 16)
            except BlockingIOError:
                raise OracleError(f"QMP: nothing within {LIMIT_S} s") from None
            if not data:
                raise OracleError("QEMU ended")
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    # ---------------------------------------------------------------------------------------
    # Steps

    def primary(self, frames: Sequence[bytes]) -> Seen:
        """The primary made frames; what came of it."""
        fence = self._bare(_ARP + next(self._numbers).to_bytes(8) + bytes(20))
        self._pri.sendall(b"".join(map(self._wire, (*frames, fence))))
        seen = self._until(fence)
        seen[0].pop()
        return seen

    def secondary(self, frames: Sequence[bytes], fence: bytes) -> Seen:
        """The secondary made frames; what came of it, the fence last."""
        self._sec.sendall(b"".join(map(self._wire, (*frames, fence))))
        self._pri.sendall(self._wire(fence))
        return self._until(fence)

    def secondary_alone(self, frames: Sequence[bytes]) -> Seen:
        """As `secondary`, without a datagram that would be known to the comparator; slower.

        A question on the notify link finds the frames readable.  Links that are readable together
        are served together, so at the second answer they have been read.
        """
        self._sec.sendall(b"".join(map(self._wire, frames)))
        told = [word for _ in range(2) for word in self._ask(_ASK)]
        released, notified = self.primary([])
        return released, notified + told.count(_DO_CHECKPOINT)

    def burst(self, primary: Sequence[bytes], secondary: Sequence[bytes], count: int) -> int:
        """Both made frames, and ``count`` are to leave; how often QEMU asked for a checkpoint.

        Nothing says which side's frames are seen first; no more than `ROOM_FRAMES` at a time.
        """
        self._sec.sendall(b"".join(map(self._wire, secondary)))
        self._pri.sendall(b"".join(map(self._wire, primary)))
        while count > 0:
            count -= len(self._out.take())
        return self._nd.take(socket.MSG_DONTWAIT).count(_DO_CHECKPOINT)

    def fence(self) -> bytes:
        """A datagram for `secondary`; the model of a comparator must be given it twice as well."""
        return self._bare(_UDP + next(self._numbers).to_bytes(8))

    def cut(self) -> Seen:
        """A checkpoint's flush."""
        notified = self._ask(_CHECKPOINT, _ASK).count(_DO_CHECKPOINT)
        released, more = self.primary([])
        return released, notified + more

    def notified(self, within_s: float) -> int:
        """Wait until QEMU asks for a checkpoint; how often it did, 0 if it does not."""
        self._nd_link.settimeout(within_s)
        try:
            return self._nd.take().count(_DO_CHECKPOINT)
        except TimeoutError:
            return 0
        finally:
            self._nd_link.settimeout(None)

    def _ask(self, *questions: bytes) -> list[bytes]:
        """Say something on the notify link, a question last; what came before the answer."""
        self._nd_link.sendall(b"".join(self._wire(self._bare(each)) for each in questions))
        told: list[bytes] = []
        while _ANSWER not in told:
            told += self._nd.take()
        told.remove(_ANSWER)
        return told

    def _until(self, fence: bytes) -> Seen:
        released = self._out.take()
        while released[-1] != fence:
            released += self._out.take()
        return released, self._nd.take(socket.MSG_DONTWAIT).count(_DO_CHECKPOINT)

    def _wire(self, frame: bytes) -> bytes:
        size = len(frame) - 4 if self.vnet else len(frame)
        return struct.pack(">I", size) + frame

    def _bare(self, frame: bytes) -> bytes:
        """Without a vnet header."""
        return bytes(4) + frame if self.vnet else frame


_ARP = bytes.fromhex("ffffffffffff5254000000fe0806")
_UDP = bytes.fromhex(
    "5254000000fd5254000000fe08004500002400000000401100000afffffe0afffffd0f0f0e0e00100000"
)
