"""The user's own command, which runs as long as the run does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from backends.qemu.clients.base import CommandEnd, Protocol
from backends.qemu.clients.wire import Failed

_TERM_LIMIT_S = 0.5
_KILL_LIMIT_S = 0.5
# Its standard input is a pipe that this process alone holds open. When this process ends, however
# it does, the subshell reads the end and kills the group.
_GUARDED = """\
exec 3<&0 </dev/null
{ trap '' TERM INT HUP; read -r _ <&3; kill -KILL 0; } &
exec 3<&-
exec sh -c "$1"
"""


class Command(Protocol):
    """A command of the shell, with COLOSIM_HOST and COLOSIM_PORT in its environment.

    Its exit status and duration are recorded, nothing else.
    """

    ports: ClassVar[Mapping[str, int]] = {}
    once: ClassVar[bool] = True

    async def connect(self) -> None:
        """It connects by itself."""

    async def request(self, client: int, number: int) -> None:
        assert self.options.command is not None
        start_ns = time.monotonic_ns()
        ours, theirs = os.pipe()[::-1]
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    *("sh", "-c", _GUARDED, "sh", self.options.command),
                    stdin=theirs,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env={**os.environ, **self._environment()},
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            stopped = True
            try:
                status = await process.wait()
                stopped = False
            finally:
                status = await _end(process)
                duration_ns = time.monotonic_ns() - start_ns
                self.tally.commands.append(CommandEnd(status, duration_ns, stopped))
        finally:
            os.close(ours)
        if status:
            raise Failed("exit", f"{self.options.command}: ended with status {status}")

    def _environment(self) -> Mapping[str, str]:
        return {"COLOSIM_HOST": self.setting.host, "COLOSIM_PORT": str(self.setting.port)}


async def _end(process: asyncio.subprocess.Process) -> int:
    """End the command and all that it started, the guard too; its exit status."""
    for number, limit_s in ((signal.SIGTERM, _TERM_LIMIT_S), (signal.SIGKILL, _KILL_LIMIT_S)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await process.wait()
    return -signal.SIGKILL if process.returncode is None else process.returncode
