"""An initramfs: the archive format "newc" that the kernel unpacks.

Equal contents give equal bytes, whoever writes them and when.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. ``mode`` holds the type too; ``device``: major, minor."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(stat.S_IFDIR | permissions)


def regular(content: bytes, permissions: int = 0o644) -> Entry:
    """A file."""
    return Entry(stat.S_IFREG | permissions, content)


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A device node."""
    return Entry(stat.S_IFCHR | permissions, device=(major, minor))


@dataclass(slots=True)
class Tree:
    """Files by path, without a leading slash; directories above a file come by themselves."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, path: str, entry: Entry) -> None:
        """Add one file. Raises ValueError if the path is there already with other contents."""
        path = path.strip("/")
        if self.entries.setdefault(path, entry) != entry:
            raise ValueError(f"{path} is in the image already, and different")
        above = path.rpartition("/")[0]
        if above:
            self.add(above, self.entries.get(above, directory()))

    def archive(self) -> bytes:
        """Return the whole tree as one archive."""
        return archive(self.entries)


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Return the archive, sorted by path: a directory comes before what is in it."""
    return b"".join(_records(entries))


def _records(entries: Mapping[str, Entry]) -> Iterator[bytes]:
    for inode, path in enumerate(sorted(entries), start=1):
        yield _record(inode, path, entries[path])
    yield _record(0, _TRAILER, Entry(0))


def _record(inode: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file, device of the node, name, check
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device)
    header = _MAGIC + "".join(f"{number:08x}" for number in (*numbers, len(name), 0))
    return _padded(header.encode() + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
