"""The codec against literal bytes (`qemu-colo.md` 1.2, 2.1-2.2; `live-recipes.md` 1), and junk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.codec import (
    EMPTY,
    MAX_STATE_BYTES,
    Decoder,
    Fault,
    RamBulk,
    encode,
    encode_state,
)
from colosim.protocol.dialect import DIALECTS, RFC2014, UPSTREAM, Message
from colosim.protocol.types import Blob, Role, State

RAM, DEVICE = Blob("ram-1", 8_192, "r"), Blob("device-1", 105_007, "d")
STATE = State(ram=RAM, device=DEVICE)

PAGE = bytes(range(256)) * 16

# ------------------------------------------------------------------------------------ literal bytes

MESSAGES = {
    "upstream": {  # COLOMessage, big-endian u32
        Message.READY: "00000000",
        Message.REQUEST: "00000001",
        Message.REPLY: "00000002",
        Message.SEND: "00000003",
        Message.SIZE: "00000004",
        Message.RECEIVED: "00000005",
        Message.LOADED: "00000006",
    },
    "rfc2014": {  # COLO_READY = 0x46 and on, big-endian u64; the size has no message
        Message.READY: "0000000000000046",
        Message.REQUEST: "0000000000000047",
        Message.REPLY: "0000000000000048",
        Message.SEND: "0000000000000049",
        Message.RECEIVED: "000000000000004a",
        Message.LOADED: "000000000000004b",
    },
}
FROM_SECONDARY = (Message.READY, Message.REPLY, Message.RECEIVED, Message.LOADED)
dialects = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def decode(dialect, reads_from, chunks):
    decoder = Decoder(dialect, reads_from)
    return [item for chunk in chunks for item in decoder.feed(chunk)]


@dialects
def test_messages_have_the_reference_values(dialect):
    assert set(dialect.values) == set(MESSAGES[dialect.name])
    for message, digits in MESSAGES[dialect.name].items():
        assert encode(dialect, message).hex() == digits


@dialects
def test_the_way_back_is_messages_only(dialect):
    stream = bytes.fromhex("".join(MESSAGES[dialect.name][message] for message in FROM_SECONDARY))
    assert decode(dialect, Role.SECONDARY, [stream]) == list(FROM_SECONDARY)


def test_state_on_the_wire():
    assert encode_state(UPSTREAM, STATE) == (
        bytes.fromhex("00000003"),
        RAM,
        bytes.fromhex("00000004 0000000000019a2f"),
        DEVICE,
    )
    assert encode_state(RFC2014, STATE) == (
        bytes.fromhex("0000000000000049 000000000001ba2f"),
        RAM,
        DEVICE,
    )


def upstream_checkpoint(ram, device):
    """P -> S of `qemu-colo.md` 2.2: request, vmstate-send, RAM, vmstate-size, devices."""
    size = len(device).to_bytes(8, "big")
    return b"".join(
        (bytes.fromhex("00000001 00000003"), ram, bytes.fromhex("00000004"), size, device)
    )


#: a page of block ram0, a zero page of the same block, end of section, footer, end of file
SECTION = b"".join(
    (
        bytes.fromhex("03 00000002"),
        bytes.fromhex("0000000000001008 04 72616d30") + PAGE,
        bytes.fromhex("0000000000002022 00"),
        bytes.fromhex("0000000000000010"),
        bytes.fromhex("7e 00000002"),
        bytes.fromhex("00"),
    )
)
#: QEMU 10.0 and 11.1 put a command before the section; the first record of a later checkpoint may
#: carry CONTINUE, without a name (`live-recipes.md` 1)
LATER_SECTION = b"".join(
    (
        bytes.fromhex("08 000b 0000"),
        bytes.fromhex("03 00000002"),
        bytes.fromhex("0000000000003028") + PAGE,
        bytes.fromhex("0000000000000010"),
        bytes.fromhex("7e 00000002"),
        bytes.fromhex("00"),
    )
)
#: a command with a payload (PING), two sections, nothing dirty in the second, long block name
OTHER_SECTIONS = b"".join(
    (
        bytes.fromhex("08 0002 0004 00000001"),
        bytes.fromhex("03 0000002a 0000000000005002 0f") + b"/rom@etc/tables" + b"\0",
        bytes.fromhex("0000000000000010 7e 0000002a"),
        bytes.fromhex("03 00000002 0000000000000010 7e 00000002"),
        bytes.fromhex("00"),
    )
)
DEVICES = bytes.fromhex("04 00000010 03637075") + bytes(20) + b"\0"
RAM_STREAMS = {
    "7.2": SECTION,
    "10.0": LATER_SECTION,
    "two sections": OTHER_SECTIONS,
    "nothing dirty": bytes.fromhex("00"),
}


@pytest.mark.parametrize("ram", RAM_STREAMS.values(), ids=RAM_STREAMS)
def test_upstream_checkpoint_of_real_bytes(ram):
    request, send, state = decode(UPSTREAM, Role.PRIMARY, [upstream_checkpoint(ram, DEVICES)])
    assert (request, send) == (Message.REQUEST, Message.SEND)
    assert state.ram.size == len(ram)
    assert state.device.size == len(DEVICES)
    assert state.ram.digest != state.device.digest


def test_one_checkpoint_after_another():
    stream = upstream_checkpoint(SECTION, DEVICES) + upstream_checkpoint(LATER_SECTION, DEVICES)
    items = decode(UPSTREAM, Role.PRIMARY, [stream])
    assert [type(item) for item in items] == [Message, Message, State] * 2
    first, second = items[2], items[5]
    assert first.ram != second.ram
    assert first.device == second.device


def test_rfc2014_checkpoint_of_real_bytes():
    stream = bytes.fromhex("0000000000000047 0000000000000049 0000000000000006") + b"state!"
    request, send, state = decode(RFC2014, Role.PRIMARY, [stream])
    assert (request, send) == (Message.REQUEST, Message.SEND)
    assert state.ram == EMPTY  # memory and devices are one
    assert state.device.size == 6


@dialects
def test_a_state_without_devices_is_complete_with_its_size(dialect):
    ram = b"\0" if dialect.ram_apart else b""
    size = bytes.fromhex("00000004") if dialect.ram_apart else b""
    send = encode(dialect, Message.SEND)
    *_, state = decode(dialect, Role.PRIMARY, [send + ram + size + bytes(8)])
    assert state.device.size == 0


# ------------------------------------------------------------------------------------- chunkings


@st.composite
def ram_streams(draw):
    """A checkpoint's RAM as QEMU would write it, and nothing else."""
    commands = st.binary(max_size=9).map(
        lambda body: b"\x08\x00\x0b" + len(body).to_bytes(2, "big") + body
    )
    names = st.none() | st.binary(max_size=255)  # None: CONTINUE

    def record(page, name, is_zero):
        flags = (0x02 if is_zero else 0x08) | (0x20 if name is None else 0)
        head = (page * 4096 | flags).to_bytes(8, "big")
        block = b"" if name is None else bytes((len(name),)) + name
        return head + block + (b"\0" if is_zero else PAGE)

    records = st.builds(record, st.integers(0, 1 << 30), names, st.booleans())

    def section(number, before, body):
        number_bytes = number.to_bytes(4, "big")
        end = bytes.fromhex("0000000000000010 7e") + number_bytes
        return before + b"\x03" + number_bytes + b"".join(body) + end

    sections = st.builds(
        section,
        st.integers(0, 2**32 - 1),
        st.just(b"") | commands,
        st.lists(records, max_size=4),
    )
    return b"".join(draw(st.lists(sections, max_size=3))) + b"\0"


