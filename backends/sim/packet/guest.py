"""A guest that talks packets: the guest of fidelity ``response`` with a network stack.

The stack's clock is the guest's own: it goes on while the guest runs, and it is part of what a
checkpoint copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.sim.clock import Clock
from backends.sim.guest import Guest, Snapshot
from backends.sim.packet.server import Nature, Stack
from colosim.model.cost import Slowdown
from colosim.protocol.rewrite import Rewriter


@dataclass(frozen=True, slots=True)
class PacketSnapshot(Snapshot):
    """With the stack, and the guest's time.

    covered: frames that the guest made and that had not left when the state was taken.
    """

    stack: Stack
    vm_ns: int
    covered: tuple[bytes, ...] = ()


class PacketGuest(Guest):
    """emit(frames) gets what it sends; a rewriter stands between it and the network."""

    def __init__(
        self,
        clock: Clock,
        slowdown: Slowdown,
        vcpus: int,
        work_of: Callable[[int, int], int],
        finished: Callable[[int, int], None],
        stack: Stack,
        nature: Nature,
        emit: Callable[[list[bytes]], None],
        rewriter: Rewriter | None = None,
        speed: float = 1.0,
    ) -> None:
        super().__init__(clock, slowdown, vcpus, work_of, finished, speed)
        self.stack = stack
        self.rewriter = rewriter
        self._nature = nature
        self._emit = emit
        self._vm_ns = 0  # its own time, at `_vm_since_ns`
        self._vm_since_ns = 0
        self._wake_ns: int | None = None  # when the stack is looked at
        self._wake_turn = 0

    # -- time ------------------------------------------------------------------------------

    @property
    def vm_ns(self) -> int:
        """The guest's own time: how long it has run."""
        if not self.running or self.hung:
            return self._vm_ns
        return self._vm_ns + self._clock.now_ns() - self._vm_since_ns

    def _advance(self) -> None:
        self._vm_ns = self.vm_ns
        self._vm_since_ns = self._clock.now_ns()
        super()._advance()

    def _sleep(self) -> None:
        """Look at the stack when it wants that, if the guest runs until then."""
        due_ns = self.stack.due_ns()
        if due_ns is None or not self.running or self.hung:
            return
        at_ns = self._clock.now_ns() + max(0, due_ns - self.vm_ns)
        if self._wake_ns is None or at_ns < self._wake_ns:
            self._wake_turn += 1
            self._wake_ns = at_ns
            self._clock.after(at_ns - self._clock.now_ns(), self._wake, self._wake_turn)

    def _wake(self, turn: int) -> None:
        if turn != self._wake_turn:
            return
        self._wake_ns = None
        self._put(self.stack.tick(self.vm_ns))
        self._sleep()

    def _void(self) -> None:
        super()._void()
        self._wake_turn += 1
        self._wake_ns = None

    # -- control ---------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._sleep()

    def hang(self, is_hung: bool) -> None:
        super().hang(is_hung)
        self._sleep()

    def snapshot(self, pages: int, unanswered: Mapping[tuple[int, int], str]) -> PacketSnapshot:
        plain = super().snapshot(pages, unanswered)
        return PacketSnapshot(
            plain.jobs,
            plain.done,
            plain.input_position,
            plain.pages,
            plain.unanswered,
            self.stack.copy(self._nature),
            self.vm_ns,
        )

    def load(self, snapshot: Snapshot) -> None:
        assert isinstance(snapshot, PacketSnapshot)
        super().load(snapshot)
        self.stack = snapshot.stack.copy(self._nature)
        self._vm_ns = snapshot.vm_ns
        self._vm_since_ns = self._clock.now_ns()
        if self.rewriter is not None:
            self.rewriter.loaded()

    # -- the network -----------------------------------------------------------------------

    def receive(self, frames: list[bytes]) -> None:
        """Clients' frames enter the running guest."""
        self._take(frames if self.rewriter is None else self.rewriter.to_guest(frames))

    def _take(self, frames: list[bytes]) -> None:
        out, requests = self.stack.receive(frames, self.vm_ns)
        for client, request in requests:
            self.request(client, request)
        self._put(out)
        self._sleep()

    def respond(self, client: int, request: int, data: bytes) -> None:
        """The service answers."""
        self._put(self.stack.respond(client, request, data, self.vm_ns))
        self._sleep()

    def _put(self, frames: list[bytes]) -> None:
        if not frames:
            return
        waited: list[bytes] = []
        if self.rewriter is not None:
            frames, waited = self.rewriter.from_guest(frames)
        self._emit(frames)
        if waited:
            self._take(waited)
