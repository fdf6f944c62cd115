"""Output commit: the only place where output is released or dropped.

The primary's gate keeps a ledger of output in the order it was made, each entry with the
checkpoint it will belong to: at Cut(k) everything held becomes part of k, and k+1 may fill while
k is in flight.  What it waits for is the policy's word: nothing, the commit, or a witness (equal
output of the other guest) and else the commit.

The secondary's gate keeps what its guest made since the state it runs on was loaded, offers it as
witness where the policy wants that, and releases it when the guest is promoted: the stream goes
on where its checkpoint was, and a receiver recognises by offset what it already has.

Held output belongs to this host: it dies with it, and no one else may have seen it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    Committed,
    Cut,
    Drop,
    GuestOutput,
    Loaded,
    Match,
    OfferWitness,
    Output,
    ProtocolError,
    Range,
    Release,
    Role,
)


class Gate:
    """Holds, releases and drops output ranges of one node."""

    def __init__(self, role: Role, output: Output, out: Outbox) -> None:
        self._role = role
        self._output = output
        self._out = out
        self._open = output is Output.NONE and role is Role.PRIMARY
        self._next = 1  # the checkpoint that output made now will belong to
        self._ledger: deque[tuple[int, Range]] = deque()  # oldest first; may name released ranges
        self._held: dict[str, deque[Range]] = {}  # per stream, what is really still held
        self._epoch = 0  # secondary: last loaded checkpoint

    def hears(self) -> dict[type, Callable[..., None]]:
        if self._role is Role.PRIMARY:
            return {
                Match: self._on_match,
                Cut: self._on_cut,
                Committed: self._on_committed,
                Alone: self._on_alone,
            }
        return {Loaded: self._on_loaded, Alone: self._on_alone}

    def guest_output(self, event: GuestOutput, now_ns: int) -> None:
        if self._open:
            self._out.act(Release((event.range,)))
            return
        range_ = event.range
        self._ledger.append((self._next, range_))
        held = self._held.get(range_.stream)
        if held is None:
            held = self._held[range_.stream] = deque()
        elif held and range_.first < held[-1].end:
            raise ProtocolError(f"{range_} made after {held[-1]}: a stream is made in order")
        held.append(range_)
        if self._role is Role.SECONDARY and self._output is Output.WITNESS:
            self._out.act(OfferWitness(range_, event.digest, self._epoch))

    # -- primary ---------------------------------------------------------------------------

    def _on_match(self, signal: Match, now_ns: int) -> None:
        """Release the stream's head up to the end of the matched range."""
        held = self._held.get(signal.range.stream)
        ready = []
        while held and held[0].end <= signal.range.end:
            ready.append(held.popleft())
        if ready:
            self._out.act(Release(tuple(ready)))
        ledger = self._ledger  # forget released entries from the old end; the rest at the commit
        while ledger and not self._is_held(ledger[0][1]):
            ledger.popleft()

    def _on_cut(self, signal: Cut, now_ns: int) -> None:
        self._next = signal.checkpoint + 1

    def _on_committed(self, signal: Committed, now_ns: int) -> None:
        ready = self._take(signal.checkpoint)
        if ready:
            self._out.act(Release(ready))

    # -- secondary -------------------------------------------------------------------------

    def _on_loaded(self, signal: Loaded, now_ns: int) -> None:
        self._epoch = signal.checkpoint
        dropped = self._take(self._next)
        if dropped:
            self._out.act(Drop(dropped))

    # -- both ------------------------------------------------------------------------------

    def _on_alone(self, signal: Alone, now_ns: int) -> None:
        self._open = True
        ready = self._take(self._next)
        if ready:
            self._out.act(Release(ready))

    def _is_held(self, range_: Range) -> bool:
        held = self._held.get(range_.stream)
        return bool(held) and held[0].first <= range_.first  # type: ignore[index]

    def _take(self, checkpoint: int) -> tuple[Range, ...]:
        """Remove and return, oldest first, what is held and belongs to ``checkpoint`` or before."""
        taken = []
        while self._ledger and self._ledger[0][0] <= checkpoint:
            _, range_ = self._ledger.popleft()
            if self._is_held(range_):
                self._held[range_.stream].popleft()
                taken.append(range_)
        return tuple(taken)
