"""A replicated disk: its files, and what is asked of the two QEMUs that have it.

The primary's guest writes to a quorum of its own disk and, by NBD, the secondary's: a write is done
when both have it, and one that only our own has is reported.  The secondary's QEMU has the disk
below two overlays (QEMU's replication driver), so its guest sees the disk of the last checkpoint
and its own writes; loading a checkpoint empties both, leaving COLO merges what its guest wrote.
Recipe and traps: `live-recipes.md` 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from qemu.qmp.message import Message

from backends.qemu.asking import ask_program, last_line
from backends.qemu.errors import LiveError
from backends.qemu.launch import DISK_ROOT, OWN_DISK, REPLICATION, DiskFiles, Paths, Volume
from backends.qemu.qmp import Qmp, event_is

_EXPORT = "disk"
_LOOPBACK = "127.0.0.1"
_RESYNC_LIMIT_S = 120.0
_MERGE_LIMIT_S = 60.0
_LOOK_S = 0.005
_YANK_LIMIT_S = 2.0  # it takes some milliseconds
_PROGRAM_LIMIT_S = 60.0
_SBIN = ("/usr/sbin", "/sbin")  # not on every user's path

# --------------------------------------------------------------------------------------------
# Files


def program(name: str) -> str:
    """The path of one of e2fsprogs' programs; `LiveError` if it is not installed."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))
    if found is None:
        raise LiveError(f"{name}: not found; install the Debian package e2fsprogs")
    return found


def make(volume: Volume, paths: Paths, incoming: bool) -> None:
    """Make a host's files: a primary's disk as it shall be, a secondary's empty; `LiveError`."""
    files = DiskFiles.of(volume, paths)
    try:
        if incoming:
            _make_empty(files.disk, volume.size_bytes)
            for overlay in (files.hidden, files.active):
                overlay.write_bytes(empty_overlay(volume.size_bytes))
        elif volume.image is not None:
            copy_sparse(volume.image, files.disk)
        else:
            make_disk(files.disk, volume.size_bytes)
    except OSError as error:
        where = error.filename or files.disk
        raise LiveError(
            f"guest.volume: {where}: {error.strerror}; give a directory with room"
        ) from None


def make_disk(path: Path, size_bytes: int) -> None:
    """Make an empty ext4; OSError, or `LiveError` where e2fsprogs cannot."""
    _make_empty(path, size_bytes)
    # all of it now: the guest's kernel would go on with it for minutes
    options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    command = [program("mke2fs"), *("-t", "ext4", "-q", "-F", "-m", "0", "-E", options), str(path)]
    said = ask_program(command, _PROGRAM_LIMIT_S)
    if said.status != 0:
        raise LiveError(f"guest.volume: mke2fs failed: {last_line(said.err)}; give another size")


def _make_empty(path: Path, size_bytes: int) -> None:
    with path.open("xb") as file:
        file.truncate(size_bytes)


def copy_sparse(source: Path, to: Path) -> None:
    """Copy a disk; what is zero takes no room.  `LiveError`."""
    try:
        said = ask_program(["cp", "--sparse=always", str(source), str(to)], _PROGRAM_LIMIT_S)
    except OSError as error:
        raise LiveError(f"cp: cannot be run: {error.strerror}; install coreutils") from None
    if said.status != 0:
        raise LiveError(f"{source}: cannot be copied: {last_line(said.err)}; is there room?")


def remove(volume: Volume, paths: Paths) -> None:
    """Remove a host's files."""
    files = DiskFiles.of(volume, paths)
    for path in (files.disk, files.hidden, files.active):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


_CLUSTER_BITS = 16
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")


