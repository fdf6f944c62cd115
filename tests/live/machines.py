"""Machines for tests: `colosim agent`s on loopback, or each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0  # of a machine that is busy


def until(holds, what: str, limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end_s, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def colosim(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "colosim.cli", *map(str, arguments)]


def secret_file(folder: Path, text: str = "a secret of some length") -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """On a tmpfs, with a name short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="t-", dir="/dev/shm"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class AgentProcess:
    """`colosim agent`, in a process group of its own; ``at`` is where it listens."""

    def __init__(self, directory: Path, secret: Path, host: str, namespace: str | None) -> None:
        self.directory = directory
        self.namespace = namespace
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        options = ("--listen", f"{host}:0", "--secret-file", secret, "--directory", directory)
        self.process = subprocess.Popen(
            [*inside, *colosim("agent", *options)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        said = self.stderr.readline()
        assert "listening at " in said, said
        self.at = said.split()[-1]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT_S)

    def end(self) -> str:
        """What it said until SIGTERM ended it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        _, said = self.process.communicate(timeout=LIMIT_S)
        return said

    def processes(self) -> list[int]:
        """Those that have to do with its directory, itself left out."""
        return [pid for pid in users_of(self.directory) if pid != self.process.pid]


def users_of(directory: Path) -> list[int]:
    """Processes that have a directory's name on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def agent(
    secret: Path, host: str = "127.0.0.1", namespace: str | None = None
) -> Iterator[AgentProcess]:
    """An agent with a directory of its own; afterwards none of its processes is left."""
    with short_directory() as directory:
        process = AgentProcess(directory, secret, host, namespace)
        try:
            yield process
        finally:
            process.end()
            until(lambda: users_of(directory) == [], f"the end of what is in {directory}")
            assert list(directory.glob("colosim-*")) == []


# --------------------------------------------------------------------------------------------
# Network namespaces


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=LIMIT_S)


def needs(why_not: Callable[[], str | None]):
    """A test that is skipped where there is a reason, which is asked for when it is to run."""

    def decorate(function):
        @functools.wraps(function)
        def test(*args, **kwargs):
            if why := why_not():
                pytest.skip(why)
            return function(*args, **kwargs)

        return test

    return decorate


@functools.cache
def why_no_namespaces() -> str | None:
    """Why there can be no network namespaces with a bridge here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed (Debian: iproute2)"
    try:
        with bridged("x"):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"


class Bridged:
    """Namespaces on a bridge of this one: ``here`` is our address, ``there`` theirs by name."""

    def __init__(self, here: str) -> None:
        self.here = here
        self.there: dict[str, str] = {}
        self.namespaces: dict[str, str] = {}
        self.ports: dict[str, str] = {}

    def unplug(self, name: str) -> None:
        """Nothing reaches it or comes from it any more, and nobody is told."""
        ip("link", "set", self.ports[name], "down")


@contextlib.contextmanager
def bridged(names: str) -> Iterator[Bridged]:
    """One namespace a letter."""
    tag = f"{os.getpid() % 100_000:05}{random.randrange(100):02}"
    net = f"198.18.{random.randrange(256)}"  # for tests of networks, RFC 2544
    made = Bridged(f"{net}.1")
    bridge = f"cb{tag}"
    with contextlib.ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{made.here}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 2):
            space, port, inner = f"c{name}{tag}", f"cv{name}{tag}", f"ci{name}{tag}"
            ip("netns", "add", space)
            stack.callback(ip, "netns", "del", space)
            ip("link", "add", port, "type", "veth", "peer", "name", inner, "netns", space)
            stack.callback(ip, "link", "del", port)  # the namespace may last while TCP closes
            ip("link", "set", port, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{net}.{number}/24", "dev", inner)
            ip("-n", space, "link", "set", inner, "up")
            ip("-n", space, "link", "set", "lo", "up")
            made.there[name] = f"{net}.{number}"
            made.namespaces[name] = space
            made.ports[name] = port
        yield made
