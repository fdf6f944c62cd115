"""One direction of the network between clients and guests, where it harms frames.

What happens to a client's *n*th frame is drawn by that address, so policies meet the same fate as
long as they send the same frames.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from backends.sim.clock import Clock
from colosim.model.network import Impairments
from colosim.model.streams import Streams


class Way:
    """goes_on(frames) gets what arrives, now or later; client_of(frame) says whose a frame is."""

    def __init__(
        self,
        name: str,
        harm: Impairments,
        streams: Streams,
        clock: Clock,
        client_of: Callable[[bytes], int],
        goes_on: Callable[[list[bytes]], None],
    ) -> None:
        self._name = name
        self._harm = harm
        self._streams = streams
        self._clock = clock
        self._client_of = client_of
        self._goes_on = goes_on
        self._sent: defaultdict[int, int] = defaultdict(int)  # by client
        self._is_bad: dict[int, bool] = {}
        self.counts = Counter({"sent": 0, "lost": 0, "doubled": 0, "late": 0})

    def send(self, frames: Iterable[bytes]) -> None:
        """Frames set out; those that nothing happens to arrive at once."""
        on_time: list[bytes] = []
        late: list[tuple[int, bytes]] = []
        for frame in frames:
            client = self._client_of(frame)
            number = self._sent[client]
            self._sent[client] += 1
            self.counts["sent"] += 1
            if self._is_lost(client, number):
                self.counts["lost"] += 1
                continue
            if self._happens("late", self._harm.reordered, client, number):
                self.counts["late"] += 1
                late.append((self._delay_ns("late-by", client, number), frame))
            else:
                on_time.append(frame)
            if self._happens("doubled", self._harm.duplicated, client, number):
                self.counts["doubled"] += 1
                late.append((self._delay_ns("doubled-by", client, number), frame))
        if on_time:
            self._goes_on(on_time)
        for delay_ns, frame in late:
            self._clock.after(delay_ns, self._goes_on, [frame])

    def _is_lost(self, client: int, number: int) -> bool:
        harm = self._harm
        is_bad = False
        if harm.burst_begins:  # the first draw says how it begins
            moves = self._streams.uniform(f"burst-{self._name}", client)
            if number == 0:
                self._is_bad[client] = moves.at(0) < harm.bad_part
            is_bad = self._is_bad[client]
            self._is_bad[client] = harm.next_is_bad(is_bad, moves.at(number + 1))
        return harm.is_lost(is_bad, self._streams.uniform(f"lost-{self._name}", client).at(number))

    def _happens(self, what: str, chance: float, client: int, number: int) -> bool:
        if not chance:
            return False
        return self._streams.uniform(f"{what}-{self._name}", client).at(number) < chance

    def _delay_ns(self, what: str, client: int, number: int) -> int:
        draw = self._streams.exponential(f"{what}-{self._name}", client).at(number)
        return round(self._harm.reorder_delay_ns * draw)
