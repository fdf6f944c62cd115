"""QEMU's command line: what a guest of a pair is started with.

Both guests of a pair have the same machine, memory and devices.  Recipes: `live-recipes.md` 2-3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAM_ID = "ram0"
QCOW2 = b"QFI\xfb"
MAC = "52:54:00:12:34:56"
#: For a guest's command line, by accelerator.  Under TCG the secondary's TSC keeps its lead when an
#: older state is loaded: a guest that takes its time from there is seconds ahead after some
#: checkpoints, and leaps at the takeover.
CLOCK = {"tcg": " clocksource=acpi_pm"}


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU binary and its version."""

    path: str
    version: tuple[int, int, int]

    @property
    def release(self) -> str:
        return ".".join(map(str, self.version))


#: nodes of a replicated disk: the host's own disk, what its guest writes to, and the replication
#: driver, which only who began as a secondary has
OWN_DISK, DISK_ROOT, REPLICATION = "parent0", "q0", "repl0"
#: by which a guest finds its replicated disk among others
DISK_SERIAL = "colosim"


@dataclass(frozen=True, slots=True)
class Volume:
    """A replicated disk.

    image: raw, copied to the primary; None: a new ext4.  transport: of the primary's writes, unix
    or tcp.  directory: of disks and overlays, with ``{host}`` for the host; None: the run's.
    """

    size_bytes: int
    image: Path | None = None
    transport: str = "unix"
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What both guests of a pair have in common.

    kind: versioned or not; a pair of two versions needs a versioned one.  mac: None without a
    network.  disk: an image that is only read.  volume: a disk that is replicated.  extra: further
    arguments of the user, where ``{host}`` stands for the host's name.
    """

    kind: str
    accelerator: str
    memory_bytes: int
    kernel: Path | None
    initrd: Path | None
    append: str
    mac: str | None = None
    nic: str = "virtio-net-pci"
    disk: Path | None = None
    volume: Volume | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Paths:
    """Where one guest's files and sockets are, in the run's directory."""

    directory: Path
    host: str

    def of(self, what: str) -> Path:
        return self.directory / f"{self.host}.{what}"

    @property
    def ram(self) -> Path:
        return self.of("ram")

    @property
    def qmp(self) -> Path:
        return self.of("qmp")

    @property
    def net(self) -> Path:
        return self.of("net")

    @property
    def migration(self) -> Path:
        return self.of("mig")

    @property
    def console(self) -> Path:
        return self.of("console.log")

    @property
    def command(self) -> Path:
        """The guest's second serial port."""
        return self.of("tty")

    @property
    def device_state(self) -> Path:
        return self.of("devices")

    @property
    def export(self) -> Path:
        """Where a secondary's disk can be written to."""
        return self.of("nbd")


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Files of one host's replicated disk: the disk, and the two overlays of a secondary."""

    disk: Path
    hidden: Path
    active: Path

    @classmethod
    def of(cls, volume: Volume, paths: Paths) -> DiskFiles:
        """In a directory of the user's they have the run's name in theirs."""
        if volume.directory is None:
            stem = paths.directory / paths.host
        else:
            folder = Path(volume.directory.replace("{host}", paths.host))
            stem = folder / f"{paths.directory.name}.{paths.host}"
        return cls(*(stem.with_name(f"{stem.name}.{x}") for x in ("disk", "hidden", "active")))


def argv(
    qemu: Qemu, machine: Machine, paths: Paths, incoming: bool, rewrites: bool = False
) -> list[str]:
    """The command line of one guest.

    incoming: it is the one that is to be loaded.  rewrites: QEMU translates its sequence numbers.
    """
    memory = machine.memory_bytes
    line = [
        qemu.path,
        *("-name", f"colosim-{paths.host}"),
        *("-machine", f"{machine.kind},memory-backend={RAM_ID}"),
        *("-accel", machine.accelerator),
        *("-m", f"{memory // 1024}K"),
        "-object",
        f"memory-backend-file,id={RAM_ID},size={memory},mem-path={paths.ram},share=on",
        *("-nodefaults", "-no-user-config", "-display", "none"),
        "-no-shutdown",  # a guest that is switched off is there until it is said what becomes of it
        *("-qmp", f"unix:{paths.qmp},server=on,wait=off"),
        *("-serial", f"file:{paths.console}"),
        *("-serial", f"unix:{paths.command},server=on,wait=off"),
    ]
    if machine.kernel is not None:
        line += ["-kernel", str(machine.kernel), "-append", machine.append]
    if machine.initrd is not None:
        line += ["-initrd", str(machine.initrd)]
    if machine.mac is not None:
        net = f"stream,id=hn0,server=off,addr.type=unix,addr.path={paths.net}"
        line += ["-netdev", net]
        line += ["-device", f"{machine.nic},id=e0,netdev=hn0,mac={machine.mac},romfile="]
        if rewrites:
            line += ["-object", "filter-rewriter,id=rew0,netdev=hn0,queue=all"]
    if machine.disk is not None:
        disk = f"file={_escaped(machine.disk)},format={_format(machine.disk)}"
        line += ["-drive", f"{disk},if=none,id=disk0,readonly=on"]
        line += ["-device", "virtio-blk-pci,drive=disk0"]
    if machine.volume is not None:
        for node in _nodes(DiskFiles.of(machine.volume, paths), incoming):
            line += ["-blockdev", json.dumps(node)]
        line += ["-device", f"virtio-blk-pci,drive={DISK_ROOT},id=vd0,serial={DISK_SERIAL}"]
    line += [each.replace("{host}", paths.host) for each in machine.extra]
    if incoming:
        line += ["-incoming", "defer"]
    return line


def _nodes(files: DiskFiles, incoming: bool) -> list[dict[str, Any]]:
    """The block nodes of a replicated disk (`live-recipes.md` 6).

    A primary writes to its own disk, and later to the secondary's as the quorum's second child.  A
    secondary's guest writes to ``active``; what the primary's writes replace on its disk is kept in
    ``hidden`` until the next checkpoint.
    """
    nodes: list[dict[str, Any]] = [
        {"driver": "file", "node-name": "parentf", "filename": str(files.disk)},
        {"driver": "raw", "node-name": OWN_DISK, "file": "parentf"},
    ]
    top = OWN_DISK
    if incoming:
        top = REPLICATION
        below = OWN_DISK
        for name, path in (("hidden", files.hidden), ("active", files.active)):
            nodes.append({"driver": "file", "node-name": f"{name}f", "filename": str(path)})
            nodes.append(
                {
                    "driver": "qcow2",
                    "node-name": f"{name}0",
                    "file": f"{name}f",
                    "backing": below,
                }
            )
            below = f"{name}0"
        nodes.append(
            {
                "driver": "replication",
                "node-name": REPLICATION,
                "mode": "secondary",
                "top-id": DISK_ROOT,
                "file": below,
            }
        )
    nodes.append(
        {
            "driver": "quorum",
            "node-name": DISK_ROOT,
            "vote-threshold": 1,
            "read-pattern": "fifo",
            "children": [top],
        }
    )
    return nodes


def _escaped(path: Path) -> str:
    """In an option of QEMU's a comma stands for itself when it is doubled."""
    return str(path).replace(",", ",,")


def _format(image: Path) -> str:
    with image.open("rb") as file:
        return "qcow2" if file.read(len(QCOW2)) == QCOW2 else "raw"
