"""Captures: every form is read exactly, and two of them are compared as COLO would have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import colosim
from colosim.pcap import CaptureError
from colosim.pcap.reading import Capture
from tests.captures import (
    ACK,
    CLIENT,
    FIN,
    GUEST,
    PSH,
    START_NS,
    SYN,
    Pair,
    S,
    block,
    ethernet,
    interface,
    packet,
    pcap,
    pcapng,
    section,
    tcp,
    udp,
)

FRAMES = [(START_NS + i * 1_234_567_000 + 89_000, bytes([i]) * (60 + i)) for i in range(5)]
FORMS = {
    "us, little": pcap(FRAMES, nano=False),
    "us, big": pcap(FRAMES, nano=False, order=">"),
    "ns, little": pcap(FRAMES),
    "ns, big": pcap(FRAMES, order=">"),
    "modified, little": pcap(FRAMES, modified=True),
    "modified, big": pcap(FRAMES, modified=True, order=">"),
    "pcapng, little": pcapng(FRAMES),
    "pcapng, big": pcapng(FRAMES, order=">"),
}


def read(data: bytes, directory: Path) -> tuple[list[tuple[int, bytes]], Capture]:
    path = directory / "read.pcap"
    path.write_bytes(data)
    capture = Capture(path)
    return [(r.time_ns, r.frame) for batch in capture.frames() for r in batch], capture


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_to_the_byte_and_the_nanosecond(tmp_path, form):
    found, capture = read(FORMS[form], tmp_path)
    assert found == FRAMES
    assert capture.form == form.split(",")[0].replace("us", "pcap").replace("ns", "pcap").replace(
        "modified", "pcap"
    )
    assert capture.notes == []


def test_the_length_on_the_wire_is_kept(tmp_path):
    path = tmp_path / "short.pcap"
    path.write_bytes(pcap(FRAMES, snap=50))
    [batch] = Capture(path).frames()
    assert [(len(r.frame), r.wire_bytes) for r in batch] == [(50, 60 + i) for i in range(5)]


@pytest.mark.parametrize("order", "<>")
def test_interfaces_have_their_own_clocks(tmp_path, order):
    half_past_ns = START_NS + S // 2
    other_s = 1_000_000_000
    data = b"".join(
        [
            section(order),
            interface(order),  # microseconds unless it says otherwise
            block(order, 4, b"names are not read"),
            interface(order, resolution=0x80 | 10),
            interface(order, resolution=9, offset_s=other_s),
            packet(order, START_NS // 1000, b"a" * 61, 0),
            packet(order, half_past_ns * 1024 // S, b"b" * 62, 1),
            packet(order, START_NS - other_s * S, b"c" * 63, 2),
            packet(order, START_NS // 1000, b"d" * 64, 0, old=True),
            block(order, 5, b"statistics"),
        ]
    )
    found, _ = read(data, tmp_path)
    assert found == [
        (START_NS, b"a" * 61),
        (half_past_ns, b"b" * 62),
        (START_NS, b"c" * 63),
        (START_NS, b"d" * 64),
    ]


def test_a_new_section_has_its_own_byte_order_and_interfaces(tmp_path):
    found, _ = read(pcapng(FRAMES[:2]) + pcapng(FRAMES[2:], order=">"), tmp_path)
    assert found == FRAMES


def test_chunks_are_joined(tmp_path):
    frames = [(START_NS + i, bytes([i % 256]) * 60_000) for i in range(60)]
    for data in (pcap(frames), pcapng(frames)):
        found, _ = read(data, tmp_path)
        assert found == frames


@pytest.mark.parametrize("form", ["us, little", "ns, big", "modified, big", "pcapng, little"])
def test_a_last_record_that_is_not_whole_is_left_out_and_told(tmp_path, form):
    data = FORMS[form]
    whole = {"us, little": 16, "ns, big": 16, "modified, big": 24, "pcapng, little": 12 + 20 + 20}
    last = whole[form] + 64
    for cut in range(1, last):
        found, capture = read(data[:-cut], tmp_path)
        assert found == FRAMES[:-1]
        [note] = capture.notes
        assert note == f"{capture.path}: the last record is not whole and was left out"
    found, capture = read(data[:-last], tmp_path)
    assert (found, capture.notes) == (FRAMES[:-1], [])


BAD = {
    "is empty": b"",
    "is no capture file": b"GIF89a" + bytes(100),
    "is no capture": b"\xa1\xb2\xc3",
    "is compressed; unpack it first": b"\x1f\x8b\x08" + bytes(100),
    "link type 113 (Linux cooked), not Ethernet (1); do not capture on 'any'": pcap([], link=113),
    "link type 105 (802.11)": pcap([], link=105),
    "link type 147": pcap([], link=147),
    "link type 276": section("<") + interface("<", link=276) + packet("<", 0, b"x" * 60),
    "frame 2 says that it has 4294967295 bytes; the file is damaged": pcap(FRAMES[:1])
    + b"\xff" * 16
    + bytes(100),
    "block of 4294967292 bytes": section("<") + b"\x06\0\0\0\xfc\xff\xff\xff" + bytes(100),
    "block of 13 bytes": section("<") + b"\x06\0\0\0\x0d\0\0\0" + bytes(100),
    "unknown byte order": b"\x0a\x0d\x0d\x0a" + bytes(24),
    "frame of interface 0, which it does not describe": section("<") + packet("<", 0, b"x" * 60),
    "frame of 4096 bytes in a smaller block": section("<")
    + interface("<")
    + packet("<", 0, b"x" * 60).replace(b"\x3c\0\0\0\x3c\0\0\0", b"\0\x10\0\0\0\x10\0\0"),
    "packet block that is too short": section("<") + interface("<") + block("<", 6, b"1234"),
    "frames without a time": section("<") + interface("<") + block("<", 3, b"1234" + b"x" * 60),
    "describes an interface wrongly": section("<") + block("<", 1, b""),
}


@pytest.mark.parametrize("says", BAD)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, says):
    with pytest.raises(CaptureError) as raised:
        read(BAD[says], tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'read.pcap'}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def is_read_or_refused(data: bytes, directory: Path) -> bool:
    try:
        found, _ = read(data, directory)
    except CaptureError as error:
        return "\n" not in str(error)
    return all(len(frame) <= len(data) for _, frame in found)


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_damage_is_a_capture_error_or_frames(tmp_path_factory, form, data):
    changed = bytearray(FORMS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    assert is_read_or_refused(bytes(changed[:cut]), tmp_path_factory.getbasetemp())


@given(st.binary(max_size=300))
@example(b"\x0a\x0d\x0d\x0a")
def test_any_bytes_are_a_capture_error_or_frames(tmp_path_factory, noise):
    for head in (b"", FORMS["ns, big"][:24], section("<"), section(">") + interface(">")):
        assert is_read_or_refused(head + noise, tmp_path_factory.getbasetemp())


def test_what_is_no_regular_file_is_told(tmp_path):
    for path, says in (
        (tmp_path, "is a directory"),
        (tmp_path / "missing", "No such file"),
        (Path("/dev/zero"), "is not a regular file"),
    ):
        with pytest.raises(CaptureError, match=says):
            list(Capture(path).frames())


# -- comparing -----------------------------------------------------------------------------------

OUR_ISN, THEIR_ISN, CLIENT_ISN = 1_000, 4_000_000_000, 500
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 02:00:00 GMT\r\n\r\nhello world"


def opened(pair: Pair, at_ms: float = 0.0, port: int = 40000) -> None:
    """Both guests accept a connection; the numbers after it are isn + 1."""
    pair.ours(at_ms, tcp(OUR_ISN, CLIENT_ISN + 1, SYN | ACK, port=port))
    pair.theirs(at_ms + pair.lag_ms, tcp(THEIR_ISN, CLIENT_ISN + 1, SYN | ACK, port=port))


def answered(
    pair: Pair,
    at_ms: float,
    ours: bytes = ANSWER,
    theirs: bytes | None = None,
    *,
    done: int = 0,
    their_isn: int = THEIR_ISN,
    port: int = 40000,
) -> None:
    """Both guests say something after ``done`` bytes."""
    ack = CLIENT_ISN + 1 + len(REQUEST)
    pair.ours(at_ms, tcp(OUR_ISN + 1 + done, ack, PSH | ACK, ours, port, ident=7))
    said = tcp(their_isn + 1 + done, ack, PSH | ACK, theirs or ours, port, ident=9)
    pair.theirs(at_ms + pair.lag_ms, said)


def compared(pair: Pair, directory: Path, mode: str = "strict", **more):
    found = colosim.compare_pcap(*pair.write(directory), mode, **more)
    check(found)
    return found


def check(found) -> None:
    """What is true of every comparison."""
    frames, values = found.frames, metrics(found)
    assert len(frames) == values["frames"] == found.primary.sources[mac(GUEST)].count
    parts = ("at_once", "after_waiting", "by_checkpoint", "lost", "held_at_end")
    assert sum(values[f"frames_{part}"] for part in parts) == len(frames)
    assert sum(found.reasons.values()) == values["checkpoints"] == len(found.checkpoints)
    left = frames[frames["released_s"].notna()]
    assert (left["hold_s"] >= 0).all()
    assert np.allclose(left["released_s"] - left["made_s"], left["hold_s"])
    assert list(frames["frame"]) == sorted(frames["frame"])
    covered = frames[frames["outcome"] == "checkpoint"]
    assert (covered["checkpoint"] >= 0).all()
    per_checkpoint = covered.groupby("checkpoint").size()
    expected = found.checkpoints["frames"]
    assert dict(per_checkpoint) == {i: n for i, n in enumerate(expected) if n}
    assert set(found.verdicts["checkpoint"].dropna()) == set(range(len(found.checkpoints)))


def metrics(found) -> dict[str, float]:
    table = found.summary()
    return dict(zip(table["metric"], table["value"], strict=True))


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@pytest.fixture(params=["strict", "qemu"])
def mode(request) -> str:
    return request.param


def test_equal_guests_are_released_when_the_second_has_spoken(tmp_path, mode):
    pair = Pair(lag_ms=2.5)
    opened(pair)
    for i in range(10):
        answered(pair, 10 + 10 * i, done=i * len(ANSWER))
    found = compared(pair, tmp_path, mode)
    assert list(found.frames["outcome"].unique()) == ["equal"]
    assert list(found.frames["hold_s"]) == pytest.approx([0.0025] * 11)
    assert found.verdicts.empty
    assert found.checkpoints.empty
    assert metrics(found)["hold_p99_ms"] == pytest.approx(2.5)


def test_a_secondary_that_is_ahead_costs_nothing(tmp_path, mode):
    pair = Pair(lag_ms=-1.0)
    opened(pair)
    answered(pair, 10)
    found = compared(pair, tmp_path, mode)
    assert list(found.frames["hold_s"]) == [0, 0]
    assert metrics(found)["frames_at_once"] == 2


def test_the_first_differing_byte_is_shown_with_both_sides(tmp_path, mode):
    pair = Pair()
    opened(pair)
    answered(pair, 10, theirs=ANSWER.replace(b"02:00:00", b"02:00:01"))
    answered(pair, 20, done=len(ANSWER))
    found = compared(pair, tmp_path, mode)
    [row] = found.verdicts.to_dict("records")
    assert row["time_s"] == pytest.approx(0.012)
    assert (row["what"], row["why"], row["checkpoint"], row["is_first"]) == (
        "differs",
        "content",
        0,
        True,
    )
    assert row["connection"] == "tcp 10.0.0.2:80 > 10.0.0.1:40000"
    assert (row["primary_frame"], row["secondary_frame"]) == (2, 2)
    at = ANSWER.index(b"02:00:00") + 7
    assert row["offset"] == at
    assert bytes.fromhex(row["ours"]) == ANSWER[at : at + 16]
    assert bytes.fromhex(row["theirs"]) == b"1" + ANSWER[at + 1 : at + 16]
    assert row["hold_s"] == pytest.approx(0.002)
    assert found.readable().splitlines() == [
        "0.012000 s  differs (content)  tcp 10.0.0.2:80 > 10.0.0.1:40000  "
        f"frame primary 2 and secondary 2  byte {at}",
        f"    primary    {ANSWER[at : at + 16].hex(' ')}  0 GMT....hello w",
        f"    secondary  31 {ANSWER[at + 1 : at + 16].hex(' ')}  1 GMT....hello w",
    ]
    assert list(found.frames["outcome"]) == ["equal", "checkpoint", "equal"]
    assert list(found.frames["checkpoint"]) == [-1, 0, -1]
    assert found.reasons == {"content": 1}
    assert found.repeated == 0


def test_numbers_of_the_secondary_are_found_out(tmp_path, mode):
    pair = Pair()
    opened(pair)
    for i in range(3):
        answered(pair, 10 * i + 10, done=i * len(ANSWER))
    for numbers in ("auto", "own"):
        found = compared(pair, tmp_path, mode, numbers=numbers)
        assert not len(found.verdicts)
        assert "numbers of 1 connections of the secondary were moved" in found.notes
    if mode == "strict":  # qemu does not look at numbers
        more = {"numbers": "translated", "compare_timeout_s": 0.015}
        assert set(compared(pair, tmp_path, mode, **more).reasons) == {"late"}


@pytest.mark.parametrize("numbers", ["auto", "translated"])
def test_translated_numbers_are_left_alone(tmp_path, numbers):
    pair = Pair()
    opened(pair)
    for i in range(3):
        answered(pair, 10 * i + 10, done=i * len(ANSWER), their_isn=OUR_ISN)
    assert not len(compared(pair, tmp_path, numbers=numbers).verdicts)
    assert len(compared(pair, tmp_path, numbers="own").verdicts)


def test_a_real_checkpoint_that_gives_the_secondary_our_numbers_is_noticed(tmp_path):
    pair = Pair()
    opened(pair)
    for i in range(6):
        isn = THEIR_ISN if i < 3 else OUR_ISN
        answered(pair, 10 * i + 10, done=i * len(ANSWER), their_isn=isn)
    found = compared(pair, tmp_path)
    assert not len(found.verdicts)
    assert any(note.startswith("1 connections went over to the primary") for note in found.notes)
    assert len(compared(pair, tmp_path, numbers="own").verdicts)


@pytest.mark.parametrize("apart", [3, 1_448, 70_000, 24_000_000, -70_000, 2**31])
@pytest.mark.parametrize("lag_ms", [4.0, -4.0, 25.0, -25.0])
@pytest.mark.parametrize("since", [0, 4, 99])
def test_numbers_are_found_out_however_near_they_are(tmp_path, apart, lag_ms, since):
    """A pair's guests were one a moment ago: their initial numbers follow one clock.

    From answer ``since`` on the capture shows the primary's numbers: all, some or none of them.
    """
    pair = Pair(lag_ms=lag_ms)
    pair.ours(0, tcp(OUR_ISN, 1, SYN | ACK))
    pair.theirs(lag_ms, tcp(OUR_ISN + apart, 1, SYN | ACK))
    done = 0
    for i in range(12):
        data = bytes([i]) * (100 + i * 37)
        their_isn = OUR_ISN + (0 if i >= since else apart)
        pair.ours(10 * i + 30, tcp(OUR_ISN + 1 + done, 1, ACK, data))
        pair.theirs(10 * i + 30 + lag_ms, tcp(their_isn + 1 + done, 1, ACK, data))
        done += len(data)
    pair.both(1_000, udp(b"end"))
    found = compared(pair, tmp_path, compare_timeout_s=0.2)
    assert found.verdicts.empty, (found.notes, found.readable())
    assert set(found.frames["outcome"]) == {"equal"}


def test_a_connection_without_beginning_has_unknown_numbers(tmp_path):
    pair = Pair()
    answered(pair, 10)
    answered(pair, 20, done=len(ANSWER))
    found = compared(pair, tmp_path)
    assert any("1 connections began before the captures" in note for note in found.notes)
    pair = Pair()
    answered(pair, 10, their_isn=OUR_ISN)
    assert not len(compared(pair, tmp_path).verdicts)


def test_numbers_that_wrap_around_and_ports_that_are_used_again(tmp_path, mode):
    pair = Pair()
    for i, isn in enumerate((2**32 - 30, 7, 2**31)):
        start_ms = 1_000 * i
        pair.ours(start_ms, tcp(isn, 1, SYN | ACK))
        pair.theirs(start_ms + 2, tcp(isn + 2**31 - 5, 1, SYN | ACK))
        pair.ours(start_ms + 10, tcp(isn + 1, 9, ACK, ANSWER))
        pair.theirs(start_ms + 12, tcp(isn + 2**31 - 4, 9, ACK, ANSWER))
        pair.ours(start_ms + 20, tcp(isn + 1 + len(ANSWER), 10, ACK | FIN))
        pair.theirs(start_ms + 22, tcp(isn + 2**31 - 4 + len(ANSWER), 10, ACK | FIN))
    found = compared(pair, tmp_path, mode)
    assert not len(found.verdicts)
    assert set(found.frames["outcome"]) == {"equal"}


def test_the_secondary_may_be_ahead_by_a_whole_connection(tmp_path):
    """Its numbers can be moved only when the primary's SYN is there, so it waits for that."""
    pair = Pair(lag_ms=-50)
    opened(pair)
    answered(pair, 10)
    answered(pair, 20, done=len(ANSWER))
    found = compared(pair, tmp_path)
    assert not len(found.verdicts)
    assert list(found.frames["hold_s"]) == [0, 0, 0]