def chunked(draw, stream):
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(st.data())
def test_chunking_makes_no_difference_upstream(data):
    ram, device = data.draw(ram_streams()), data.draw(st.binary(max_size=300))
    stream = upstream_checkpoint(ram, device)
    whole = decode(UPSTREAM, Role.PRIMARY, [stream])
    assert [item for item in whole if isinstance(item, Fault)] == []
    assert whole[-1].ram.size == len(ram)
    assert decode(UPSTREAM, Role.PRIMARY, chunked(data.draw, stream)) == whole


@given(st.data())
def test_chunking_makes_no_difference_rfc2014(data):
    body = data.draw(st.binary(max_size=300))
    stream = b"".join(
        (
            bytes.fromhex("0000000000000047 0000000000000049"),
            len(body).to_bytes(8, "big"),
            body,
            bytes.fromhex("0000000000000047"),
        )
    )
    whole = decode(RFC2014, Role.PRIMARY, [stream])
    assert [type(item) for item in whole] == [Message, Message, State, Message]
    assert decode(RFC2014, Role.PRIMARY, chunked(data.draw, stream)) == whole


def test_byte_by_byte():
    stream = upstream_checkpoint(SECTION, DEVICES) + upstream_checkpoint(LATER_SECTION, DEVICES)
    single = [stream[i : i + 1] for i in range(len(stream))]
    assert decode(UPSTREAM, Role.PRIMARY, single) == decode(UPSTREAM, Role.PRIMARY, [stream])


