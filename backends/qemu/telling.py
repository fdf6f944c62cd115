"""What a live run tells, and who waits for it: the same, whoever makes the checkpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.qemu.errors import LiveError
from backends.qemu.scratch import last_words

_LOOK_S = 0.05


@dataclass(slots=True)
class Told:
    """Something that happened, as a row of the run's events."""

    at_ns: int
    node: str
    what: str
    detail: str


class Telling:
    """A run that tells what happens.

    heard: told of each event, at once.  promoted: the host that goes on alone, once there is one.
    """

    def __init__(self) -> None:
        self.events: list[Told] = []
        self.heard: Callable[[Told], object] = lambda told: None
        self.promoted: str | None = None
        self._changed = asyncio.Event()  # replaced each time that it is set

    def _label(self, name: str) -> str:
        """What events call a host."""
        raise NotImplementedError

    def tell(self, node: str, what: str, detail: str) -> None:
        """A row of the run's events; node: a host, or what else it happened to."""
        self.events.append(Told(time.monotonic_ns(), self._label(node), what, detail))
        self.heard(self.events[-1])
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_promoted(self, limit_s: float) -> str:
        """The host that goes on alone, as soon as there is one; `LiveError` if there is none."""
        try:
            async with asyncio.timeout(limit_s):
                while self.promoted is None:
                    await self._changed.wait()
                return self.promoted
        except TimeoutError:
            raise LiveError(f"no host went on alone within {limit_s:g} s") from None


async def until_ready(
    name: str, console: Path, ready: str, limit_s: float, check: Callable[[], None]
) -> None:
    """Until a host's guest says so on its console; `LiveError`, also what ``check`` raises."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if ready.encode() in (console.read_bytes() if console.exists() else b""):
            return
        check()
        await asyncio.sleep(_LOOK_S)
    raise LiveError(
        f"host {name}: the guest was not ready within {limit_s:g} s; "
        f"its console says: {last_words(console)}"
    )