def test_output_of_the_primary_alone_waits_for_the_timeout(tmp_path):
    pair = Pair()
    opened(pair)
    answered(pair, 10)
    pair.ours(20, udp(b"only here"))
    pair.both(2_000, udp(b"later", port=6000))
    found = compared(pair, tmp_path, compare_timeout_s=0.5)
    [row] = found.verdicts.to_dict("records")
    assert (row["what"], row["why"], row["primary_frame"]) == ("late", "late", 3)
    assert row["time_s"] == pytest.approx(0.520)
    assert row["hold_s"] == pytest.approx(0.5)
    assert found.reasons == {"late": 1}
    assert metrics(found)["hold_max_ms"] == pytest.approx(500)


def test_output_of_the_secondary_alone_is_late_once(tmp_path):
    """It is not said again after the checkpoint that it causes."""
    pair = Pair()
    pair.both(0, udp(b"first"))
    pair.theirs(20, udp(b"only there"))
    pair.both(10_000, udp(b"last"))
    found = compared(pair, tmp_path, compare_timeout_s=0.5)
    [row] = found.verdicts.to_dict("records")
    assert (row["what"], row["secondary_frame"]) == ("late", 2)
    assert list(found.frames["outcome"]) == ["equal", "equal"]


def test_mode_qemu_looks_at_ages_by_its_scans(tmp_path):
    pair = Pair()
    pair.ours(100, udp(b"only here"))
    pair.both(9_000, udp(b"later"))
    found = compared(pair, tmp_path, "qemu", compare_timeout_s=0.5)
    [row] = found.verdicts.to_dict("records")
    assert 0.5 < row["hold_s"] <= 1.5


