"""`colosim agent`: starts and ends the processes of a run's host on this machine, for its runner.

It serves one runner at a time.  What it starts is a supervisor's (`backends.qemu.supervisor`), so
nothing outlives it; and when the runner's connection ends, says so, or is silent too long, all of
the run is killed and reaped here and its directory removed.

The runner asks by `stream.Lines`: the methods ``do_...`` of `_Session` are all there is to ask.
Files come once, named by their digest; consoles and logs are sent back while they grow.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backends.qemu import tracking
from backends.qemu.accelerators import kvm_works
from backends.qemu.address import check_path, endpoint, endpoint_text
from backends.qemu.asking import probe
from backends.qemu.door import Door
from backends.qemu.errors import LiveError
from backends.qemu.launch import Qemu
from backends.qemu.scratch import free_soon
from backends.qemu.secret import derived, read_secret
from backends.qemu.stream import Lines, peer_of
from backends.qemu.supervisor import Ended, Supervisor
from colosim import __version__

AGENT = "agent"  # the service behind its door
RUNNER = "runner"  # who may come in
ALIVE_S = 1.0
SILENCE_LIMIT_S = 10.0  # of the other side, after which it is given up
PIECE_BYTES = 1 << 18  # of a file, before base64
_TMPFS = Path("/dev/shm")
_LARGEST_FILE_BYTES = 2 << 30
_FOLLOW_S = 0.05
_FOLLOW_LIMIT_BYTES = 64 << 20
_KEPT_FILES = 8
_KEPT_S = 3600.0
_LONGEST_NAME = "x.console.log"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Where it listens ("HOST:PORT"), whom it trusts, and where it keeps things.

    directory: for runs and for files that were sent; None: /dev/shm and the user's cache.
    """

    listen: str
    secret_file: Path
    directory: Path | None


def run_agent(options: AgentOptions, say: Say) -> None:
    """Serve until SIGTERM or SIGINT; `LiveError`, one line, for what cannot be used."""
    host, port = endpoint(options.listen)
    secret = read_secret(options.secret_file)
    runs, files = _folders(options.directory)
    asyncio.run(_serve(host, port, secret, runs, files, say))


def _folders(directory: Path | None) -> tuple[Path, Path]:
    """Where runs are, and where files are kept."""
    if directory is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = cache if cache.is_absolute() else Path.home() / ".cache"
        runs, files = _TMPFS, home / "colosim" / "received"
        if not runs.is_dir():
            raise LiveError(f"{runs}: not there; give --directory, best on a tmpfs")
    else:
        runs, files = directory.absolute(), directory.absolute() / "received"
    try:
        for each in (runs, files):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=each).close()
    except OSError as error:
        raise LiveError(
            f"{directory or files}: cannot be written: {error.strerror}; "
            "give --directory another directory"
        ) from None
    check_path(runs / "colosim-xxxxxxxx" / _LONGEST_NAME)
    return runs, files


async def _serve(host: str, port: int, secret: bytes, runs: Path, files: Path, say: Say) -> None:
    busy = asyncio.Lock()
    stop = asyncio.Event()
    sessions: set[asyncio.Task[None]] = set()

    def came(sock: socket.socket, _: str) -> None:
        session = _Session(secret, runs, _Files(files), busy, say)
        task = asyncio.create_task(session.run(sock, stop))
        sessions.add(task)
        task.add_done_callback(sessions.discard)

    door = await Door.opened(host, port, {RUNNER: secret}, {AGENT: came}, say)
    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        say(f"listening at {endpoint_text(*door.at)}")
        await stop.wait()
    finally:
        door.close()
        stop.set()
        if sessions:
            await asyncio.wait(sessions)


