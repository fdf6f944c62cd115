"""The process that looks at a live run: ``python -m colosim.watching.child DIR FRONT NAME NS``.

Rows of what the runner says come by stdin; its end is ours. See `colosim.watching.onlooker`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from colosim.watching.model import END, Moment, Told, View
from colosim.watching.page import page
from colosim.watching.sources import Tail
from colosim.watching.terminal import Show, front

_NICE = 10  # the guests come first
_READ_S = 0.1
_SHOW_S = 0.25
_RUNNER = "the runner"


class Rows:
    """What the runner says, read from stdin without waiting for it longer than asked."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._left = b""
        self.is_over = False

    def read(self, limit_s: float) -> list[tuple[int, Told]]:
        """Whole rows, as (the runner's time, what it says)."""
        ready, _, _ = select.select([self._handle], [], [], limit_s)
        if not ready:
            return []
        piece = os.read(self._handle, 1 << 16)
        self.is_over = not piece
        *rows, self._left = (self._left + piece).split(b"\n")
        found = []
        for text in rows:
            row = json.loads(text)
            found.append((row.pop("at_ns"), Told(**row)))
        return found


def watch(directory: Path, rows: Rows, view: View, show: Show) -> None:
    """Until the runner says no more."""
    tail = Tail(directory)
    due_s = 0.0
    while True:
        next_s = time.monotonic() + _READ_S
        found = rows.read(_READ_S)
        came_ns = time.monotonic_ns()
        moments = [Moment(tail.place(_RUNNER, at_ns, came_ns), told) for at_ns, told in found]
        moments += tail.read(came_ns)
        for moment in sorted(moments, key=lambda each: each.at_ns):
            view.see(moment)
        now_s = time.monotonic()
        if now_s >= due_s or rows.is_over or any(told.what == END for _, told in found):
            due_s = now_s + _SHOW_S
            show(view, view.at_ns if view.is_over else tail.now_ns(came_ns))
        if rows.is_over:
            break
        time.sleep(max(0.0, next_s - now_s))
    tail.close()


@contextmanager
def _page() -> Iterator[Show]:
    def show(view: View, now_ns: int) -> None:
        print(json.dumps({"html": page(view, now_ns)}), flush=True)

    yield show


@contextmanager
def _terminal() -> Iterator[Show]:
    from rich.console import Console

    console = Console(file=sys.stderr)
    with front(console, lambda text: print(f"colosim: {text}", file=sys.stderr)) as show:
        yield show


_FRONTS = {"page": _page, "terminal": _terminal}


def main() -> None:
    """Look until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's; then it says no more
    os.nice(_NICE)
    directory, which, name, duration_ns = sys.argv[1:]
    view = View(name, int(duration_ns), begin_ns=None)
    with suppress(BrokenPipeError), _FRONTS[which]() as show:
        watch(Path(directory), Rows(sys.stdin.fileno()), view, show)


if __name__ == "__main__":
    main()
