"""Why two guests differed, from the bytes where they do."""

import pytest

import colosim
from colosim.sizing.causes import Place, causes_of, classify
from tests.captures import ACK, PSH, SYN, Pair, tcp, udp

HEAD = b"HTTP/1.1 200 OK\r\nServer: nginx\r\n"
DONE = b"HTTP/1.1 200 OK\r\n\r\n"
UUIDS = b"6f1c2b8e-9d1a-4a51-8f0b-2f6f0d9a7a11", b"0b7d53c4-11ef-4a02-b2c7-9c0f3a6c5d22"

#: name: (stream before, ours, theirs, kind, where)
CASES = {
    "Date": (HEAD + b"Date: Mon, 30 Nov 2026 03:15:0", b"1 GMT", b"2 GMT", "http-date", "Date"),
    "Expires": (HEAD + b"Expires: Mon, 30 Nov 2026 03:1", b"5:01", b"6:01", "http-date", "Expires"),
    "ETag": (HEAD + b'ETag: "5f', b'a1-20"\r\n', b'b2-20"\r\n', "etag", "ETag"),
    "cookie": (HEAD + b"set-cookie: sid=", b"a8Kd93hh", b"Zp10sl2M", "cookie", "set-cookie"),
    "length": (HEAD + b"Content-Length: 1", b"2\r\n", b"3\r\n", "length", "Content-Length"),
    "other field": (HEAD + b"X-Served-By: node", b"a\r\n", b"b\r\n", "http-field", "X-Served-By"),
    "field with an id": (HEAD + b"X-Thing: ", UUIDS[0], UUIDS[1], "random-id", "X-Thing"),
    "nothing there": (DONE, b"", b"", "length", ""),
    "status": (DONE + b"xHTTP/1.1 200 ", b"OK\r\n", b"No\r\n", "http-status", ""),
    "body: time in ms": (DONE + b'{"now": 17960', b"08511123}", b"08511467}", "timestamp", ""),
    "body: ISO": (DONE + b"at 2026-11-30T03:15:0", b"1Z", b"2Z", "timestamp", ""),
    "body: uuid": (DONE + b"id=" + UUIDS[0][:4], UUIDS[0][4:], UUIDS[1][4:], "random-id", ""),
    "body: pid": (DONE + b"pid: 1", b"234\n", b"301\n", "pid", ""),
    "body: counter": (DONE + b"visits 100", b"7\n", b"8\n", "counter", ""),
    "body: order": (DONE + b"[", b'"b","a"]', b'"a","b"]', "order", ""),
    "body: words": (DONE + b"hello ", b"world", b"there", "content", ""),
    "no HTTP: a Date is none": (b"Date: Mon", b"x y", b"z w", "content", ""),
    "binary": (b"\x00\x01", b"\x80\x00\x01", b"\x81\x00\x01", "binary", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_told_by_its_place(name):
    before, ours, theirs, kind, where = CASES[name]
    assert classify(Place("content", before[:16], before, ours, theirs)) == (kind, where)


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"\x16\x03\x03\x00\x7a\x02", ("tls", "handshake")),
        (b"\x17\x03\x03\x00\x7a\x02", ("tls", "handshake")),
        (b"SSH-2.0-OpenSSH", ("tls", "SSH")),
    ],
)
def test_an_encrypted_stream_is_told_by_how_it_begins(start, found):
    assert classify(Place("content", start, start, b"\x01\x02", b"\x03\x04")) == found


@pytest.mark.parametrize(
    ("why", "kind"),
    [("late", "late"), ("ack", "chunking"), ("control", "isn"), ("position", "chunking")],
)
def test_what_is_no_difference_of_bytes_has_its_own_kind(why, kind):
    assert classify(Place(why, b"", b"", b"", b"")) == (kind, "")


def answer(date: bytes, body: bytes) -> bytes:
    return HEAD + b"Date: Mon, 30 Nov 2026 03:15:" + date + b" GMT\r\n\r\n" + body


def http_pair(directory, differ):
    """40 answers on one connection; ``differ``: number -> (date, body) of the secondary."""
    pair = Pair()
    pair.both(0, tcp(999, 500, SYN | ACK))
    seq = {"ours": 1000, "theirs": 1000}
    for i in range(40):
        ask = tcp(500 + i, 0, ACK | PSH, b"G", from_client=True)
        pair.primary.append((pair.primary[0][0] + (100 * i + 10) * 1_000_000, ask))
        ours = answer(b"%02d" % i, b"item 4%02d!" % i)
        theirs = answer(*differ.get(i, (b"%02d" % i, b"item 4%02d!" % i)))
        assert len(ours) == len(theirs)
        pair.ours(100 * i + 20, tcp(seq["ours"], 501 + i, ACK | PSH, ours))
        pair.theirs(100 * i + 24, tcp(seq["theirs"], 501 + i, ACK | PSH, theirs))
        seq["ours"] += len(ours)
        seq["theirs"] += len(theirs)
    return pair.write(directory)


def test_differences_of_captures_are_counted_by_cause(tmp_path):
    differ = {5: (b"99", b"item 405!"), 9: (b"98", b"item 409!"), 20: (b"20", b"item 421!")}
    paths = http_pair(tmp_path, differ)
    found = colosim.compare_pcap(*paths, progress=lambda *_: None)
    causes = causes_of(found)
    assert [(each.name, each.events) for each in causes] == [
        ("http-date (Date)", 2),
        ("counter", 1),
    ]
    assert sum(each.share for each in causes) == pytest.approx(1)
    assert causes[0].example[0].startswith("05 GMT")
    assert causes[0].example[1].startswith("99 GMT")


def test_datagrams_have_no_before(tmp_path):
    pair = Pair()
    for i in range(10):
        pair.ours(10 * i, udp(b"HTTP/1.1 200 OK\r\nDate: %d" % i))
        pair.theirs(10 * i + 3, udp(b"HTTP/1.1 200 OK\r\nDate: %d" % (i if i != 4 else 7)))
    causes = causes_of(colosim.compare_pcap(*pair.write(tmp_path), progress=lambda *_: None))
    assert [each.name for each in causes] == ["http-date (Date)"]
