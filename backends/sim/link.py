"""The replication link: bandwidth and delay, shared by everything that crosses it.

Each direction is its own fluid: the channels that have something to send share its bandwidth
equally (as long-lived TCP connections do on average), and each channel is first in, first out.
A message arrives ``delay`` after its last bit has left.  Channels of the state may be slower than
their share; what they leave is the others' (max-min fair).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from backends.sim.clock import Clock

NS_PER_S = 1_000_000_000
_RESIDUE_BITS = 1e-6  # less is nothing
#: the channel of the checkpoint stream; a state may have further ones beside it
STATE = "colo"


def state_channels(count: int) -> tuple[str, ...]:
    """The channels that the pages of a state are dealt to."""
    return (STATE, *(f"{STATE}.{i}" for i in range(2, count + 1)))


def last_of(count: int, effect: Callable[[], None]) -> Callable[[], None]:
    """What is to be called ``count`` times and takes effect at the last."""
    left = count

    def one() -> None:
        nonlocal left
        left -= 1
        if not left:
            effect()

    return one


class InOrder:
    """Things that may happen in any order take effect in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], None], list[bool]]] = deque()

    def add(self, effect: Callable[[], None]) -> Callable[[], None]:
        """What is to be called when it has happened."""
        happened: list[bool] = []
        self._waiting.append((effect, happened))

        def it_happened() -> None:
            happened.append(True)
            while self._waiting and self._waiting[0][1]:
                self._waiting.popleft()[0]()

        return it_happened


@dataclass(slots=True)
class _Parcel:
    bits: float  # still to leave
    arrived: Callable[[], None]
    left: Callable[[], None] | None
    owner: str = ""


class Direction:
    """One direction of the link."""

    def __init__(
        self,
        clock: Clock,
        bandwidth_bps: float,
        delay_ns: int,
        channel_bps: float | None = None,
    ) -> None:
        """channel_bps: most that each channel of the state gets through; None for no limit."""
        self._clock = clock
        self._bits_per_ns = bandwidth_bps / NS_PER_S
        self._most_per_ns = None if channel_bps is None else channel_bps / NS_PER_S
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
        owner: str = "",
    ) -> None:
        """Queue a message; ``left`` is called when its last bit leaves, ``arrived`` later.

        owner: for `forget`, where a channel has messages of several senders.
        """
        self._flow()
        self.sent_bytes += size_bytes
        parcel = _Parcel(size_bytes * 8.0, arrived, left, owner)
        self._channels.setdefault(channel, deque()).append(parcel)
        self._plan()

    def alone_ns(self, begins_ns: int, sizes_bytes: Iterable[int]) -> tuple[int, int] | None:
        """When the last bit of messages that are sent then, one after the other, has left, and when
        it is there, if nothing else is sent; None if something is under way, or the link is cut.
        """
        if self._channels or self._cut or self._most_per_ns is not None:
            return None
        per_ns, left_ns = self._bits_per_ns, begins_ns
        for size_bytes in sizes_bytes:
            bits = size_bytes * 8.0
            while bits > _RESIDUE_BITS:  # as `_plan` and `_flow` have it, to the last bit
                wait_ns = -int(-bits // per_ns)
                left_ns += wait_ns
                bits -= per_ns * wait_ns
        return left_ns, max(left_ns + self._delay_ns, self._arrives_ns.get(STATE, 0))

    def passed(self, size_bytes: int, at_ns: int) -> None:
        """That is how it was."""
        self.sent_bytes += size_bytes
        self._arrives_ns[STATE] = at_ns

    def forget(self, channel: str, owner: str = "") -> None:
        """Drop what that owner has not sent yet: it is gone."""
        self._flow()
        self._depart()
        kept = deque(each for each in self._channels.pop(channel, ()) if each.owner != owner)
        if kept:
            self._channels[channel] = kept
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
        if self._most_per_ns is not None:
            for channel, bits_per_ns in self._rates(self._most_per_ns).items():
                self._channels[channel][0].bits -= bits_per_ns * elapsed_ns
            return
        share = self._bits_per_ns * elapsed_ns / len(self._channels)
        for queue in self._channels.values():
            queue[0].bits -= share

    def _rates(self, most_per_ns: float) -> dict[str, float]:
        """What each channel gets of the link, in bits a nanosecond."""
        slow = [channel for channel in self._channels if channel.startswith(STATE)]
        fast = len(self._channels) - len(slow)
        rate = min(self._bits_per_ns / len(self._channels), most_per_ns)
        rest = (self._bits_per_ns - rate * len(slow)) / max(fast, 1)
        return {channel: rate if channel in slow else rest for channel in self._channels}

    def _plan(self) -> None:
        self._turn += 1
        if self._cut or not self._channels:
            return
        if self._most_per_ns is not None:
            rates = self._rates(self._most_per_ns)
            wait_ns = max(0, min(-int(-q[0].bits // rates[c]) for c, q in self._channels.items()))
        else:
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
            if queue[0].bits > _RESIDUE_BITS:
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