def test_the_digest_is_of_the_bytes():
    other = SECTION.replace(PAGE, PAGE[::-1])
    states = [decode(UPSTREAM, Role.PRIMARY, [upstream_checkpoint(ram, DEVICES)])[-1]
              for ram in (SECTION, SECTION, other)]  # fmt: skip
    assert states[0] == states[1] != states[2]


# ----------------------------------------------------------------------------------- round trips

sizes = st.integers(1, 1 << 38)
blobs = st.builds(Blob, st.text(max_size=8), sizes, st.text(max_size=8))


@given(st.sampled_from(list(DIALECTS.values())), st.lists(st.builds(State, blobs, blobs)))
def test_names_of_bytes_round_trip(dialect, states):
    chunks = [chunk for state in states for chunk in encode_state(dialect, state)]
    items = decode(dialect, Role.PRIMARY, chunks)
    assert items == [item for state in states for item in (Message.SEND, state)]


@given(ram_streams(), st.binary(max_size=300))
def test_bytes_round_trip(ram, device):
    """What `encode_state` announces for blobs is what their bytes are read by."""
    state = State(Blob("", len(ram), ""), Blob("", len(device), ""))
    first, _, size, _ = encode_state(UPSTREAM, state)
    _, read = decode(UPSTREAM, Role.PRIMARY, [first, ram, size, device])
    assert (read.ram.size, read.device.size) == (len(ram), len(device))
    head, *_ = encode_state(RFC2014, state)
    *_, read = decode(RFC2014, Role.PRIMARY, [head, ram, device])
    assert read.device.size == len(ram) + len(device)


# ----------------------------------------------------------------------------------------- faults

