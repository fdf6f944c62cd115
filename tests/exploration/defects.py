"""Defects planted in the core, each as it could have been written; exploring has to find them.

A defect is a context in which the core is wrong.  Nodes made within it have it; worker processes
do not, so whoever looks for one runs points here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from colosim.protocol import checkpoint, manager, node
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Do, Machine, P, S, Verb
from colosim.protocol.codec import Decoder
from colosim.protocol.dialect import Message
from colosim.protocol.digests import DigestComparator
from colosim.protocol.gate import Gate
from colosim.protocol.manager import M, Manager, MDo, MVerb, Witness

Defect = Callable[[], Any]


@contextmanager
def _method(owner: type, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    with patch.object(owner, name, replacement):
        yield


@contextmanager
def machines(change: Callable[[Machine], Machine]) -> Iterator[None]:
    """Every node's checkpoint table is changed."""
    original = node.machine_of
    with patch.object(node, "machine_of", lambda config: change(original(config))):
        yield


@contextmanager
def rows(change: Mapping[tuple[M, MVerb], Any]) -> Iterator[None]:
    """Rows of the manager's table are others."""
    with patch.object(manager, "MANAGER_ROWS", {**manager.MANAGER_ROWS, **change}):
        yield


def _but(machine: Machine, changes: Mapping[Any, Any]) -> Machine:
    """Its rows are others, where it has them."""
    known = {key: row for key, row in changes.items() if key in machine.rows}
    return checkpoint.Machine(
        **{
            name: getattr(machine, name)
            for name in ("start", "reads", "ended", "between", "limits", "survival")
        },
        rows={**machine.rows, **known},
    )


# -- the gate ----------------------------------------------------------------------------------


def releases_at_the_cut():
    def on_cut(self, signal, now_ns):
        self._next = signal.checkpoint + 1
        if ready := self._take(signal.checkpoint):
            self._out.act(t.Release(ready))

    return _method(Gate, "_on_cut", on_cut)


def keeps_what_a_load_replaces():
    def on_loaded(self, signal, now_ns):
        self._epoch = signal.checkpoint
        self._ends.clear()

    return _method(Gate, "_on_loaded", on_loaded)


def releases_retained_output_twice():
    original = Gate._on_alone

    def on_alone(self, signal, now_ns):
        kept = tuple(range_ for _, range_ in self._ledger.values())
        original(self, signal, now_ns)
        if kept:
            self._out.act(t.Release(kept))

    return _method(Gate, "_on_alone", on_alone)


def counts_output_after_the_cut_to_it():
    """A guest that runs while its state is sent makes output that the state does not hold."""
    hears = Gate.hears

    def late(self):
        table = dict(hears(self))
        if t.Cut in table:
            table[t.Cut] = lambda signal, now_ns: None
            table[t.Completed] = self._on_cut
        return table

    return _method(Gate, "hears", late)


def releases_what_an_aborted_checkpoint_held():
    hears = Gate.hears

    def eager(self):
        table = dict(hears(self))
        if t.Committed in table:
            table[t.Aborted] = self._on_committed
        return table

    return _method(Gate, "hears", eager)


# -- the comparator ----------------------------------------------------------------------------


def ignores_the_digest():
    original = DigestComparator._put

    def put(self, stream, side, event, now_ns):
        alike = type(event)(**{**{k: getattr(event, k) for k in event.__slots__}, "digest": ""})
        original(self, stream, side, alike, now_ns)

    return _method(DigestComparator, "_put", put)


def accepts_a_witness_of_an_old_run():
    def witness(self, event, now_ns):
        stream = self._stream(event.range.stream)
        self._put(stream, stream.secondary, event, now_ns)

    return _method(DigestComparator, "witness", witness)


# -- the checkpointer and the codec ------------------------------------------------------------


def commits_when_received_though_loaded_is_asked():
    original = node.machine_of
    return patch.object(
        node, "machine_of", lambda config: original(replace(config, commit=Message.RECEIVED))
    )


def takes_over_half_loaded():
    early = ((Do.ABORT, Do.CLOSE_LINK, Do.STOP_VM), S.FAILOVER)
    return machines(lambda machine: _but(machine, {(S.LOAD, Verb.PROMOTE): early}))


def says_received_before_the_state_is_in():
    early = ((Do.SEND_RECEIVED,), S.RECEIVE)
    late = ((Do.LOAD,), S.LOAD)
    return machines(
        lambda machine: _but(
            machine, {(S.WAIT_SEND, Verb.SEND): early, (S.RECEIVE, Verb.STATE): late}
        )
    )


def goes_on_with_a_guest_that_neither_stopped_nor_started():
    left = ((Do.ABORT, Do.CLOSE_LINK, Do.EXIT), P.EXITED)
    return machines(
        lambda machine: _but(machine, dict.fromkeys(((P.STOP, v) for v in checkpoint.BAD), left))
    )


def believes_any_size():
    def feed_blob(self, blob):
        yield from self._have_blob(blob)

    return _method(Decoder, "_feed_blob", feed_blob)


# -- the manager and the witness ---------------------------------------------------------------


def promotes_before_the_fence_is_done():
    return rows({(M.VOTING, MVerb.GRANTED): ((MDo.FENCE, MDo.PROMOTE), M.PROMOTING)})


def never_fences():
    return rows({(M.VOTING, MVerb.GRANTED): ((MDo.PROMOTE,), M.PROMOTING)})


def goes_on_without_asking_the_witness():
    row = ((MDo.FENCE,), M.FENCING)
    return rows({(state, MVerb.SUSPECT): row for state in (M.IDLE, M.WATCH, M.SWITCHING)})


def asks_though_its_guest_is_beyond_use():
    def on_takeover(self, signal, now_ns):
        self._survival = t.Survival.CLEAN

    return _method(Manager, "_on_takeover", on_takeover)


def does_not_mind_silence():
    return _method(Manager, "heartbeat_seen", lambda self, now_ns: _deaf(self))


def _deaf(one: Manager) -> None:
    one._silence_ns = None


def grants_both_sides():
    return _method(Witness, "ask", lambda self, node: True)


ALL: tuple[Defect, ...] = (
    releases_at_the_cut,
    keeps_what_a_load_replaces,
    releases_retained_output_twice,
    counts_output_after_the_cut_to_it,
    releases_what_an_aborted_checkpoint_held,
    ignores_the_digest,
    accepts_a_witness_of_an_old_run,
    commits_when_received_though_loaded_is_asked,
    takes_over_half_loaded,
    says_received_before_the_state_is_in,
    goes_on_with_a_guest_that_neither_stopped_nor_started,
    believes_any_size,
    promotes_before_the_fence_is_done,
    never_fences,
    goes_on_without_asking_the_witness,
    asks_though_its_guest_is_beyond_use,
    does_not_mind_silence,
    grants_both_sides,
)
