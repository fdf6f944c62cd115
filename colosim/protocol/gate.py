"""Output commit: the only place where output is released or dropped.

The primary's gate keeps a ledger of output in the order it was made, each entry with the
checkpoint it will belong to: at Cut(k) everything held becomes part of k, and k+1 may fill while
k is in flight.  What it waits for is the policy's word: nothing, the commit, or a witness (equal
output of the other guest) and else the commit.  A policy may change its word from one epoch to
the next: it says so with the cut, so output of one epoch waits for one thing.

The secondary's gate keeps what its guest made since the state it runs on was loaded, offers it as
witness where the policy wants that, and releases it when the guest is promoted: the stream goes
on where its checkpoint was, and a receiver recognises by offset what it already has.

A side that its manager has silenced lets nothing out, whatever it waited for; what would have left
leaves when the manager says that it may again.

Held output belongs to this host: it dies with it, and no one else may have seen it.
"""

from __future__ import annotations

from collections.abc import Callable

from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    Committed,
    Cut,
    Drop,
    Forgone,
    GuestOutput,
    Loaded,
    Match,
    OfferWitness,
    Output,
    OutputRule,
    ProtocolError,
    Range,
    Release,
    Role,
    Silenced,
)


class Gate:
    """Holds, releases and drops output ranges of one node.

    by_frame: a range of several frames is as many pieces of output, each released by itself.
    is_silent: from the beginning, until the manager says otherwise.
    """

    def __init__(
        self,
        role: Role,
        output: Output,
        out: Outbox,
        by_frame: bool = False,
        is_silent: bool = False,
    ) -> None:
        self._role = role
        self._output = output
        self._witnesses = output is Output.WITNESS  # equal output of the other guest will do
        self._out = out
        self._by_frame = by_frame
        self._open = output is Output.NONE and role is Role.PRIMARY
        self._next = 1  # the checkpoint that output made now will belong to
        # (stream, first) -> (checkpoint, range); oldest first, and only what is still held
        self._ledger: dict[tuple[str, int], tuple[int, Range]] = {}
        self._ends: dict[str, int] = {}  # of what each stream made on this state
        self._epoch = 0  # secondary: last loaded checkpoint
        self._silent = is_silent
        self._due: list[Range] = []  # what would have left, but for the silence

    def hears(self) -> dict[type, Callable[..., None]]:
        if self._role is Role.PRIMARY:
            return {
                Match: self._on_match,
                Forgone: self._on_forgone,
                OutputRule: self._on_output_rule,
                Cut: self._on_cut,
                Committed: self._on_committed,
                Alone: self._on_alone,
                Silenced: self._on_silenced,
            }
        return {
            Loaded: self._on_loaded,
            Alone: self._on_alone,
            Silenced: self._on_silenced,
        }

    def guest_output(self, event: GuestOutput, now_ns: int) -> None:
        range_ = event.range
        if self._open:
            self._let_out((range_,))
            return
        stream, first, end = range_.stream, range_.first, range_.end
        if first < (made := self._ends.get(stream, first)):
            raise ProtocolError(f"{range_} made after {made}: a stream is made in order")
        self._ends[stream] = end
        if self._by_frame and self._role is Role.PRIMARY:  # the secondary's all go together
            for at in range(first, end):
                self._ledger[stream, at] = (self._next, Range(stream, at, at + 1))
        else:
            self._ledger[stream, first] = (self._next, range_)
        if self._role is Role.SECONDARY and self._output is Output.WITNESS:
            self._out.act(OfferWitness(range_, event.digest, self._epoch))

    # -- primary ---------------------------------------------------------------------------

    def _on_output_rule(self, signal: OutputRule, now_ns: int) -> None:
        self._witnesses = signal.output is Output.WITNESS

    def _on_match(self, signal: Match, now_ns: int) -> None:
        if self._witnesses and (ready := self._within(signal.range)):
            self._let_out(ready)

    def _on_forgone(self, signal: Forgone, now_ns: int) -> None:
        if self._witnesses and (gone := self._within(signal.range)):
            self._out.act(Drop(gone))

    def _on_cut(self, signal: Cut, now_ns: int) -> None:
        self._next = signal.checkpoint + 1

    def _on_committed(self, signal: Committed, now_ns: int) -> None:
        ready = self._take(signal.checkpoint)
        if ready:
            self._let_out(ready)

    # -- secondary -------------------------------------------------------------------------

    def _on_loaded(self, signal: Loaded, now_ns: int) -> None:
        self._epoch = signal.checkpoint
        self._ends.clear()  # the guest goes on where the primary was
        dropped = self._take(self._next)
        if dropped:
            self._out.act(Drop(dropped))

    # -- both ------------------------------------------------------------------------------

    def _on_alone(self, signal: Alone, now_ns: int) -> None:
        self._open = True
        ready = self._take(self._next)
        if ready:
            self._let_out(ready)

    def _on_silenced(self, signal: Silenced, now_ns: int) -> None:
        self._silent = signal.is_silent
        if self._due and not self._silent:
            due, self._due = self._due, []
            self._out.act(Release(tuple(due)))

    def _let_out(self, ranges: tuple[Range, ...]) -> None:
        if self._silent:
            self._due.extend(ranges)
        else:
            self._out.act(Release(ranges))

    def _within(self, range_: Range) -> tuple[Range, ...]:
        """Remove and return what is held of a range."""
        taken = []
        at = range_.first
        while at < range_.end:
            entry = self._ledger.pop((range_.stream, at), None)
            if entry is None:
                at += 1
            else:
                taken.append(entry[1])
                at = entry[1].end
        return self._joined(taken)

    def _take(self, checkpoint: int) -> tuple[Range, ...]:
        """Remove and return, oldest first, what is held and belongs to ``checkpoint`` or before."""
        taken = []
        for belongs_to, range_ in self._ledger.values():
            if belongs_to > checkpoint:
                break
            taken.append(range_)
        for range_ in taken:
            del self._ledger[range_.stream, range_.first]
        return self._joined(taken)

    def _joined(self, ranges: list[Range]) -> tuple[Range, ...]:
        """Frames that follow each other, as one range."""
        if not self._by_frame:
            return tuple(ranges)
        joined: list[Range] = []
        for range_ in ranges:
            last = joined[-1] if joined else None
            if last is not None and (last.stream, last.end) == (range_.stream, range_.first):
                joined[-1] = Range(last.stream, last.first, range_.end)
            else:
                joined.append(range_)
        return tuple(joined)
