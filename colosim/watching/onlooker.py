"""Watching a live run from a process of its own, so that hosts and clients are not disturbed.

The runner has a loop that grants votes, fences and drives the clients; it must not wait for anybody
who looks. So it starts a child that reads the run's files as they grow (`sources.Tail`) and draws.
What is in no file (faults, processes that ended) goes to the child by a pipe, in rows of JSON; a
row for which there is no room is dropped. The child ends when the pipe does, however the runner
ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_END_LIMIT_S = 5.0
_LONGEST = 300  # of a detail: a row is written whole or not at all


class Onlooker:
    """Looks at one live run at a time.

    front: "terminal" draws on stderr, or writes plain lines to it where it is no terminal. "page"
    calls ``shown`` with HTML, some times a second, from a thread.
    """

    def __init__(self, front: str = "terminal", shown: Callable[[str], None] | None = None) -> None:
        self._front = front
        self._shown = shown
        self._pipe = -1

    @contextmanager
    def looking(self, directory: Path, name: str, duration_ns: int) -> Iterator[None]:
        """Around a run whose files are in ``directory``."""
        arguments = [str(directory), self._front, name, str(duration_ns)]
        command = [sys.executable, "-m", "colosim.watching.child", *arguments]
        is_page = self._front == "page"
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if is_page else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if is_page else None,
        )
        assert child.stdin is not None
        self._pipe = child.stdin.fileno()
        os.set_blocking(self._pipe, False)
        reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        if is_page:
            reader.start()
        try:
            yield
        finally:
            self._pipe = -1
            with suppress(OSError):
                child.stdin.close()
            try:
                child.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout is not None:
                reader.join(_END_LIMIT_S)
                child.stdout.close()

    def told(self, at_ns: int, node: str, what: str, detail: str) -> None:
        """What the world says; at_ns by the runner's clock."""
        row = {"at_ns": at_ns, "node": node, "what": what, "detail": detail[:_LONGEST]}
        self._write(row)

    def say(self, text: str) -> None:
        """What goes on, for a person."""
        self.told(time.monotonic_ns(), "run", "says", text)

    def _write(self, row: dict[str, Any]) -> None:
        if self._pipe >= 0:
            with suppress(OSError):  # no room, or nobody looks any more
                os.write(self._pipe, json.dumps(row).encode() + b"\n")

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if self._shown is not None:
                self._shown(json.loads(line)["html"])
