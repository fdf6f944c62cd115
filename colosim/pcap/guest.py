"""Which frames of two captures the guest made: those from its MAC address.

COLO gives both guests one address, so it is a source in both captures.  A capture may hold both
directions, and then the clients' address, or a gateway's, is in both too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from colosim.pcap.clocks import Difference, Marks, difference
from colosim.pcap.errors import CaptureError
from colosim.pcap.reading import Capture

_QEMU = b"\x52\x54\x00"  # what QEMU and libvirt begin the addresses of guests with
_ADDRESSES_MOST = 65_536
_MARKS_MOST = 65_536
_SHOWN = 4
_SOURCE = slice(6, 12)


@dataclass(slots=True)
class Frames:
    """Of one source: how many, how many of them not whole, and the first such."""

    count: int = 0
    not_whole: int = 0
    example: str = ""
    marks: Marks = field(default_factory=Marks)


@dataclass
class Contents:
    """What a capture holds; times are of its own clock, in ns since 1970."""

    capture: Capture
    frames: int = 0
    first_ns: int = 0
    last_ns: int = 0
    out_of_order: int = 0
    sources: dict[bytes, Frames] = field(default_factory=dict)


def contents_of(capture: Capture, told: Callable[[], None]) -> Contents:
    """Read a capture once; ``told`` is called now and then.  Raises `CaptureError`."""
    found = Contents(capture)
    sources = found.sources
    latest_ns = None
    marks_left = _MARKS_MOST
    number = 0
    for batch in capture.frames():
        if latest_ns is None:
            found.first_ns = latest_ns = batch[0].time_ns
        for number, (time_ns, frame, wire_bytes) in enumerate(batch, number + 1):  # noqa: B020
            if time_ns < latest_ns:
                found.out_of_order += 1
                found.first_ns = min(found.first_ns, time_ns)
            else:
                latest_ns = time_ns
            of_source = sources.get(frame[_SOURCE])
            if of_source is None:
                if len(sources) >= _ADDRESSES_MOST:
                    continue
                of_source = sources[frame[_SOURCE]] = Frames()
            of_source.count += 1
            if marks_left and not of_source.marks.is_full:
                marks_left -= of_source.marks.see(frame, time_ns)
            if len(frame) < wire_bytes:
                if not of_source.not_whole:
                    of_source.example = f"frame {number} has {len(frame)} of {wire_bytes} bytes"
                of_source.not_whole += 1
        told()
    if latest_ns is None:
        raise CaptureError(f"{capture.path}: holds no frames")
    found.frames, found.last_ns = number, latest_ns
    sources.pop(b"", None)
    return found


def address_of(text: str) -> bytes:
    """A MAC address, such as 52:54:00:12:34:56."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text):
        raise CaptureError(f"{text!r} is no MAC address; write it like 52:54:00:12:34:56")
    return bytes.fromhex(re.sub("[:-]", "", text))


def text_of(address: bytes) -> str:
    """An address as people write it."""
    return address.hex(":")


def choose(primary: Contents, secondary: Contents, given: str | None) -> tuple[bytes, str]:
    """The guest's address and a sentence on why it was taken.  Raises `CaptureError`.

    Without ``given``: of the sources in both captures the most frequent, those with the prefix of
    QEMU's guests before others.
    """
    both = (primary, secondary)
    if given is not None:
        guest, why = address_of(given), "as given"
        for contents in both:
            if guest not in contents.sources:
                seen = ", ".join(_most_frequent(contents)[:_SHOWN])
                where = contents.capture.path
                raise CaptureError(f"{where}: has no frame from {text_of(guest)}, only from {seen}")
    else:
        counts = {
            address: frames.count + secondary.sources[address].count
            for address, frames in primary.sources.items()
            if address in secondary.sources and len(address) == 6
        }
        if not counts:
            files = f"{primary.capture.path} and {secondary.capture.path}"
            raise CaptureError(f"{files}: no source MAC address is in both, so no guest is")
        ranked = sorted(counts, key=lambda each: (not each.startswith(_QEMU), -counts[each]))
        guest, others = ranked[0], ranked[1:]
        why = "the only source in both captures"
        if others:
            kind = "QEMU's most" if guest.startswith(_QEMU) else "the most"
            shown = ", ".join(f"{text_of(each)} ({counts[each]:,})" for each in others[:_SHOWN])
            why = f"{kind} frequent source in both captures; also in both: {shown}"
    for contents in both:
        of_guest = contents.sources[guest]
        if of_guest.not_whole:
            what = f"{of_guest.not_whole:,} frames of the guest are not whole, {of_guest.example}"
            how = "nothing can be said of what is missing; capture whole frames (tcpdump -s 0)"
            raise CaptureError(f"{contents.capture.path}: {what}; {how}")
    return guest, why


def clocks_of(primary: Contents, secondary: Contents, guest: bytes) -> Difference | None:
    """What clients' frames say of the clocks; None if none is in both captures."""
    return difference(
        [
            ahead_ns
            for address, ours in primary.sources.items()
            if address != guest and (theirs := secondary.sources.get(address)) is not None
            for ahead_ns in ours.marks.ahead_of(theirs.marks)
        ]
    )


def _most_frequent(contents: Contents) -> list[str]:
    sources = contents.sources
    return [text_of(each) for each in sorted(sources, key=lambda each: -sources[each].count)]


def frames_of(
    capture: Capture, guest: bytes, shift_ns: int, told: Callable[[], None]
) -> Iterator[tuple[int, int, bytes]]:
    """Time, number in the capture and bytes of the guest's frames; times never go back."""
    latest_ns = 0
    number = 0
    for batch in capture.frames():
        for number, (time_ns, frame, _) in enumerate(batch, number + 1):  # noqa: B020
            if frame[_SOURCE] == guest:
                latest_ns = max(latest_ns, time_ns + shift_ns)
                yield latest_ns, number, frame
        told()