SEND = "00000003"
FAULTS = [
    ("upstream", Role.PRIMARY, ["00000007"], "invalid message 7"),
    ("upstream", Role.PRIMARY, ["ffffffff"], "invalid message 4294967295"),
    ("upstream", Role.PRIMARY, ["00000000"], "message ready from the wrong side"),
    ("upstream", Role.SECONDARY, ["00000001"], "message request from the wrong side"),
    ("upstream", Role.PRIMARY, ["00000004"], "message size where a message was expected"),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "00", "00000001"],
        "message request where the size message was expected",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "01"],
        "section type 0x01 in the RAM stream, expected 0x00, 0x03 or 0x08",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03 00000002 0000000000001040"],  # XBZRLE
        "RAM record flags 0x40 cannot be framed",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03 00000002 0000000000001004"],  # MEM_SIZE
        "RAM record flags 0x4 cannot be framed",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03 00000002 000000000000100a"],  # both a zero page and a page
        "RAM record flags 0xa cannot be framed",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03 00000002 0000000000000010 7e 00000003"],
        "RAM section ends with 7e00000003, expected 7e00000002",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03 00000002 0000000000000010 7f 00000002"],
        "RAM section ends with 7f00000002, expected 7e00000002",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "00", "00000004 0000010000000001"],
        "state of 1099511627777 bytes, more than the limit of 1099511627776",
    ),
    ("upstream", Role.PRIMARY, [RAM], "bulk data where a message was expected"),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, RAM, DEVICE],
        "bulk data where the size message was expected",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, "03", RAM],
        "bulk data where the RAM stream was expected",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, RAM, "00000004", RAM],
        "bulk data where a size was expected",
    ),
    (
        "upstream",
        Role.PRIMARY,
        [SEND, RAM, "00000004 0000000000000001", DEVICE],
        "state of 105007 bytes, announced 1",
    ),
    ("rfc2014", Role.SECONDARY, ["0000000000000045"], "invalid message 69"),
    ("rfc2014", Role.SECONDARY, ["0000004600000046"], "invalid message 300647710790"),
    ("rfc2014", Role.PRIMARY, ["000000000000004b"], "message loaded from the wrong side"),
    (
        "rfc2014",
        Role.PRIMARY,
        ["0000000000000049 000000000001ba2e", RAM, DEVICE],
        "state of 113199 bytes, announced 113198",
    ),
    (
        "rfc2014",
        Role.PRIMARY,
        ["0000000000000049 ffffffffffffffff"],
        "state of 18446744073709551615 bytes, more than the limit of 1099511627776",
    ),
]


@pytest.mark.parametrize(("name", "reads_from", "chunks", "why"), FAULTS)
def test_what_does_not_fit_is_one_fault(name, reads_from, chunks, why):
    dialect = DIALECTS[name]
    decoder = Decoder(dialect, reads_from)
    fed = [bytes.fromhex(chunk) if isinstance(chunk, str) else chunk for chunk in chunks]
    *_, last = (item for chunk in fed for item in decoder.feed(chunk))
    assert last == Fault(why)
    assert decoder.faulty
    # a stream out of step is never read again
    assert [*decoder.feed(encode(dialect, Message.READY)), *decoder.feed(RAM)] == []


def test_every_fault_text_is_tested_once():
    assert len({why for _, _, _, why in FAULTS}) == len(FAULTS)


def test_the_largest_state_is_no_fault():
    size = MAX_STATE_BYTES.to_bytes(8, "big")
    head = bytes.fromhex("0000000000000049") + size
    assert decode(RFC2014, Role.PRIMARY, [head]) == [Message.SEND]
    whole = Blob("all", MAX_STATE_BYTES, "")
    assert decode(RFC2014, Role.PRIMARY, [head, whole])[-1] == State(EMPTY, whole)


def test_bulk_bytes_are_not_kept():
    """A stream may be larger than memory: only the field being read is held."""
    ram = RamBulk()
    ram.feed(memoryview(bytes.fromhex("03 00000002 0000000000001008 00")))
    for _ in range(100):
        ram.feed(memoryview(PAGE))
        assert len(ram._have) == 0
        ram.feed(memoryview(bytes.fromhex("0000000000002028")))


# a mutated checkpoint is junk that gets far
genuine = st.sampled_from([upstream_checkpoint(ram, DEVICES) for ram in RAM_STREAMS.values()])
spoiled = st.tuples(genuine, st.integers(0, 200), st.binary(min_size=1, max_size=4)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
)
messages = st.sampled_from([bytes.fromhex(d) for each in MESSAGES.values() for d in each.values()])
junk = st.lists(st.binary(max_size=40) | messages | spoiled | blobs, max_size=20)


@given(st.sampled_from(list(DIALECTS.values())), st.sampled_from(Role), junk)
def test_junk_never_raises(dialect, reads_from, chunks):
    decoder = Decoder(dialect, reads_from)
    items = [item for chunk in chunks for item in decoder.feed(chunk)]
    assert all(not isinstance(item, Fault) for item in items[:-1])
    assert decoder.faulty == (bool(items) and isinstance(items[-1], Fault))
