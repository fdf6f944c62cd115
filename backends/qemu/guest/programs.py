"""The guest's programs: `ground`, compiled here, and those of packages with their libraries."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from backends.qemu.errors import LiveError
from backends.qemu.guest import elf, packages

LIBRARY_FOLDER = "lib/x86_64-linux-gnu"
GROUND_SOURCE = Path(__file__).with_name("ground.c")

_LIBRARY_FOLDERS = (LIBRARY_FOLDER, "lib64", "lib")
_MOST_LINKS = 8
_COMPILE = ("-static", "-O2", "-s", "-std=gnu11", "-Wl,--build-id=none")
_COMPILE_LIMIT_S = 120
_INSTALL = "install gcc and libc6-dev"


def compiler_version() -> str:
    """Return what the compiled program depends on: the compiler and the C library.

    Raises LiveError if there is none.
    """
    if shutil.which("gcc") is None:
        raise LiveError(f"gcc was not found: the guest's program is compiled; {_INSTALL}")
    library = Path(gcc("-print-file-name=libc.a").stdout.strip())
    if not library.is_absolute():
        raise LiveError(f"the static C library was not found; {_INSTALL}")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    return f"{gcc('--version').stdout.partition(chr(10))[0]} {digest}"


def compile_ground() -> bytes:
    """Compile `ground`, in a folder whose name cannot get into the program."""
    with tempfile.TemporaryDirectory(prefix="colosim-ground-") as folder:
        shutil.copyfile(GROUND_SOURCE, Path(folder) / "ground.c")
        answer = gcc(*_COMPILE, "-o", "ground", "ground.c", "-lm", cwd=folder)
        if answer.returncode != 0:
            lines = answer.stderr.splitlines()
            why = next((line for line in lines if "error" in line or "cannot" in line), "no reason")
            raise LiveError(f"gcc cannot build the guest's program: {why.strip()}; {_INSTALL}")
        return (Path(folder) / "ground").read_bytes()


def gcc(*words: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the compiler; `LiveError` if it takes too long."""
    # An environment of its own: variables like CPATH would change the program.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["gcc", *words],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=_COMPILE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LiveError(f"gcc took longer than {_COMPILE_LIMIT_S} s") from None


def _merged(path: str) -> str:
    """Return one path for a file: /usr/lib is /lib where they are merged, and here."""
    path = path.lstrip("/")
    return path.removeprefix("usr/") if path.startswith("usr/lib") else path


def _is_program(path: str) -> bool:
    folder, _, name = _merged(path).rpartition("/")
    if folder in _LIBRARY_FOLDERS:
        return ".so" in name
    return folder.removeprefix("usr/") in ("bin", "sbin")


class Pool:
    """Programs and libraries of some packages, by path; links are followed."""

    def __init__(self, debs: Iterable[Path]) -> None:
        self._files: dict[str, bytes | str] = {}
        for deb in debs:
            for path, content in packages.files(deb, _is_program):
                self._files[_merged(path)] = content

    def content(self, path: str) -> bytes:
        """Return a file's bytes. Raises LiveError if no package has it."""
        at = path
        for _ in range(_MOST_LINKS):
            found = self._files.get(_merged(at))
            if isinstance(found, bytes):
                return found
            if found is None:
                break
            at = posixpath.normpath(posixpath.join("/", posixpath.dirname(at), found))
        raise LiveError(f"no package has {path}: these packages are unlike Debian 12's")

    def _library(self, name: str) -> bytes:
        for folder in _LIBRARY_FOLDERS:
            if f"{folder}/{name}" in self._files:
                return self.content(f"{folder}/{name}")
        raise LiveError(f"no package has the library {name}: these packages are unlike Debian 12's")

    def libraries(self, programs: Iterable[bytes]) -> dict[str, bytes]:
        """Return all libraries that the programs need, and those that these need, and so on."""
        found: dict[str, bytes] = {}
        asking = list(programs)
        while asking:
            for name in elf.needed(asking.pop()):
                if name not in found:
                    found[name] = self._library(name)
                    asking.append(found[name])
        return dict(sorted(found.items()))
