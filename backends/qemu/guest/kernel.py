"""The guest's kernel and the modules that it needs to see its devices.

Debian's package has no table of dependencies (the target makes it), so they are read from the
modules themselves.
"""

from __future__ import annotations

import lzma
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

from backends.qemu.errors import LiveError
from backends.qemu.guest import elf, packages

MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "pvpanic_mmio")


def boot_files(deb: Path) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return the kernel in a package, and the modules to load, by file name in this order.

    Raises LiveError for a package without a kernel.
    """
    vmlinuz = b""
    modules: dict[str, bytes] = {}

    def is_wanted(path: str) -> bool:
        return path.startswith("boot/vmlinuz-") or any(
            part in path
            for part in (
                "/drivers/virtio/",
                "/drivers/net/",
                "/drivers/block/",
                "/core/",
                "/misc/pvpanic/",
            )
        )

    for path, content in packages.files(deb, is_wanted):
        name = posixpath.basename(path)
        if isinstance(content, str):
            continue
        if name.startswith("vmlinuz-"):
            vmlinuz = content
        elif name.endswith(".ko"):
            modules[module_name(name)] = content
        elif name.endswith(".ko.xz"):
            modules[module_name(name)] = lzma.decompress(content)
    if not vmlinuz:
        raise LiveError(f"{deb.name} holds no kernel: delete it")
    return vmlinuz, [(f"{name}.ko", modules[name]) for name in load_order(modules, MODULES)]


def module_name(file: str) -> str:
    """Return a module's name by its file: the kernel takes - and _ for the same."""
    return file.partition(".ko")[0].replace("-", "_")


def load_order(modules: Mapping[str, bytes], wanted: Iterable[str]) -> list[str]:
    """Return the wanted modules after those they depend on. One that is built in is left out."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in modules:
            return
        for other in elf.module_depends(modules[name]):
            visit(module_name(other))
        order.append(name)

    for name in wanted:
        visit(name)
    return order
