"""What differs between the two wire dialects of COLO; everything else is shared.

``rfc2014`` is RFC v2 of 23 September 2014 (`qemu-colo.md` 1), ``upstream`` is QEMU since 2.8 as of
7.2 (`qemu-colo.md` 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

MS = 1_000_000
SECOND = 1_000 * MS


class Message(StrEnum):
    """Control messages by meaning; a dialect gives each its value."""

    READY = "ready"
    REQUEST = "request"
    REPLY = "reply"
    SEND = "send"
    SIZE = "size"
    RECEIVED = "received"
    LOADED = "loaded"


#: who may send what
FROM_PRIMARY = frozenset({Message.REQUEST, Message.SEND, Message.SIZE})
FROM_SECONDARY = frozenset({Message.READY, Message.REPLY, Message.RECEIVED, Message.LOADED})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire dialect.

    width: bytes of a control value, big-endian.
    values: value on the wire of each message.
    ram_apart: RAM is a migration stream without a length before the sized device state
        (upstream), else one sized blob holds both (rfc2014).
    commit: the message whose arrival makes a checkpoint "committed".
    start_before_ready, start_before_loaded: the secondary runs its guest before it says so.
    failover: the dialect knows takeover; without it a side that loses its peer acts on its own.
    policy_defaults: {policy: {parameter: value}} that the dialect's own code uses.
    """

    name: str
    width: int
    values: Mapping[Message, int]
    ram_apart: bool
    commit: Message
    start_before_ready: bool
    start_before_loaded: bool
    failover: bool
    policy_defaults: Mapping[str, Mapping[str, int]]


UPSTREAM = Dialect(
    name="upstream",
    width=4,
    values=MappingProxyType(
        {
            Message.READY: 0,
            Message.REQUEST: 1,
            Message.REPLY: 2,
            Message.SEND: 3,
            Message.SIZE: 4,
            Message.RECEIVED: 5,
            Message.LOADED: 6,
        }
    ),
    ram_apart=True,
    commit=Message.RECEIVED,
    start_before_ready=True,
    start_before_loaded=True,
    failover=True,
    policy_defaults=MappingProxyType(
        {
            policy: {"checkpoint_delay_ns": 20 * SECOND, "compare_timeout_ns": 3 * SECOND}
            for policy in ("colo", "hybrid")
        }
    ),
)

# The size follows SEND as a bare u64 there, so there is no SIZE message.  Patch 17 makes it
# periodic, 500 ms; the comparing form has a limit of 10 s and no compare timeout of its own.
RFC2014 = Dialect(
    name="rfc2014",
    width=8,
    values=MappingProxyType(
        {
            Message.READY: 70,
            Message.REQUEST: 71,
            Message.REPLY: 72,
            Message.SEND: 73,
            Message.RECEIVED: 74,
            Message.LOADED: 75,
        }
    ),
    ram_apart=False,
    commit=Message.LOADED,
    start_before_ready=False,
    start_before_loaded=False,
    failover=False,
    policy_defaults=MappingProxyType(
        {
            "remus": {"interval_ns": 500 * MS},
            **{
                policy: {"checkpoint_delay_ns": 10 * SECOND, "compare_timeout_ns": 10 * SECOND}
                for policy in ("colo", "hybrid")
            },
        }
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({d.name: d for d in (UPSTREAM, RFC2014)})
