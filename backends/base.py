"""The contract of a world, in one page.

A world owns guests, links, clients and time.  It turns actions into things that happen and
things that happen into events; it decides nothing about the protocol.

    session.pump(node_id, event, cause)   the world calls this, never from within `perform`
    perform(node_id, action, cause)       starts the action and returns at once
    now_ns()                              SimPy's env.now, or the monotonic clock; never goes back
    wake_at(node_id, when_ns)             pump Tick() then; replaces the last call; None: never

Promises to the core

1. An action with ``op`` ends in exactly one `Done(op)` or `Failed(op)`, unless its host fails or
   hangs; `AskVote` ends in at most one `VoteSeen(op)`.  Completions arrive as later events.
2. Actions of one node start in the order given.  Operations on one guest take effect in order.
3. `Done` of `Save` and `Copy` carries the `State`; what a `Blob` names can be had until the
   checkpoint after it was loaded.
4. The ranges of one stream come in order.  `Done` of `Drain` comes after every `GuestOutput` that
   the guest made before it stopped.
5. What is written to the checkpoint stream arrives once and in order, in any chunking, or not at
   all; its end arrives as `LinkLost`, after everything before it.  A silent cut arrives as
   nothing: time limits and heartbeats are the core's.
6. While a `Quiesce` is in force neither guest gets client input; it ends with the next
   `StartVm` of the node that asked.  Nothing is lost meanwhile.
7. `Promote` turns client input to that node's guest, from where its state left off.
8. A fenced host's output reaches nobody from the moment `Done` of `Fence` is fed.
9. An event that an action of another node caused carries that action's line as ``cause``.
10. `VmGone` comes before every `Failed` and `LinkLost` that the guest's end causes, and `PeerGone`
   not before `Start`: a manager decides by what it has been told.
11. A `Quiesce` that was cancelled takes no effect after a later `StartVm`.
12. A guest that does not take the state which it is handed is beyond use: `VmGone` comes before
   the time limit of `receive` ends, or its node would take that for the peer's silence.
13. Nothing outlives the world: whoever starts a process or a socket ends it.
"""

from __future__ import annotations

from colosim.session import Cause, Session, World

__all__ = ["Cause", "Session", "World"]