# -- the checkpoints that the captured secondary did not have -------------------------------------


def test_what_a_checkpoint_covered_and_the_secondary_says_late_is_left_out(tmp_path, mode):
    """A difference on one connection cuts another whose frames are on their way."""
    pair = Pair()
    pair.both(0, udp(b"one", port=1))
    pair.ours(10, udp(b"mine", port=1))
    pair.ours(11, udp(b"covered", port=2))
    pair.theirs(12, udp(b"hers", port=1))  # the cut
    pair.theirs(13, udp(b"covered", port=2))
    pair.both(20, udp(b"next", port=2))
    found = compared(pair, tmp_path, mode)
    assert len(found.verdicts) == 1
    assert list(found.frames["outcome"]) == ["equal", "checkpoint", "checkpoint", "equal"]
    assert "1 frames of the secondary were left out: a checkpoint covered them" in found.notes


def test_what_the_secondary_said_ahead_of_a_checkpoint_it_says_again(tmp_path, mode):
    pair = Pair()
    pair.both(0, udp(b"one", port=1))
    pair.theirs(9, udp(b"ahead", port=2))
    pair.ours(10, udp(b"mine", port=1))
    pair.theirs(12, udp(b"hers", port=1))  # the cut
    pair.ours(13, udp(b"ahead", port=2))
    pair.both(5_000, udp(b"end", port=1))
    found = compared(pair, tmp_path, mode)
    assert len(found.verdicts) == 1
    assert list(found.frames["outcome"]) == ["equal", "checkpoint", "equal", "equal"]
    assert found.frames["hold_s"][2] == 0
    assert "1 frames of the secondary were taken again after a checkpoint" in found.notes