class _Session:
    """One connection of a runner; it has a run after ``begin``."""

    def __init__(
        self, secret: bytes, runs: Path, files: _Files, busy: asyncio.Lock, say: Say
    ) -> None:
        self._secret = secret
        self._runs = runs
        self._files = files
        self._busy = busy
        self._say = say
        self._peer = ""
        self._run = ""
        self._began = False
        self._directory: Path | None = None
        self._supervisor: Supervisor | None = None
        self._domains: set[str] = set()
        self._followed: dict[str, int] = {}  # name -> bytes that were sent
        self._heard_s = time.monotonic()
        self._lines: Lines

    async def run(self, sock: socket.socket, stop: asyncio.Event) -> None:
        """Until the runner or this agent ends; then nothing of its run is left here."""
        self._peer = sock.getpeername()[0]
        connection = await peer_of(sock)
        self._lines = Lines(connection, self._perform)
        live = asyncio.create_task(self._live())
        following = asyncio.create_task(self._follow())
        ends = [asyncio.create_task(self._lines.serve()), asyncio.create_task(stop.wait()), live]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await self._end()
        for task in (*ends, following):
            task.cancel()
        connection.close()
        self._files.close()
        if self._began:
            self._say(f"the runner at {self._peer} has gone; nothing of its run is left")

    async def _live(self) -> None:
        """Returns when the runner was silent too long."""
        while time.monotonic() - self._heard_s < SILENCE_LIMIT_S:
            self._lines.tell("alive")
            await asyncio.sleep(ALIVE_S)

    async def _perform(self, name: str, arguments: dict[str, Any]) -> Any:
        self._heard_s = time.monotonic()
        do = getattr(self, f"do_{name}", None)
        if do is None:
            raise LiveError(f"this agent cannot {name}; it is colosim {__version__}")
        try:
            return await do(**arguments)
        except OSError as error:
            raise LiveError(f"{name}: {error.strerror}: {error.filename}") from None

    async def _end(self) -> None:
        if self._supervisor is not None:
            supervisor, self._supervisor = self._supervisor, None
            with contextlib.suppress(LiveError):
                for domain in list(self._domains):  # while their last words can be read
                    await supervisor.kill(domain)
            with contextlib.suppress(LiveError):
                await supervisor.__aexit__()
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory, True)
            self._directory = None
        if self._run:
            self._run = ""
            self._busy.release()

    # -- what a runner asks ----------------------------------------------------------------

    async def do_alive(self) -> None:
        """It is there."""

    async def do_probe(self, path: str) -> list[Any]:
        """A QEMU of this machine: [path, [major, minor, micro]]."""
        qemu = await probe(path)
        return [qemu.path, list(qemu.version)]

    async def do_kvm(self, path: str, version: list[int]) -> bool:
        """Whether KVM is worth it here."""
        major, minor, micro = version
        return Path("/dev/kvm").exists() and await kvm_works(Qemu(path, (major, minor, micro)))

    async def do_clock(self) -> int:
        """CLOCK_MONOTONIC of this machine, in ns."""
        return time.monotonic_ns()

    async def do_begin(self, run: str, version: str, memory_bytes: int) -> dict[str, str]:
        """Make a directory for a run; where it is, and this machine's Python."""
        if version != __version__:
            raise LiveError(f"it is colosim {__version__}, this {version}; install the same")
        if self._busy.locked():
            raise LiveError("it serves another runner; wait until that ends, or start another")
        free = shutil.disk_usage(self._runs).free
        if free < memory_bytes:
            raise LiveError(
                f"{self._runs}: {free >> 20} MiB free, {memory_bytes >> 20} MiB needed; "
                "give the guest less memory, or mount it larger"
            )
        await self._busy.acquire()
        self._run = run
        self._directory = Path(tempfile.mkdtemp(prefix="colosim-", dir=self._runs))
        supervisor = Supervisor(self._directory, self._ended)
        self._supervisor = await supervisor.__aenter__()
        self._began = True
        self._say(f"the runner at {self._peer} has begun a run")
        return {"directory": str(self._directory), "python": sys.executable}

    async def do_file(self, digest: str, size: int) -> str | None:
        """Where a file of this digest is; None: it must be sent."""
        path = await asyncio.to_thread(self._files.found, digest)
        if path is None:
            self._files.expect(digest, size)
        return None if path is None else str(path)

    async def do_piece(self, digest: str, data: str) -> str | None:
        """The next bytes of a file; where it is, when it is whole."""
        path = self._files.add(digest, base64.b64decode(data))
        return None if path is None else str(path)

    async def do_agent(self, domain: str, config: dict[str, Any]) -> int:
        """Start a host's node agent; the key by which it joins the run is not sent, but derived."""
        path = self._inside(f"{domain}.json")
        key = derived(self._secret, "session", self._run, domain)
        config = {**config, "directory": str(self._directory), "key": key.hex()}
        path.touch(0o600)
        path.write_text(json.dumps(config))
        return await self._spawn(
            domain, "agent", [sys.executable, "-m", "backends.qemu.agent", str(path)]
        )

    async def do_qemu(self, domain: str, argv: list[str]) -> int:
        """Start a host's QEMU."""
        ram = self._inside(f"{domain}.ram")
        ram.touch(0o600)
        return await self._spawn(domain, "qemu", argv, tracking.environment(ram))

    async def do_signal(self, domain: str, number: int, name: str | None) -> None:
        await self._supervising().signal(domain, number, name)

    async def do_kill(self, domain: str) -> None:
        """All of a host has ended when this is answered; its memory is free soon after."""
        await self._supervising().kill(domain)
        free_soon(self._inside(f"{domain}.ram"))

    async def do_end(self) -> None:
        """Nothing of the run is left here when this is answered."""
        await self._end()

    # -- its parts -------------------------------------------------------------------------

    def _supervising(self) -> Supervisor:
        if self._supervisor is None:
            raise LiveError("no run has begun on this connection")
        return self._supervisor

    def _inside(self, name: str) -> Path:
        """A file of the run's directory."""
        if self._directory is None:
            raise LiveError("no run has begun on this connection")
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}(\.[a-z]+)+", name):
            raise LiveError(f"{name!r}: no name of a run's file")
        return self._directory / name

    async def _spawn(
        self, domain: str, name: str, argv: list[str], env: Mapping[str, str] | None = None
    ) -> int:
        self._domains.add(domain)
        for kept in (f"{domain}.log", f"{domain}.console.log"):
            self._followed.setdefault(kept, 0)
        log = self._inside(f"{domain}.log")
        return await self._supervising().spawn(domain, name, argv, log, env)

    def _ended(self, ended: Ended) -> None:
        self._send_grown()  # its last words first
        self._lines.tell("ended", domain=ended.domain, name=ended.name, status=ended.status)

    async def _follow(self) -> None:
        while True:
            self._send_grown()
            await asyncio.sleep(_FOLLOW_S)

    def _send_grown(self) -> None:
        """What consoles and logs have become longer by."""
        if self._directory is None:
            return
        for name, sent in self._followed.items():
            with contextlib.suppress(OSError), (self._directory / name).open("rb") as file:
                file.seek(sent)
                while data := file.read(min(PIECE_BYTES, _FOLLOW_LIMIT_BYTES - file.tell())):
                    self._followed[name] += len(data)
                    self._lines.tell("grown", name=name, data=base64.b64encode(data).decode())


