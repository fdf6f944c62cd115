"""``colosim.watch``: a run, looked at in a notebook; in plain Python, in the terminal.

The picture is an output of its own that is replaced again and again, so a notebook that is saved or
exported keeps the last one, as HTML and SVG that needs neither a kernel nor a network. Its controls
are widgets, where ipywidgets is installed; without them it plays by `Played.play`.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, overload

from colosim.watching.command import opened, speed_of
from colosim.watching.facts import NS_PER_S
from colosim.watching.model import View
from colosim.watching.onlooker import Onlooker
from colosim.watching.page import page
from colosim.watching.playing import Player, play, to_end
from colosim.watching.sources import Recording

_FRAME_S = 0.2
_SPEEDS = ("0.1x", "1x", "2x", "10x", "max")


@overload
def watch(run: None = None, policy: None = None, seed: None = None) -> LiveView: ...
@overload
def watch(run: str | Path, policy: str | None = None, seed: int | None = None) -> Played: ...
def watch(
    run: str | Path | None = None, policy: str | None = None, seed: int | None = None
) -> Played | LiveView:
    """Look at a run: a run directory, a trace in it, or a scenario in TOML, which is simulated.

    Without ``run``: what `colosim.live` and `colosim.run_live` take as ``looker``, to show a live
    run as it goes on.  policy, seed: of a scenario, instead of its own.

    Raises StoreError, ScenarioError or WatchError, one line, for what cannot be looked at.
    """
    return LiveView() if run is None else Played(run, policy, seed)


def _in_notebook() -> bool:
    """Something here shows HTML."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class _Picture:
    """An output of a notebook that can be replaced."""

    def __init__(self, html: str) -> None:
        from IPython.display import HTML, display

        self._of: Any = HTML
        self._handle: Any = display(HTML(html), display_id=True)  # type: ignore[no-untyped-call]

    def replace(self, html: str) -> None:
        self._handle.update(self._of(html))


class LiveView(Onlooker):
    """Shows live runs as they go on, where they are started: ``looker`` of `colosim.run_live`."""

    def __init__(self) -> None:
        self._replace: Callable[[str], None] = lambda html: None
        self.html = ""  # the last picture
        super().__init__("page" if _in_notebook() else "terminal", self._arrived)

    @contextmanager
    def looking(self, directory: Path, name: str, duration_ns: int) -> Iterator[None]:
        """Around a run whose files are in ``directory``."""
        if _in_notebook():
            self.html = page(View(name, duration_ns, begin_ns=None), 0)  # not that of a run before
            picture = _Picture(self.html)
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()

            def replace(html: str) -> None:
                """By the loop, in this context: so the cell that runs gets it."""
                loop.call_soon_threadsafe(picture.replace, html, context=context)

            self._replace = replace
            with super().looking(directory, name, duration_ns):
                yield
            picture.replace(self.html)
        else:
            with super().looking(directory, name, duration_ns):
                yield

    def _arrived(self, html: str) -> None:
        self.html = html
        self._replace(html)

    def _repr_html_(self) -> str:
        return self.html or "<p>no live run yet: give this as looker to colosim.run_live</p>"