def test_tcp_goes_on_after_a_checkpoint_whoever_was_ahead(tmp_path, mode):
    """Segments are cut differently, and a cut on another connection falls into their middle."""
    pair = Pair()
    opened(pair)
    data = bytes(range(200)) * 10
    ack = CLIENT_ISN + 1
    pair.ours(10, tcp(OUR_ISN + 1, ack, ACK, data[:500]))
    pair.theirs(11, tcp(THEIR_ISN + 1, ack, ACK, data[:700]))  # ahead by 200
    pair.ours(12, udp(b"mine"))
    pair.theirs(13, udp(b"hers"))  # the cut
    pair.ours(14, tcp(OUR_ISN + 501, ack, ACK, data[500:700]))
    pair.ours(15, tcp(OUR_ISN + 701, ack, ACK, data[700:1200]))
    pair.ours(16, udp(b"mine too"))
    pair.theirs(17, udp(b"hers too"))  # the cut, and 500 bytes are covered
    pair.theirs(18, tcp(THEIR_ISN + 701, ack, ACK, data[700:1100]))
    pair.theirs(19, tcp(THEIR_ISN + 1101, ack, ACK, data[1100:1500]))
    pair.ours(20, tcp(OUR_ISN + 1201, ack, ACK, data[1200:1500]))
    pair.both(30, udp(b"end"))
    found = compared(pair, tmp_path, mode, compare_timeout_s=0.2)
    assert list(found.verdicts["connection"].str[:3]) == ["udp", "udp"]
    outcomes = dict(zip(found.frames["frame"], found.frames["outcome"], strict=True))
    assert [outcomes[i] for i in (2, 4, 5, 7)] == ["equal", "equal", "checkpoint", "equal"]