class _Files:
    """Files by their SHA-256, kept for the next run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._coming: dict[str, _Coming] = {}

    def found(self, digest: str) -> Path | None:
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except FileNotFoundError:
            return None
        if not whole:  # the disk was full, or somebody wrote there
            path.unlink()
            return None
        os.utime(path)
        return path

    def expect(self, digest: str, size: int) -> None:
        if not 0 < size <= _LARGEST_FILE_BYTES:
            raise LiveError(f"a file of {size} bytes; at most {_LARGEST_FILE_BYTES} are taken")
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise LiveError(f"{self._folder}: {free >> 20} MiB free, {size >> 20} MiB needed")
        self.close(digest)
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        self._coming[digest] = _Coming(os.fdopen(descriptor, "wb"), Path(name), size)

    def add(self, digest: str, data: bytes) -> Path | None:
        coming = self._coming.get(digest)
        if coming is None:
            raise LiveError("a piece of a file that was not announced")
        coming.file.write(data)
        coming.sha.update(data)
        coming.left -= len(data)
        if coming.left > 0:
            return None
        coming.file.flush()
        right = coming.left == 0 and coming.sha.hexdigest() == digest
        if right:
            coming.path.rename(self._path(digest))
        self.close(digest)
        if not right:
            raise LiveError("a file that was sent is not what was announced")
        self._prune()
        return self._path(digest)

    def close(self, digest: str | None = None) -> None:
        """Drop what has come in part: of one file, or of all."""
        for each in list(self._coming) if digest is None else [digest]:
            if (coming := self._coming.pop(each, None)) is not None:
                coming.file.close()
                coming.path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise LiveError("a file is named by its SHA-256")
        return self._folder / digest

    def _prune(self) -> None:
        """Keep the files that were used last; those of the last hour may be in use."""
        used = {
            path: path.stat().st_mtime
            for path in self._folder.iterdir()
            if re.fullmatch(r"[0-9a-f]{64}", path.name)
        }
        newest = sorted(used, key=used.__getitem__, reverse=True)
        for path in newest[_KEPT_FILES:]:
            if time.time() - used[path] > _KEPT_S:
                path.unlink(missing_ok=True)


class _Coming:
    """A file that is being sent."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file = file
        self.path = path
        self.left = size
        self.sha = hashlib.sha256()
