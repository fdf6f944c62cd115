"""Built-in clients of a live run: the load of ``[workload]``, made of real TCP connections.

`Load` drives them at the times of the simulator's clients.  A protocol (redis, http, ...) is one
class, named in `PROTOCOLS`; it asks and checks every byte of the answer that can be known.
"""

from __future__ import annotations

from backends.qemu.clients.base import Failure, Protocol, Tally
from backends.qemu.clients.load import Load
from backends.qemu.clients.protocols import PROTOCOLS, default_port
from backends.qemu.clients.wire import Failed

__all__ = ["PROTOCOLS", "Failed", "Failure", "Load", "Protocol", "Tally", "default_port"]