def test_an_acknowledgement_ahead_is_said_again(tmp_path):
    pair = Pair()
    opened(pair)
    pair.theirs(9, tcp(THEIR_ISN + 1, CLIENT_ISN + 1001, ACK))
    pair.ours(10, udp(b"mine"))
    pair.theirs(11, udp(b"hers"))  # the cut
    pair.ours(12, tcp(OUR_ISN + 1, CLIENT_ISN + 1001, ACK))
    pair.both(4_000, udp(b"end"))
    found = compared(pair, tmp_path)
    assert len(found.verdicts) == 1
    assert list(found.frames["outcome"])[2] == "equal"


def test_answers_of_other_lengths_are_told_as_repeated(tmp_path):
    """After that the captured secondary is at another byte, which no checkpoint mends here."""
    pair = Pair()
    opened(pair)
    pair.ours(10, tcp(OUR_ISN + 1, 600, ACK, b"x" * 100))
    pair.theirs(12, tcp(THEIR_ISN + 1, 600, ACK, b"y" * 120))
    for i in range(5):
        at_ms = 5_000 * (i + 1)
        pair.ours(at_ms, tcp(OUR_ISN + 101 + 50 * i, 600, ACK, bytes([i]) * 50))
        pair.theirs(at_ms + 2, tcp(THEIR_ISN + 121 + 50 * i, 600, ACK, bytes([i]) * 50))
    found = compared(pair, tmp_path)
    assert found.repeated == sum(found.reasons.values()) - 1 > 0
    assert not found.verdicts["is_first"][1:].any()
    assert any("had caused one; after" in note for note in found.notes)


