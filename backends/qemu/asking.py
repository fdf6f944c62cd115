"""Asking a program that only has to say something, and may hang or leave children behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.qemu.errors import LiveError
from backends.qemu.launch import Qemu

ASK_LIMIT_S = 15.0  # of a busy machine that has yet to read the program from its disk


@dataclass(frozen=True, slots=True)
class Said:
    """What a program said before its limit; status None if it was killed then."""

    status: int | None
    out: str
    err: str


def ask_program(argv: Sequence[str], limit_s: float, give: str = "") -> Said:
    """Run a program; it and what it started have ended when this returns.

    Raises OSError if it cannot be started.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # no pipe can block us
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
        )
        status: int | None = None
        try:
            process.communicate(give.encode(), timeout=limit_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_group(process)
        out.seek(0)
        err.seek(0)
        return Said(status, text_of(out.read(1 << 22)), text_of(err.read(1 << 16)))


def end_group(process: subprocess.Popen[Any]) -> None:
    """SIGKILL a program and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ASK_LIMIT_S)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def text_of(raw: bytes) -> str:
    """What bytes say, whatever they are."""
    return raw.decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def release(path: str) -> Qemu:
    """The version of a binary, sooner given up than `launch.probe` does; LiveError."""
    found = shutil.which(path)
    if found is None:
        raise LiveError(
            f"{path}: not found; install the Debian package qemu-system-x86, or name another binary"
        )
    try:
        said = ask_program([found, "--version"], ASK_LIMIT_S)
    except OSError as error:
        raise LiveError(f"{found}: cannot be run: {error.strerror}; give a QEMU binary") from None
    if said.status is None:
        raise LiveError(
            f"{found}: did not tell its version in {ASK_LIMIT_S:g} s; give a QEMU binary"
        )
    match = re.match(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)", said.out)
    if match is None:
        raise LiveError(f"{found}: is no QEMU system emulator; give a QEMU binary")
    major, minor, micro = map(int, match.groups())
    return Qemu(found, (major, minor, micro))


async def probe(path: str) -> Qemu:
    """The same without holding up the loop."""
    return await asyncio.to_thread(release, path)