def empty_overlay(size_bytes: int) -> bytes:
    """An image of version 3 of the format qcow2 that holds nothing.

    Its clusters are: header, table of reference counts, their only block, table L1.  By QEMU's
    specification of the format.
    """
    cluster = 1 << _CLUSTER_BITS
    per_entry = cluster * (cluster // 8)  # bytes of the disk that one entry of L1 is for
    entries = -(-size_bytes // per_entry)
    table_clusters = -(-entries * 8 // cluster)
    header = _HEADER.pack(
        *(b"QFI\xfb", 3, 0, 0, _CLUSTER_BITS, size_bytes, 0),
        *(entries, 3 * cluster, cluster, 1, 0, 0),
        *(0, 0, 0, 4, _HEADER.size),  # counts of 16 bits
    )
    counts = struct.pack(">H", 1) * (3 + table_clusters)
    parts = (header, struct.pack(">Q", 2 * cluster), counts, bytes(table_clusters * cluster))
    return b"".join(part.ljust(cluster, b"\0") for part in parts)


# --------------------------------------------------------------------------------------------
# Of the primary


class SourceDisk:
    """The disk of a guest that clients talk to, and its replica at the secondary, if it has one.

    lost(why) is called once for each replica that does not have all that the guest wrote.
    patience_s: a replica that keeps the guest from stopping for so long is cut off.
    """

    def __init__(self, qmp: Qmp, patience_s: float, lost: Callable[[str], None]) -> None:
        self._qmp = qmp
        self._patience_s = patience_s
        self._lost = lost
        self._replica: str | None = None  # its node
        self.trouble: str | None = None  # why the replica is no replica any more

    async def resync(self, address: dict[str, Any], peer: str) -> None:
        """Copy all of it to the secondary's export, and go on copying what the guest writes."""
        node = f"replica-{peer}"
        self._replica, self.trouble = node, None
        execute, expect = self._qmp.execute, self._qmp.expect
        remote = {"driver": "nbd", "node-name": node, "server": address, "export": _EXPORT}
        async with self.patience():
            await execute("blockdev-add", remote)
        ready = expect(event_is("BLOCK_JOB_READY", device=self._job))
        ended = expect(event_is("BLOCK_JOB_COMPLETED", device=self._job))
        await execute(
            "blockdev-mirror",
            {"job-id": self._job, "device": DISK_ROOT, "target": node, "sync": "full"},
        )
        waits = [ready, ended]
        await asyncio.wait(waits, timeout=_RESYNC_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            _check_job(ended.result())
        if not ready.done():
            raise LiveError(
                f"{self._qmp.name}: its disk was not copied within {_RESYNC_LIMIT_S:g} s"
            )

    async def join(self) -> None:
        """Of the stopped guest: end the copying, and let each write go to both from now on."""
        execute, node = self._qmp.execute, self._replica
        ended = self._qmp.expect(event_is("BLOCK_JOB_COMPLETED", device=self._job))
        await execute("block-job-cancel", {"device": self._job})
        try:
            async with asyncio.timeout(_RESYNC_LIMIT_S):
                _check_job(await ended)
        except TimeoutError:
            raise LiveError(f"{self._qmp.name}: the copy of its disk did not end") from None
        await execute("x-blockdev-change", {"parent": DISK_ROOT, "node": node})

    @property
    def _job(self) -> str:
        return f"resync-{self._replica}"

    async def cut_off(self) -> None:
        """Wait for the replica no longer, whatever it is at; nobody need be told of its end."""
        if self._replica is not None:
            self.trouble = self.trouble or "the secondary's disk: it was cut off"
            instance = {"type": "block-node", "node-name": self._replica}
            with contextlib.suppress(LiveError):  # it had ended by itself
                await self._qmp.execute("yank", {"instances": [instance]}, _YANK_LIMIT_S, oob=True)

    async def part(self) -> None:
        """Go on without the replica; one that was never joined, too."""
        node = self._replica
        if node is None:
            return
        await self.cut_off()
        self._replica, job = None, f"resync-{node}"
        with contextlib.suppress(LiveError, TimeoutError):  # there is none any more
            ended = self._qmp.expect(_job_ended(job))
            await self._qmp.execute("block-job-cancel", {"device": job, "force": True})
            async with asyncio.timeout(_PROGRAM_LIMIT_S):
                await ended
        graph = Graph(await self._qmp.execute("x-debug-query-block-graph"))
        for child in graph.edges(DISK_ROOT, node):
            await self._qmp.execute("x-blockdev-change", {"parent": DISK_ROOT, "child": child})
        if graph.has(node):
            await self._qmp.execute("blockdev-del", {"node-name": node})

    @contextlib.asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """Around a command that waits for the guest's writes: a replica that hangs is cut off.

        In the midst of such a command a monitor hears only what is out of band.
        """

        async def lose() -> None:
            await asyncio.sleep(self._patience_s)
            if self._replica is not None:
                self._break(f"it kept the primary waiting for {self._patience_s:g} s")
                await self.cut_off()

        task = asyncio.create_task(lose())
        try:
            yield
        finally:
            task.cancel()

    def heard(self, event: Message) -> str | None:
        """An event of the monitor; why our own disk is beyond use, if it says so."""
        if event["event"] != "QUORUM_REPORT_BAD":
            return None
        data = event["data"]
        assert isinstance(data, dict)
        what = f"{data['type']} error: {data.get('error', 'no reason given')}"
        if data["node-name"] == self._replica:
            self._break(what)
        elif data["node-name"] in (OWN_DISK, REPLICATION):
            return f"{what} of its own disk"
        return None

    def _break(self, why: str) -> None:
        if self.trouble is None:
            self.trouble = f"the secondary's disk: {why}"
            self._lost(self.trouble)


def _check_job(event: Message) -> None:
    data = event["data"]
    assert isinstance(data, dict)
    if "error" in data:
        raise LiveError(f"the copy of the disk failed: {data['error']}")


def _job_ended(job: str) -> Callable[[Message], bool]:
    kinds = [event_is(f"BLOCK_JOB_{how}", device=job) for how in ("COMPLETED", "CANCELLED")]
    return lambda event: any(kind(event) for kind in kinds)


# --------------------------------------------------------------------------------------------
# Of the secondary


class ReplicaDisk:
    """The disk of a secondary."""

    def __init__(self, qmp: Qmp, paths: Paths, volume: Volume) -> None:
        self._qmp = qmp
        self._paths = paths
        self._volume = volume
        self._is_exported = False

    async def export(self) -> dict[str, Any]:
        """Let it be written to from outside; the address, as a QEMU takes it."""
        address: dict[str, Any]
        if self._volume.transport == "unix":
            address = {"type": "unix", "path": str(self._paths.export)}
        else:
            with socket.socket() as free:  # QEMU does not tell which port it chose
                free.bind((_LOOPBACK, 0))
                port = free.getsockname()[1]
            address = {"type": "inet", "host": _LOOPBACK, "port": str(port)}
        data = {name: value for name, value in address.items() if name != "type"}
        server = {"addr": {"type": address["type"], "data": data}, "max-connections": 1}
        await self._qmp.execute("nbd-server-start", server)
        self._is_exported = True
        export = {"type": "nbd", "id": _EXPORT, "node-name": OWN_DISK, "name": _EXPORT}
        await self._qmp.execute("block-export-add", {**export, "writable": True})
        return address

    async def fence(self) -> None:
        """The old primary writes to it no more, not even if it wakes up later."""
        if self._is_exported:
            await self._qmp.execute("nbd-server-stop")
            self._is_exported = False

    async def merged(self) -> None:
        """Once COLO was left: until what its guest wrote is in the disk; `LiveError`.

        QEMU says so by no event, only by what its nodes are connected with.
        """
        end_s = time.monotonic() + _MERGE_LIMIT_S
        while time.monotonic() < end_s:
            graph = Graph(await self._qmp.execute("x-debug-query-block-graph"))
            if graph.children(REPLICATION) == {"file"}:
                return
            await asyncio.sleep(_LOOK_S)
        raise LiveError(f"{self._qmp.name}: its disk was not whole within {_MERGE_LIMIT_S:g} s")


class Graph:
    """What `x-debug-query-block-graph` says."""

    def __init__(self, said: Any) -> None:
        self._ids = {node["name"]: node["id"] for node in said["nodes"]}
        self._edges = said["edges"]

    def has(self, node: str) -> bool:
        return node in self._ids

    def edges(self, parent: str, child: str) -> list[str]:
        """Names of the edges from one node to another."""
        ends = (self._ids.get(parent), self._ids.get(child))
        return [edge["name"] for edge in self._edges if (edge["parent"], edge["child"]) == ends]

    def children(self, parent: str) -> set[str]:
        """Names of all edges of a node."""
        return {edge["name"] for edge in self._edges if edge["parent"] == self._ids.get(parent)}