class Played:
    """A run that is over: the whole of it as a picture, and played at any speed."""

    def __init__(self, run: str | Path, policy: str | None = None, seed: int | None = None) -> None:
        self._opened = opened(run, policy, seed)  # a simulation is there as long as this
        self.recording: Recording = self._opened.__enter__()
        weakref.finalize(self, self._opened.__exit__, None, None, None)
        self._picture: _Picture | None = None
        self._playing: asyncio.Task[None] | None = None

    def view(self, at_s: float = math.inf) -> View:
        """What was to be seen at a time, in seconds from the begin of the record."""
        return self._player(at_s).view

    def _player(self, at_s: float, speed: float = math.inf) -> Player:
        found = self.recording
        view = View(found.name, found.duration_ns)
        if math.isinf(at_s):
            player = Player(to_end(view, found.moments()), ())
            player.now_ns = view.at_ns
            return player
        return Player(view, found.moments(), speed, round(at_s * NS_PER_S))

    def page(self, at_s: float = math.inf) -> str:
        """HTML of the run up to a time, in seconds; of all of it."""
        player = self._player(at_s)
        return page(player.view, player.now_ns, self.recording.begin_ns)

    def _repr_html_(self) -> str:
        return self.page()

    def __repr__(self) -> str:
        return f"<{self.recording.name}: {self.recording.trace}; await .play('10x') plays it>"

    def _ipython_display_(self) -> None:
        if not _in_notebook():
            print(repr(self))
            return
        self._picture = _Picture(self.page())
        if find_spec("ipywidgets") is not None:
            from IPython.display import display

            display(self._controls())  # type: ignore[no-untyped-call]

    # -- playing -----------------------------------------------------------------------------

    async def play(self, speed: str | float = "1x", from_s: float | None = None) -> None:
        """Show it as it happened, ``speed`` times as fast, from a time on; then the whole of it."""
        pace = speed_of(speed)
        begin_s = self.recording.begin_ns / NS_PER_S if from_s is None else from_s
        player = self._player(begin_s, pace)
        if not _in_notebook():
            from rich.console import Console

            from colosim.watching.terminal import front

            with front(Console(), print) as show:
                await asyncio.to_thread(play, player, show)
            return
        if self._picture is None:
            self._picture = _Picture(page(player.view, player.now_ns))
        await self._play(player, self._picture.replace, lambda now_s: None)
        self._picture.replace(self.page())

    async def _play(
        self, player: Player, show: Callable[[str], None], moved: Callable[[float], None]
    ) -> None:
        before_s = shown_s = time.monotonic()
        while not player.is_over:
            await asyncio.sleep(0 if math.isinf(player.speed) else _FRAME_S / 2)
            now_s = time.monotonic()
            player.advance(now_s - before_s)
            before_s = now_s
            if now_s - shown_s >= _FRAME_S:
                shown_s = now_s
                show(page(player.view, player.now_ns))
                moved(player.now_ns / NS_PER_S)

    def _controls(self) -> Any:
        """Play, speed and a time to look at."""
        import ipywidgets

        found, picture = self.recording, self._picture
        assert picture is not None
        begin_s = found.begin_ns / NS_PER_S
        end_s = max(begin_s, self.view().at_ns / NS_PER_S)
        button = ipywidgets.ToggleButton(description="▶ play")
        speed = ipywidgets.Dropdown(options=_SPEEDS, value="1x", layout={"width": "80px"})
        at = ipywidgets.FloatSlider(
            value=end_s,
            min=begin_s,
            max=end_s,
            step=max(0.01, (end_s - begin_s) / 500),
            readout_format=".2f",
            continuous_update=False,
            layout={"width": "460px"},
        )
        by_player = False

        def moved(now_s: float) -> None:
            nonlocal by_player
            by_player = True
            at.value = min(now_s, end_s)
            by_player = False

        async def run() -> None:
            try:
                begin = begin_s if at.value >= end_s else at.value
                player = self._player(begin, speed_of(speed.value))
                await self._play(player, picture.replace, moved)
                picture.replace(self.page())
                moved(end_s)
            finally:
                self._playing = None
                button.value = False

        def toggled(change: Any) -> None:
            button.description = "■ stop" if change["new"] else "▶ play"
            if change["new"]:
                self._playing = asyncio.get_running_loop().create_task(run())
            elif self._playing is not None:
                self._playing.cancel()

        def looked(change: Any) -> None:
            if not by_player and self._playing is None:
                at_s = change["new"]
                player = self._player(at_s if at_s < end_s else math.inf)
                whole = found.begin_ns if at_s >= end_s else None
                picture.replace(page(player.view, player.now_ns, whole))

        button.observe(toggled, "value")
        at.observe(looked, "value")
        return ipywidgets.HBox([button, speed, at])
