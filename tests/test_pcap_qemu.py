"""Captures by genuine QEMU: what filter-dump writes is read back to the byte."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

import colosim
from colosim.pcap.reading import Capture
from tests.captures import ACK, SYN, S, tcp, udp

LIMIT_S = 60
RELEASES = [
    "qemu-system-x86_64",
    *filter(None, map(os.environ.get, ("COLOSIM_QEMU_10", "COLOSIM_QEMU_11"))),
]


def connected(path: Path, until_s: float) -> socket.socket:
    while True:
        link = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            link.connect(str(path))
            link.settimeout(LIMIT_S)
            return link
        link.close()
        assert time.monotonic() < until_s
        time.sleep(0.01)


def dumped(qemu: str, directory: Path, frames: list[bytes], back: list[bytes]) -> Path:
    """A capture of a link between two sockets, made by QEMU; ``back``: the other way."""
    directory.mkdir()
    path = directory / "dump.pcap"
    options = "-machine none -nodefaults -display none -no-user-config"
    for i in range(2):
        options += f" -netdev stream,id=n{i},server=on,addr.type=unix,addr.path={directory}/n{i}"
        options += f" -netdev hubport,id=hp{i},hubid=0,netdev=n{i}"
    options += f" -object filter-dump,id=d0,netdev=n0,file={path}"
    options += f" -qmp unix:{directory}/qmp,server=on,wait=off"
    process = subprocess.Popen([qemu, *options.split()], stderr=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + LIMIT_S
        monitor = connected(directory / "qmp", until_s)
        monitor.sendall(b'{"execute": "qmp_capabilities"}')
        said = b""
        while b'"return"' not in said:
            said += monitor.recv(65_536)
        client, guest = (connected(directory / f"n{i}", until_s) for i in range(2))
        # until QEMU has accepted both; what comes before is dropped
        while said.count(b"NETDEV_STREAM_CONNECTED") < 2:
            said += monitor.recv(65_536)
        with client, guest, monitor:
            for source, target, sent in ((guest, client, frames), (client, guest, back)):
                for frame in sent:
                    source.sendall(len(frame).to_bytes(4, "big") + frame)
                expected = sum(4 + len(frame) for frame in sent)
                got = 0
                while got < expected:
                    got += len(target.recv(65_536))
    finally:
        process.terminate()
        process.wait(LIMIT_S)
    return path


@pytest.mark.live
@pytest.mark.parametrize("qemu", RELEASES, ids=range(len(RELEASES)))
def test_filter_dump_is_read_to_the_byte_and_compared(tmp_path, qemu):
    if shutil.which(qemu) is None:
        pytest.skip(f"{qemu} is not installed")
    said = [tcp(7, 1, SYN | ACK), tcp(8, 2, ACK, b"x" * 1448), udp(b"hello")]
    heard = [tcp(1, 8, ACK, b"GET /", from_client=True)]
    before_ns = time.time_ns()
    primary = dumped(qemu, tmp_path / "p", said, heard)
    after_ns = time.time_ns()
    capture = Capture(primary)
    [records] = capture.frames()
    assert [record.frame for record in records] == said + heard
    assert [record.wire_bytes for record in records] == [len(frame) for frame in said + heard]
    assert capture.form == "pcap"
    assert capture.notes == []
    # filter-dump counts from a whole second, by the guest's clock
    assert all(before_ns - S <= record.time_ns <= after_ns for record in records)

    theirs = [tcp(700, 1, SYN | ACK), tcp(701, 2, ACK, b"x" * 1448), udp(b"hellO")]
    secondary = dumped(qemu, tmp_path / "s", theirs, heard)
    found = colosim.compare_pcap(primary, secondary, offset_s="auto")
    assert found.guest == "52:54:00:12:34:56"
    [row] = found.verdicts.to_dict("records")
    assert (row["why"], row["primary_frame"], row["secondary_frame"], row["offset"]) == (
        "content",
        3,
        3,
        4,
    )
    assert list(found.frames["outcome"]) == ["equal", "equal", "checkpoint"]
