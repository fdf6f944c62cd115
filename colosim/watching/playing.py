"""Plays moments at a speed, and shows the view a few times a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from colosim.watching.facts import NS_PER_S
from colosim.watching.model import Moment, View

FRAME_S = 0.1
_LOOKED = 512  # moments between two looks at the clock, where there is no pace to keep


class Player:
    """Moments on their way into a view, which has seen those up to ``from_ns`` already.

    speed: of the axis to real time; infinite for no pace.
    """

    def __init__(
        self, view: View, moments: Iterable[Moment], speed: float = 1.0, from_ns: int = 0
    ) -> None:
        self.view = view
        self.speed = speed
        self.now_ns = from_ns
        self._moments: Iterator[Moment] = iter(moments)
        self._next: Moment | None = next(self._moments, None)
        self.until(from_ns)

    @property
    def is_over(self) -> bool:
        """There is no moment left."""
        return self._next is None

    def advance(self, passed_s: float) -> None:
        """Let so much real time pass."""
        if not math.isinf(self.speed):
            self.until(self.now_ns + round(passed_s * self.speed * NS_PER_S))
            return
        for _ in range(_LOOKED):
            if self._next is None:
                return
            self.now_ns = max(self.now_ns, self._next.at_ns)
            self._take()

    def until(self, now_ns: int) -> None:
        """See everything up to a time of the axis."""
        while self._next is not None and self._next.at_ns <= now_ns:
            self._take()
        self.now_ns = self.view.at_ns if self.is_over else max(self.now_ns, now_ns)

    def _take(self) -> None:
        assert self._next is not None
        self.view.see(self._next)
        self._next = next(self._moments, None)


def play(
    player: Player,
    show: Callable[[View, int], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Play to the end; show is called with the view and the time, for the last time at the end."""
    shown_s = before_s = clock()
    show(player.view, player.now_ns)
    while not player.is_over:
        now_s = clock()
        player.advance(now_s - before_s)
        before_s = now_s
        if now_s - shown_s >= FRAME_S:
            shown_s = now_s
            show(player.view, player.now_ns)
        if not math.isinf(player.speed):
            sleep(FRAME_S / 4)
    show(player.view, player.now_ns)


def to_end(view: View, moments: Iterable[Moment]) -> View:
    """The view when all of it has happened."""
    for moment in moments:
        view.see(moment)
    return view
