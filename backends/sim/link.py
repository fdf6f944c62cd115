"""The replication link: bandwidth and delay, shared by everything that crosses it.

Each direction is its own fluid: the channels that have something to send share its bandwidth
equally (as long-lived TCP connections do on average), and each channel is first in, first out.
A message arrives ``delay`` after its last bit has left.  Channels of the state may be slower than
their share; what they leave is the others' (max-min fair).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from backends.sim.clock import Clock

if TYPE_CHECKING:
    from backends.sim.beats import Met

NS_PER_S = 1_000_000_000
_RESIDUE_BITS = 1e-6  # less is nothing
MESSAGE_BYTES = 64  # of TCP and IP headers that a message of its own costs
#: the channel of the checkpoint stream; a state may have further ones beside it
STATE = "colo"
WITNESS = "witness"  # that of what the secondary says, to be compared


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
class Parcel:
    """A message on the link."""

    bits: float  # still to leave
    arrived: Callable[[], None]
    left: Callable[[], None] | None = None
    owner: str = ""


class Crossing(NamedTuple):
    """Of messages: when the last bit has left, and when it is at the other side.

    met: what it would do to those that share the link (`backends.sim.beats`).
    """

    left_ns: int
    there_ns: int
    met: Met | None


class Fluid:
    """Channels that share a bandwidth.  It has no clock: what it is asked says when."""

    def __init__(self, bits_per_ns: float, most_per_ns: float | None = None) -> None:
        """most_per_ns: that each channel of the state gets through; None for no limit."""
        self._bits_per_ns = bits_per_ns
        self._most_per_ns = most_per_ns
        self.channels: dict[str, deque[Parcel]] = {}  # only those with something to send
        self.since_ns = 0  # when it was last brought up to date

    def put(self, channel: str, parcel: Parcel) -> None:
        """Queue a message, at the moment up to which it flowed."""
        self.channels.setdefault(channel, deque()).append(parcel)

    def flow(self, now_ns: int) -> None:
        """Let bits leave for the time since the last call."""
        elapsed_ns, self.since_ns = now_ns - self.since_ns, now_ns
        channels = self.channels
        if not elapsed_ns or not channels:
            return
        if self._most_per_ns is not None:
            for channel, bits_per_ns in self._rates(self._most_per_ns).items():
                channels[channel][0].bits -= bits_per_ns * elapsed_ns
            return
        share = self._bits_per_ns * elapsed_ns / len(channels)
        for queue in channels.values():
            queue[0].bits -= share

    def wait_ns(self) -> int:
        """Until the next message may have left; there is one."""
        channels = self.channels
        if self._most_per_ns is not None:
            rates = self._rates(self._most_per_ns)
            return max(0, min(-int(-q[0].bits // rates[c]) for c, q in channels.items()))
        bits = min(queue[0].bits for queue in channels.values())
        return max(0, -int(-bits * len(channels) // self._bits_per_ns))

    def gone(self) -> list[tuple[str, Parcel]]:
        """The messages, one of a channel at most, whose last bit has left by now."""
        gone = []
        for channel in list(self.channels):
            queue = self.channels[channel]
            if queue[0].bits > _RESIDUE_BITS:
                continue
            gone.append((channel, queue.popleft()))
            if not queue:
                del self.channels[channel]
        return gone

    def _rates(self, most_per_ns: float) -> dict[str, float]:
        """What each channel gets of the link, in bits a nanosecond."""
        slow = [channel for channel in self.channels if channel.startswith(STATE)]
        fast = len(self.channels) - len(slow)
        rate = min(self._bits_per_ns / len(self.channels), most_per_ns)
        rest = (self._bits_per_ns - rate * len(slow)) / max(fast, 1)
        return {channel: rate if channel in slow else rest for channel in self.channels}


@lru_cache(256)  # most messages have one of few sizes
def _alone_ns(size_bytes: int, bits_per_ns: float) -> int:
    """Until the last bit has left; as `wait_ns` and `flow` have it, to that bit."""
    bits, took_ns = size_bytes * 8.0, 0
    while bits > _RESIDUE_BITS:
        wait_ns = -int(-bits // bits_per_ns)
        took_ns += wait_ns
        bits -= bits_per_ns * wait_ns
    return took_ns


class Direction(Fluid):
    """One direction of the link.

    lent: to somebody who knows what nobody else sends meanwhile (`backends.sim.beats`); called
    before anybody else touches it.
    """

    def __init__(
        self,
        clock: Clock,
        bandwidth_bps: float,
        delay_ns: int,
        channel_bps: float | None = None,
    ) -> None:
        """channel_bps: most that each channel of the state gets through; None for no limit."""
        super().__init__(
            bandwidth_bps / NS_PER_S, None if channel_bps is None else channel_bps / NS_PER_S
        )
        self._clock = clock
        self._delay_ns = delay_ns
        self._arrives_ns: dict[str, int] = {}  # by channel: the last that is under way
        self._turn = 0  # a wake-up of an older turn is void
        self._cut = False
        self.sent_bytes = 0
        self.lent: Callable[[], None] | None = None

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
        if self.lent is not None:
            self.lent()
        self._flow()
        self.sent_bytes += size_bytes
        self.put(channel, Parcel(size_bytes * 8.0, arrived, left, owner))
        self._plan()

    # -- in one go ---------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Nothing is on it, and no channel is held to less than all of it."""
        return not (self.channels or self._cut) and self._most_per_ns is None

    def is_quiet(self, now_ns: int) -> bool:
        """And nothing is on its way to the other side."""
        return self.is_idle and all(at_ns <= now_ns for at_ns in self._arrives_ns.values())

    def alone_ns(self, begins_ns: int, sizes_bytes: Iterable[int]) -> int:
        """When the last bit has left of messages that are sent then, one after the other, if
        nothing else is sent.
        """
        per_ns, left_ns = self._bits_per_ns, begins_ns
        for size_bytes in sizes_bytes:
            left_ns += _alone_ns(size_bytes, per_ns)
        return left_ns

    def there_ns(self, left_ns: int, channel: str = STATE) -> int:
        """When it is there; first in, first out: a delay made shorter overtakes nothing."""
        there_ns, before_ns = left_ns + self._delay_ns, self._arrives_ns.get(channel, 0)
        return max(before_ns, there_ns)

    def passed(self, size_bytes: int, at_ns: int, channel: str = STATE) -> None:
        """So much was sent, and is there at that moment."""
        self.sent_bytes += size_bytes
        self._arrives_ns[channel] = at_ns

    def trial(self) -> Fluid:
        """One of the same speed, with the same messages on it."""
        made = Fluid(self._bits_per_ns, self._most_per_ns)
        made.since_ns = self.since_ns
        for channel, queue in self.channels.items():
            made.channels[channel] = deque(replace(each) for each in queue)
        return made

    def take(self, trial: Fluid) -> None:
        """That is how it was."""
        self.channels, self.since_ns = trial.channels, trial.since_ns

    def go_on(self) -> None:
        """From here on by the clock."""
        self._turn += 1
        if self.channels:
            leaves_ns = self.since_ns + self.wait_ns()
            self._clock.after(leaves_ns - self._clock.now_ns(), self._leave, self._turn)

    # -- by the clock ------------------------------------------------------------------------

    def forget(self, channel: str, owner: str = "") -> None:
        """Drop what that owner has not sent yet: it is gone."""
        if self.lent is not None:
            self.lent()
        self._flow()
        self._depart()
        kept = deque(each for each in self.channels.pop(channel, ()) if each.owner != owner)
        if kept:
            self.channels[channel] = kept
        self._plan()

    def cut(self, is_cut: bool) -> None:
        """Stop or resume; what is under way goes on when the cut ends, as TCP makes it."""
        if self.lent is not None:
            self.lent()
        self._flow()
        self._depart()
        self._cut = is_cut
        self._plan()

    def change(self, bandwidth_bps: float, delay_ns: int) -> None:
        """From now on; what has left already keeps its delay."""
        if self.lent is not None:
            self.lent()
        self._flow()
        self._depart()
        self._bits_per_ns = bandwidth_bps / NS_PER_S
        self._delay_ns = delay_ns
        self._plan()

    def _flow(self) -> None:
        now_ns = self._clock.now_ns()
        if self._cut:
            self.since_ns = now_ns
        else:
            self.flow(now_ns)

    def _plan(self) -> None:
        self._turn += 1
        if self.channels and not self._cut:
            self._clock.after(self.wait_ns(), self._leave, self._turn)

    def _leave(self, turn: int) -> None:
        if turn == self._turn:
            self._flow()
            self._depart()
            self._plan()

    def _depart(self) -> None:
        """Send off the messages whose last bit has left by now."""
        now_ns = self._clock.now_ns()
        for channel, parcel in self.gone():
            at_ns = self._arrives_ns[channel] = self.there_ns(now_ns, channel)
            self._clock.after(at_ns - now_ns, self._arrive, parcel.arrived)
            if parcel.left is not None:
                self._clock.after(0, self._arrive, parcel.left)

    @staticmethod
    def _arrive(callback: Callable[[], None]) -> None:
        callback()