def test_a_pause_holds_what_is_made_meanwhile(tmp_path):
    pair = Pair(lag_ms=1)
    pair.ours(0, udp(b"mine"))
    pair.theirs(1, udp(b"hers"))  # checkpoint from 1 to 41 ms
    pair.both(10, udp(b"during"))
    pair.both(100, udp(b"after"))
    found = compared(pair, tmp_path, checkpoint_pause_s=0.040)
    assert list(found.frames["hold_s"]) == pytest.approx([0.041, 0.031, 0.001])
    assert list(found.frames["outcome"]) == ["checkpoint", "equal", "equal"]


def test_bursts_of_datagrams_are_a_storm_in_mode_qemu_only(tmp_path):
    pair = Pair(lag_ms=0.5)
    for i in range(20):
        for j in range(4):
            pair.both(10 * i + 0.1 * j, udp(b"%d %d" % (i, j)))
    assert not len(compared(pair, tmp_path, "strict").verdicts)
    found = compared(pair, tmp_path, "qemu")
    assert found.reasons == {"content": 20}


# -- clocks --------------------------------------------------------------------------------------


def test_clocks_that_differ_are_told_and_set_right(tmp_path, mode):
    pair = Pair(lag_ms=2 - 60_000)
    opened(pair)
    answered(pair, 10)
    with pytest.raises(
        CaptureError, match=r"s\.pcap: ends before .*p\.pcap begins, by 59\.98"
    ) as e:
        compared(pair, tmp_path, mode)
    assert "--offset" in str(e.value)
    found = compared(pair, tmp_path, mode, offset_s=60.0)
    assert list(found.frames["hold_s"]) == pytest.approx([0.002, 0.002])
    with pytest.raises(CaptureError, match="begins after"):
        compared(pair, tmp_path, mode, offset_s=120.0)


def test_a_capture_that_ends_early_is_told(tmp_path):
    pair = Pair()
    for i in range(10):
        pair.ours(1_000 * i, udp(b"%d" % i))
        if i < 4:
            pair.theirs(1_000 * i + 1, udp(b"%d" % i))
    found = compared(pair, tmp_path)
    assert any("ends 5.999 s before the primary's" in note for note in found.notes)
    assert found.reasons == {"late": 1}
    assert list(found.frames["outcome"]).count("held") == 3
    assert "3 frames were still held when the captures ended" in found.notes


