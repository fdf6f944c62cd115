"""Frames of a capture file, pcap or pcapng, as a stream of bounded memory.

The layouts of both formats are dpkt's.  Its readers are not used, for four reasons: they do not say
how long a frame was on the wire, so that a frame cut short looks whole; of a pcapng file they know
the first interface and the first section only; times are floats, which hold no nanoseconds of
this century; and a length in a damaged file is believed and allocated.

Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng (IETF).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Literal, NamedTuple

import dpkt
from dpkt import pcap, pcapng

from colosim.pcap.errors import CaptureError

_CHUNK_BYTES = 1 << 20
#: no record is larger; libpcap's own limit for Ethernet is 256 KiB
_RECORD_MOST_BYTES = 1 << 24
_ETHERNET = 1
_SECOND_NS = 1_000_000_000
_COOKED = {113: "Linux cooked", 276: "Linux cooked"}
_LINK_NAMES = {0: "BSD loopback", 12: "raw IP", 101: "raw IP", 105: "802.11", **_COOKED}
_GZIP, _PCAPNG = b"\x1f\x8b", b"\x0a\x0d\x0d\x0a"
_NANO = (pcap.TCPDUMP_MAGIC_NANO, pcap.PMUDPCT_MAGIC_NANO)


class Record(NamedTuple):
    """A frame, when it was captured, and how long it was on the wire."""

    time_ns: int
    frame: bytes
    wire_bytes: int


@dataclass
class Capture:
    """A capture file; `frames` may be called again and begins anew.

    notes: what a reader should know, filled while frames are read.
    read_bytes: of all calls together.
    """

    path: Path
    form: str = ""
    notes: list[str] = field(default_factory=list)
    read_bytes: int = 0

    def frames(self) -> Iterator[list[Record]]:
        """All frames in the order of the file, some at a time; `CaptureError` if it cannot be."""
        self.notes.clear()
        try:
            if not self.path.is_file() and self.path.exists():
                what = "a directory" if self.path.is_dir() else "not a regular file"
                raise self._error(f"is {what}; give a capture file")
            with self.path.open("rb", buffering=0) as file:
                source = _Source(file)
                source.fill(4)
                if source.data.startswith(_GZIP):
                    raise self._error("is compressed; unpack it first (gunzip)")
                is_pcapng = source.data.startswith(_PCAPNG)
                self.form = "pcapng" if is_pcapng else "pcap"
                before_bytes = self.read_bytes
                for batch in (self._pcapng if is_pcapng else self._pcap)(source):
                    self.read_bytes = before_bytes + source.read_bytes
                    yield batch
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror or error}") from None

    def _error(self, text: str) -> CaptureError:
        return CaptureError(f"{self.path}: {text}")

    def _ends_early(self) -> None:
        self.notes.append(f"{self.path}: the last record is not whole and was left out")

    def _check_link(self, link: int) -> None:
        if link != _ETHERNET:
            name = f" ({_LINK_NAMES[link]})" if link in _LINK_NAMES else ""
            more = "; do not capture on 'any'" if link in _COOKED else ""
            raise self._error(f"has link type {link}{name}, not Ethernet (1){more}")

    # -- pcap ----------------------------------------------------------------------------------

    def _pcap(self, source: _Source) -> Iterator[list[Record]]:
        size = pcap.FileHdr.__hdr_len__
        whole = source.fill(size)
        if not source.data:
            raise self._error("is empty; give a capture file (pcap or pcapng)")
        magic = int.from_bytes(source.data[:4], "big")
        if not whole or magic not in pcap.MAGIC_TO_PKT_HDR:
            raise self._error("is no capture file (pcap or pcapng)")
        kind = pcap.MAGIC_TO_PKT_HDR[magic]
        header = pcap.LEFileHdr if kind.__hdr_fmt__[0] == "<" else pcap.FileHdr
        # above the link type are flags on a frame check sequence
        self._check_link(header(source.data[:size]).linktype & 0xFFFF)
        source.at = size
        yield from self._pcap_records(source, kind, 1 if magic in _NANO else 1000)

    def _pcap_records(self, source: _Source, kind: Any, unit_ns: int) -> Iterator[list[Record]]:
        # All kinds of record begin with seconds, fraction, captured and wire length.
        skip, fields = kind.__hdr_len__, Struct(kind.__hdr_fmt__[:5]).unpack_from
        number = 0
        needed = skip
        while source.fill(needed):
            data, at = source.data, source.at
            end, needed = len(data), skip
            batch: list[Record] = []
            while end - at >= skip:
                seconds, fraction, size, wire = fields(data, at)
                if size > _RECORD_MOST_BYTES:
                    where = f"frame {number + 1}"
                    raise self._error(f"{where} says that it has {size} bytes; the file is damaged")
                start = at + skip
                if start + size > end:
                    needed = skip + size
                    break
                at = start + size
                number += 1
                time_ns = seconds * _SECOND_NS + fraction * unit_ns
                batch.append(Record(time_ns, data[start:at], wire))
            source.at = at
            if batch:
                yield batch
        if source.left():
            self._ends_early()

    # -- pcapng --------------------------------------------------------------------------------

    def _pcapng(self, source: _Source) -> Iterator[list[Record]]:
        section = _Section(little=True)
        batch: list[Record] = []
        batch_bytes = 0
        while source.fill(12):
            if source.data.startswith(_PCAPNG, source.at):
                section = self._section(source.data[source.at + 8 : source.at + 12])
            kind, size = section.head(source.data, source.at)
            if size < 12 or size % 4 or size > _RECORD_MOST_BYTES:
                raise self._error(f"has a block of {size} bytes; the file is damaged")
            if not source.fill(size):
                break
            record = self._block(section, kind, source, size)
            source.at += size
            if record is not None:
                batch.append(record)
                batch_bytes += size
                if batch_bytes >= _CHUNK_BYTES:
                    yield batch
                    batch, batch_bytes = [], 0
        if batch:
            yield batch
        if source.left():
            self._ends_early()

    def _section(self, magic: bytes) -> _Section:
        number = int.from_bytes(magic, "big")
        if number not in (pcapng.BYTE_ORDER_MAGIC, pcapng.BYTE_ORDER_MAGIC_LE):
            raise self._error("has a section of unknown byte order; the file is damaged")
        return _Section(little=number == pcapng.BYTE_ORDER_MAGIC_LE)

    def _block(self, section: _Section, kind: int, source: _Source, size: int) -> Record | None:
        if kind in section.packets:
            return self._packet(section, section.packets[kind], source, size)
        if kind == pcapng.PCAPNG_BT_SPB:
            raise self._error("has frames without a time (simple packet blocks)")
        if kind == pcapng.PCAPNG_BT_IDB:
            try:
                section.add(source.data[source.at : source.at + size])
            except (dpkt.Error, UnicodeDecodeError) as error:
                raise self._error(f"describes an interface wrongly: {error}") from None
        return None  # names, statistics, secrets: of no use here

    def _packet(self, section: _Section, layout: _Layout, source: _Source, size: int) -> Record:
        if size < layout.start + 4:
            raise self._error("has a packet block that is too short; the file is damaged")
        fields = layout.fields(source.data, source.at)
        which, (high, low, captured, wire) = fields[2], fields[-4:]
        if which >= len(section.interfaces):
            raise self._error(f"has a frame of interface {which}, which it does not describe")
        interface = section.interfaces[which]
        if interface.link != _ETHERNET:
            self._check_link(interface.link)
        if layout.start + captured > size - 4:
            raise self._error(f"has a frame of {captured} bytes in a smaller block; it is damaged")
        start = source.at + layout.start
        time_ns = interface.time_ns(high << 32 | low)
        return Record(time_ns, source.data[start : start + captured], wire)


class _Layout(NamedTuple):
    """Of a packet block: its fields before the frame, and where that starts."""

    fields: Callable[[bytes, int], tuple[int, ...]]
    start: int


class _Interface(NamedTuple):
    """Of a section: its link type, how many ticks a second has, and what to add to its times."""

    link: int
    ticks_per_s: int
    offset_ns: int

    def time_ns(self, ticks: int) -> int:
        return ticks * _SECOND_NS // self.ticks_per_s + self.offset_ns


class _Section:
    """A section of a pcapng file: its byte order and its interfaces."""

    def __init__(self, little: bool) -> None:
        self._order: Literal["little", "big"] = "little" if little else "big"
        sign = "<" if little else ">"
        self.interfaces: list[_Interface] = []
        self.head = Struct(f"{sign}II").unpack_from
        self.packets = {
            pcapng.PCAPNG_BT_EPB: _layout(sign, pcapng.EnhancedPacketBlock),
            pcapng.PCAPNG_BT_PB: _layout(sign, pcapng.PacketBlock),
        }
        self._describe = (
            pcapng.InterfaceDescriptionBlockLE if little else pcapng.InterfaceDescriptionBlock
        )

    def add(self, block: bytes) -> None:
        """The next interface, of its description block."""
        about = self._describe(block)
        ticks_per_s, offset_s = 10**6, 0
        for option in about.opts:
            if option.code == pcapng.PCAPNG_OPT_IF_TSRESOL and option.data:
                power = option.data[0]
                ticks_per_s = 2 ** (power & 0x7F) if power & 0x80 else 10**power
            elif option.code == pcapng.PCAPNG_OPT_IF_TSOFFSET:
                offset_s = int.from_bytes(option.data[:8], self._order, signed=True)
        self.interfaces.append(_Interface(about.linktype, ticks_per_s, offset_s * _SECOND_NS))


def _layout(sign: str, kind: Any) -> _Layout:
    """The format of a block by dpkt ends with the second length, which stands behind the frame."""
    fields = Struct(sign + kind.__hdr_fmt__[1:-1])
    return _Layout(fields.unpack_from, fields.size)


class _Source:
    """A file read ahead by chunks: ``data[at:]`` is what was read and not yet taken."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.data = b""
        self.at = 0
        self.read_bytes = 0

    def fill(self, size: int) -> bool:
        """Have that many bytes in ``data`` from ``at`` on; False if the file ends before."""
        while len(self.data) - self.at < size:
            chunk = self._file.read(max(_CHUNK_BYTES, size))
            if not chunk:
                return False
            self.read_bytes += len(chunk)
            self.data = self.data[self.at :] + chunk
            self.at = 0
        return True

    def left(self) -> bool:
        """Something was read and not taken."""
        return self.at < len(self.data)
