"""What every policy is: signals and time in, ``CheckpointNow(reason)`` out, no actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from colosim.protocol.types import Output, Signal, Transfer

MS = 1_000_000
SECOND = 1_000 * MS


def parameter(
    default: int, unit: str, text: str, minimum: int = 0, maximum: int | None = None
) -> Any:
    """Declare one policy parameter; scenario files, schema and ``--help`` are made from this.

    unit: "time" (integer ns in code, "50 ms" in files), "count" or "percent"; only plain numbers
    may have a maximum.
    """
    metadata = {"unit": unit, "help": text, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class NoParams:
    """A policy without parameters."""


class Policy:
    """Base of all policies; a pure state machine owned by one primary node."""

    name: ClassVar[str]
    #: what output waits for at first; what may wait for a witness at any time has witness here
    output: ClassVar[Output]
    #: how state gets across where a scenario does not say
    transfer: ClassVar[Transfer] = Transfer.STOP_AND_SEND
    #: the signals that it looks at; no other one changes anything, and it may not get them
    hears: ClassVar[tuple[type, ...]] = Signal.__args__
    #: one line for ``colosim policies``
    summary: ClassVar[str]
    #: frozen dataclass of parameters, declared with `parameter`
    Params: ClassVar[type] = NoParams

    def __init__(self, params: Any) -> None:
        self.params = params

    @classmethod
    def protects(cls) -> bool:
        """True if there is a secondary at all."""
        return True

    def waits_for(self) -> Output:
        """What output made from now on waits for.

        It may change at a `Cut` only: at any other moment output of one epoch would wait for two
        things, and what was made later could leave first.
        """
        return self.output

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        """Hear a signal; return a reason to checkpoint now, or None."""
        return None

    def deadline_ns(self) -> int | None:
        """The next time this policy wants `tick`."""
        return None

    def tick(self, now_ns: int) -> str | None:
        """The deadline has passed; return a reason to checkpoint now, or None."""
        return None
