"""A guest whose requests are rows in a `Lane`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.sim.clock import Clock
from backends.sim.epoch.lane import Lane
from backends.sim.guest import Guest, Snapshot, slowed_ns
from colosim.model.cost import Slowdown

Rows = tuple[int, int]
_NONE: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class EpochSnapshot(Snapshot):
    """Rows before ``position`` are served, of the next one ``left_ns`` is left if it was begun.

    owed: rows [first, end) that were made and no client is known to have.
    """

    position: int = 0
    left_ns: int = -1
    owed: tuple[Rows, ...] = ()


class EpochGuest(Guest):
    """One server.  made(first, end) is called with rows that it has served; changed() when what is
    planned for it does not hold any more, trimmed() when only the last rows of that do not.
    """

    def __init__(
        self,
        clock: Clock,
        slowdown: Slowdown,
        lane: Lane,
        made: Callable[[int, int], None],
        changed: Callable[[], None],
        trimmed: Callable[[], None],
        speed: float = 1.0,
    ) -> None:
        super().__init__(clock, slowdown, 1, self._no_work, self._nothing, speed)
        self.lane = lane
        self._made = made
        self._changed = changed
        self._trimmed = trimmed

    @staticmethod
    def _no_work(client: int, request: int) -> int:
        raise NotImplementedError  # requests are rows

    @staticmethod
    def _nothing(client: int, request: int) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Bring it up to date."""
        lane, now_ns = self.lane, self._clock.now_ns()
        if now_ns == lane.settled_ns:
            return
        before = lane.position
        if through := lane.settle(now_ns):
            self.served_since_cut += through
            self._made(before, before + through)

    def _advance(self) -> None:
        self.settle()
        super()._advance()

    def _moves(self) -> None:
        self.settle()
        moves = self.running and not self.hung
        if moves != self.lane.moves:
            self.lane.disturb(self._clock.now_ns())
            self.lane.moves = moves
            if moves:
                self._changed()
            else:
                self._trimmed()

    # -- control ---------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._moves()

    def stop(self) -> None:
        super().stop()
        self._moves()

    def hang(self, is_hung: bool) -> None:
        super().hang(is_hung)
        self._moves()

    def reads(self, is_reading: bool) -> None:
        """Whether the network lets it have what arrives."""
        self.settle()
        lane = self.lane
        if lane.reads and not is_reading:
            lane.reads = False
            lane.trim(lane.taken)
            self._trimmed()
        elif is_reading and not lane.reads:
            lane.disturb(self._clock.now_ns())
            lane.reads = True
            self.settle()
            self._changed()

    def snapshot(
        self,
        pages: int,
        unanswered: Mapping[tuple[int, int], str],
        owed: tuple[Rows, ...] = (),
    ) -> EpochSnapshot:
        self._advance()
        at = self.lane
        return EpochSnapshot((), _NONE, at.taken, pages, {}, at.position, at.left_ns, owed)

    def load(self, snapshot: Snapshot) -> None:
        assert isinstance(snapshot, EpochSnapshot)
        self.settle()
        left_ns = snapshot.left_ns
        self.lane.put(
            snapshot.position,
            snapshot.input_position,
            slowed_ns(left_ns, self.speed) if left_ns >= 0 else left_ns,
        )
        self.lane.inherited = snapshot.input_position
        self.cut()
        self._changed()