def test_frames_out_of_order_do_not_turn_time_back(tmp_path, mode):
    pair = Pair()
    pair.both(0, udp(b"a"))
    pair.both(10, udp(b"b"))
    paths = pair.write(tmp_path)
    paths[0].write_bytes(pcap(pair.primary[::-1]))
    found = colosim.compare_pcap(*paths, mode)
    check(found)
    assert any("1 frames are earlier than the one before" in note for note in found.notes)


def asked(at_ms: float, pair: Pair, text: bytes, seq: int) -> None:
    """A client's request to both; a rewriter has changed what it acknowledges at the secondary."""
    pair.ours(at_ms, tcp(seq, OUR_ISN + 1, PSH | ACK, text, from_client=True))
    pair.theirs(at_ms + pair.lag_ms, tcp(seq, THEIR_ISN + 1, PSH | ACK, text, from_client=True))


def test_frames_of_clients_tell_the_clocks(tmp_path):
    pair = Pair(lag_ms=-734)
    opened(pair)
    for i in range(9):
        asked(100 * i, pair, b"GET %d" % i, CLIENT_ISN + 1 + 5 * i)
        asked(100 * i + 1, pair, b"again", CLIENT_ISN)  # said twice and more: marks nothing
        answered(pair, 100 * i + 10, done=i * len(ANSWER))
    found = compared(pair, tmp_path)
    assert (
        "by 9 frames of clients the secondary's clock is 734.0 ms behind (90 %: 734.0 to 734.0 "
        "ms), but 0.0 ms are added; --offset auto adds the former"
    ) in found.notes
    found = compared(pair, tmp_path, offset_s="auto")
    assert found.settings["offset_s"] == 0.734
    assert not any("clock" in note for note in found.notes)
    assert set(found.frames["hold_s"]) == {0}


def test_clocks_that_drift_are_told(tmp_path):
    pair = Pair()
    opened(pair)
    for i in range(11):
        pair.lag_ms = 10 * i
        asked(100 * i, pair, b"GET %d" % i, CLIENT_ISN + 1 + 5 * i)
    found = compared(pair, tmp_path, offset_s="auto")
    [note] = [note for note in found.notes if "clock" in note]
    assert note.startswith("by 11 frames of clients the secondary's clock is -50.0 ms behind (90 ")
    assert "added" not in note


def test_an_offset_that_nothing_tells_must_be_given(tmp_path):
    pair = Pair()
    opened(pair)
    with pytest.raises(CaptureError, match=r"s\.pcap: holds no frame of a client that is in the"):
        compared(pair, tmp_path, offset_s="auto")


# -- the guest -----------------------------------------------------------------------------------


def both_directions(directory: Path) -> tuple[Path, Path]:
    """An upload: the client sends more frames than the guest."""
    pair = Pair()
    opened(pair)
    for i in range(5):
        data = tcp(CLIENT_ISN + 1 + 9 * i, OUR_ISN + 1, ACK, b"x" * 9, from_client=True)
        pair.both(10 * i, data)
    pair.ours(60, tcp(OUR_ISN + 1, CLIENT_ISN + 46, ACK))
    pair.theirs(61, tcp(THEIR_ISN + 1, CLIENT_ISN + 46, ACK))
    return pair.write(directory)


def test_only_the_guest_is_compared_and_it_is_said_which(tmp_path):
    paths = both_directions(tmp_path)
    found = colosim.compare_pcap(*paths)
    assert (found.guest, len(found.frames), found.primary.frames) == (GUEST, 2, 7)
    assert list(found.frames["frame"]) == [1, 7]
    assert found.notes[0] == (
        f"guest {GUEST}: QEMU's most frequent source in both captures; also in both: {CLIENT} (10)"
    )
    other = colosim.compare_pcap(*paths, guest=CLIENT.upper().replace(":", "-"))
    assert (other.guest, len(other.frames)) == (CLIENT, 5)
    assert other.notes[0] == f"guest {CLIENT}: as given"


def test_a_guest_that_is_not_there_is_told(tmp_path):
    paths = both_directions(tmp_path)
    with pytest.raises(CaptureError, match=f"has no frame from .*, only from {CLIENT}, {GUEST}"):
        colosim.compare_pcap(*paths, guest="00:00:00:00:00:01")
    with pytest.raises(CaptureError, match="'x' is no MAC address"):
        colosim.compare_pcap(*paths, guest="x")
    paths[1].write_bytes(pcap([(START_NS, ethernet(b"x" * 50, source="02:00:00:00:00:09"))]))
    with pytest.raises(CaptureError, match="no source MAC address is in both"):
        colosim.compare_pcap(*paths)
    paths[1].write_bytes(pcap([]))
    with pytest.raises(CaptureError, match=r"s\.pcap: holds no frames"):
        colosim.compare_pcap(*paths)


