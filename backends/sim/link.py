"""The replication link: bandwidth and delay, shared by everything that crosses it.

Each direction is its own fluid: the channels that have something to send share its bandwidth
equally (as long-lived TCP connections do on average), and each channel is first in, first out.
A message arrives ``delay`` after its last bit has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from backends.sim.clock import Clock

NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class _Parcel:
    bits: float  # still to leave
    arrived: Callable[[], None]
    left: Callable[[], None] | None


class Direction:
    """One direction of the link."""

    def __init__(self, clock: Clock, bandwidth_bps: float, delay_ns: int) -> None:
        self._clock = clock
        self._bits_per_ns = bandwidth_bps / NS_PER_S
        self._delay_ns = delay_ns
        self._channels: dict[str, deque[_Parcel]] = {}  # only those with something to send
        self._arrives_ns: dict[str, int] = {}  # by channel: the last that is under way
        self._since_ns = 0  # when the fluid was last brought up to date
        self._turn = 0  # a wake-up of an older turn is void
        self._cut = False
        self.sent_bytes = 0

    def send(
        self,
        channel: str,
        size_bytes: int,
        arrived: Callable[[], None],
        left: Callable[[], None] | None = None,
    ) -> None:
        """Queue a message; ``left`` is called when its last bit leaves, ``arrived`` later."""
        self._flow()
        self.sent_bytes += size_bytes
        parcel = _Parcel(size_bytes * 8.0, arrived, left)
        self._channels.setdefault(channel, deque()).append(parcel)
        self._plan()

    def forget(self, channel: str) -> None:
        """Drop what has not left yet: its sender is gone."""
        self._flow()
        self._depart()
        self._channels.pop(channel, None)
        self._plan()

    def cut(self, is_cut: bool) -> None:
        """Stop or resume; what is under way goes on when the cut ends, as TCP makes it."""
        self._flow()
        self._depart()
        self._cut = is_cut
        self._plan()

    def change(self, bandwidth_bps: float, delay_ns: int) -> None:
        """From now on; what has left already keeps its delay."""
        self._flow()
        self._depart()
        self._bits_per_ns = bandwidth_bps / NS_PER_S
        self._delay_ns = delay_ns
        self._plan()

    def _flow(self) -> None:
        """Let bits leave for the time since the last call."""
        now_ns = self._clock.now_ns()
        elapsed_ns, self._since_ns = now_ns - self._since_ns, now_ns
        if self._cut or not elapsed_ns or not self._channels:
            return
        share = self._bits_per_ns * elapsed_ns / len(self._channels)
        for queue in self._channels.values():
            queue[0].bits -= share

    def _plan(self) -> None:
        self._turn += 1
        if self._cut or not self._channels:
            return
        bits = min(queue[0].bits for queue in self._channels.values())
        wait_ns = max(0, -int(-bits * len(self._channels) // self._bits_per_ns))
        self._clock.after(wait_ns, self._leave, self._turn)

    def _leave(self, turn: int) -> None:
        if turn == self._turn:
            self._flow()
            self._depart()
            self._plan()

    def _depart(self) -> None:
        """Send off the parcels whose last bit has left by now."""
        for channel in list(self._channels):
            queue = self._channels[channel]
            if queue[0].bits > 1e-6:
                continue
            parcel = queue.popleft()
            if not queue:
                del self._channels[channel]
            # first in, first out: a delay that was made shorter overtakes nothing
            now_ns = self._clock.now_ns()
            at_ns = max(now_ns + self._delay_ns, self._arrives_ns.get(channel, 0))
            self._arrives_ns[channel] = at_ns
            self._clock.after(at_ns - now_ns, self._arrive, parcel.arrived)
            if parcel.left is not None:
                self._clock.after(0, self._arrive, parcel.left)

    @staticmethod
    def _arrive(callback: Callable[[], None]) -> None:
        callback()
