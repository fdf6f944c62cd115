"""What does not go together, and why: policies, transfers, dialects and what else one may choose.

A table, so that scenario files, command line and docs say the same.  What is not in it is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from colosim.protocol.types import Transfer


@dataclass(frozen=True, slots=True)
class Refused:
    """Choices that do not go together.

    of: setting -> its values that are meant, all of which must be chosen: policy, transfer,
    dialect, quirks, compare (a mode), compression, channel_bandwidth ("link" or "limited"),
    channels ("one channel" or "several channels"), fidelity, load ("open", "closed" or "batch").
    key: the one of a scenario file to blame.  why: "what is wrong; what would be right".
    """

    of: Mapping[str, frozenset[str]]
    key: str
    why: str

    def what(self, chosen: Mapping[str, str]) -> str:
        """The choices that do not go together."""
        return " with ".join(chosen[setting] for setting in self.of)


def _of(**values: str | tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    return {
        name: frozenset((value,) if isinstance(value, str) else value)
        for name, value in values.items()
    }


REFUSED: tuple[Refused, ...] = (
    Refused(
        _of(policy="microcheckpoint", transfer=(Transfer.STOP_AND_SEND, Transfer.PRECOPY)),
        "transfer",
        "micro-checkpointing copies the state aside and then sends it; "
        "leave transfer out, or give policy remus",
    ),
    Refused(
        _of(transfer=Transfer.PRECOPY, dialect="rfc2014"),
        "transfer",
        "a state of rfc2014 is one blob, so nothing of it can go ahead; "
        'give dialect = "upstream" or another transfer',
    ),
    Refused(
        _of(transfer=Transfer.PRECOPY, quirks="qemu-7.2"),
        "transfer",
        'QEMU 7.2 sends nothing ahead, so there are no such defects; give quirks = "none"',
    ),
    Refused(
        _of(channels="several channels", dialect="rfc2014"),
        "stream.channels",
        'a state of rfc2014 is one blob in one stream; give 1, or dialect = "upstream"',
    ),
    Refused(
        _of(policy="hybrid", compare="colo-compare"),
        "compare.mode",
        "colo-compare releases what is equal in a storm too, where all must wait for the commit; "
        "give strict or qemu",
    ),
    Refused(
        _of(policy="hybrid", fidelity="epoch", load="closed"),
        "fidelity",
        "who waits for what turns with the rule, and that is not foreseen; "
        'give "response", or an open load',
    ),
)


def refusals(chosen: Mapping[str, str], table: Iterable[Refused] = REFUSED) -> Iterator[Refused]:
    """The rows that these choices, by setting, run into; a setting that is missing meets none."""
    return (
        row
        for row in table
        if all(chosen.get(setting) in values for setting, values in row.of.items())
    )