def test_frames_cut_short_by_the_capture_are_refused_only_of_the_guest(tmp_path):
    paths = both_directions(tmp_path)
    pair = Pair()
    answered(pair, 0)
    pair.both(1, tcp(1, 1, ACK, b"x" * 1000, from_client=True))
    paths[0].write_bytes(pcap(pair.primary, snap=90))
    with pytest.raises(CaptureError, match=r"1 frames of the guest are not whole, frame 1 has 90"):
        colosim.compare_pcap(*paths)
    paths[0].write_bytes(pcap(pair.primary, snap=500))
    assert len(colosim.compare_pcap(*paths).frames) == 1


# -- at large ------------------------------------------------------------------------------------


def test_the_same_file_twice_is_equal(tmp_path, mode):
    paths = both_directions(tmp_path)
    found = colosim.compare_pcap(paths[0], paths[0], mode)
    assert not len(found.verdicts)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mode": "loose"}, "mode 'loose' is unknown; use one of strict, qemu"),
        ({"numbers": "mine"}, "numbers 'mine' is unknown; use one of auto, own, translated"),
        ({"compare_timeout_s": 0.0}, "compare_timeout_s must be positive"),
        ({"checkpoint_pause_s": -1.0}, "checkpoint_pause_s must not be negative"),
        ({"offset_s": float("nan")}, "offset_s must be a finite number or 'auto'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, says):
    with pytest.raises(CaptureError, match=says):
        colosim.compare_pcap(*both_directions(tmp_path), **change)


@given(st.data())
def test_any_frames_can_be_compared(tmp_path_factory, data):
    """Arbitrary frames of both guests at arbitrary times: no exception, and every frame counted."""
    known = [
        udp(b"a"),
        udp(b"b"),
        tcp(OUR_ISN, 1, SYN | ACK),
        tcp(THEIR_ISN, 1, SYN | ACK),
        tcp(OUR_ISN + 1, 2, ACK, b"abc"),
        tcp(OUR_ISN + 4, 3, ACK | FIN, b"def"),
        tcp(THEIR_ISN + 1, 3, ACK, b"abcdef"),
        ethernet(b"", kind=0x86DD),
    ]
    frames = st.sampled_from(known) | st.binary(max_size=80).map(ethernet)
    said = st.lists(st.tuples(st.integers(0, 6_000), frames), max_size=30)
    pair = Pair()
    pair.both(0, udp(b"begin"))  # so that the captures overlap
    pair.both(6_000, udp(b"end"))
    for at_ms, frame in data.draw(said):
        pair.ours(at_ms, frame)
    for at_ms, frame in data.draw(said):
        pair.theirs(at_ms, frame)
    more = {
        "mode": data.draw(st.sampled_from(["strict", "qemu"])),
        "numbers": data.draw(st.sampled_from(["auto", "own", "translated"])),
        "compare_timeout_s": data.draw(st.sampled_from([0.1, 3.0])),
        "checkpoint_pause_s": data.draw(st.sampled_from([0.0, 0.5])),
    }
    compared(pair, tmp_path_factory.getbasetemp(), **more)


GROWTH = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import colosim
from tests.captures import ACK, SYN, START_NS, pcap, tcp

def write(path, isn, lag_ns):
    head = pcap([(START_NS + lag_ns, tcp(isn, 1, SYN | ACK))])
    with open(path, "wb") as file:
        file.write(head)
        for i in range({count}):
            data = i.to_bytes(8, "big") * 181
            file.write(pcap([(START_NS + 1_000_000 * (i + 1) + lag_ns,
                tcp(isn + 1 + i * len(data), 1, ACK, data))])[24:])

write("p", 1000, 0), write("s", 5000, 400_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = colosim.compare_pcap("p", "s", {mode!r})
assert len(found.verdicts) == 0 and len(found.frames) == {count} + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_files(tmp_path, mode):
    """Ten times the frames, 45 MB more of capture on both sides, but a few MB more of memory."""
    root = str(Path(__file__).parents[1])
    peaks_kb = []
    for count in (3_000, 30_000):
        code = GROWTH.format(root=root, count=count, mode=mode)
        arguments = [sys.executable, "-c", code]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path)
        peaks_kb.append(int(done.stdout))
    assert (tmp_path / "p").stat().st_size > 45_000_000
    assert peaks_kb[1] - peaks_kb[0] < 12_000
