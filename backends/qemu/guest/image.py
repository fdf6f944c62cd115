"""Builds a guest: a Debian kernel and an initramfs with the services asked for.

Needs neither root nor disk images. The same packages and the same compiler give byte-identical
files, whoever builds them; ``key`` names those inputs, and images are kept by it under
$XDG_CACHE_HOME/colosim/guest (~/.cache without it).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from backends.qemu.errors import LiveError
from backends.qemu.guest import cpio
from backends.qemu.guest.ground import GroundOptions, stream
from backends.qemu.guest.kernel import boot_files
from backends.qemu.guest.packages import Package, Packages, Say, StaleLists
from backends.qemu.guest.programs import (
    LIBRARY_FOLDER,
    Pool,
    compile_ground,
    compiler_version,
)
from backends.qemu.guest.services import SERVICES, WEB_FILES, WEB_INDEX, chosen

_KERNEL = "linux-image-cloud-amd64"
_BUSYBOX = "busybox-static"
_IMAGES_KEPT = 4  # of the same services: an older checkout or a running test may need one
_HERE = Path(__file__).parent
_SOURCES = sorted(path for path in _HERE.iterdir() if path.suffix in (".py", ".c", ".sh"))
# No IPv6: passt is told the same, and every frame that is not sent cannot differ.
_APPEND = "console=ttyS0 quiet panic=-1 oops=panic ipv6.disable=1 mitigations=off"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A kernel and an initramfs to boot. ``append`` starts all services with `ground` at default.

    ``key`` names everything that went in: equal keys, equal bytes.
    """

    kernel: Path
    initrd: Path
    append: str
    services: tuple[str, ...]
    key: str

    def command_line(
        self,
        services: Collection[str] | None = None,
        ground: GroundOptions | str | None = None,
    ) -> str:
        """Return a kernel command line that runs some of the services (None: all of them).

        Raises LiveError for a service that the image does not have.
        """
        wanted = self.services if services is None else chosen(services)
        missing = [name for name in wanted if name not in self.services]
        if missing:
            raise LiveError(
                f"the image has no service {', '.join(missing)}, only {', '.join(self.services)}:"
                " build one with all that is needed"
            )
        words = [_APPEND, f"colosim.services={','.join(wanted)}"]
        if ground is not None:
            words.append(f"colosim.ground={ground}")
        return " ".join(words)


def cache_folder() -> Path:
    """Return where packages and images are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored, says the specification of these variables.
    home = base if base.is_absolute() else Path.home() / ".cache"
    return home / "colosim" / "guest"


def cached(services: Collection[str]) -> GuestImage | None:
    """Return the newest image with exactly these services, made by this version of the builder.

    Asks neither network nor apt. None if there is none.
    """
    names = chosen(services)
    images = (_load(folder, names) for folder in _newest_first(_stem(names)))
    return next((image for image in images if image is not None), None)


def build(services: Collection[str], say: Say) -> GuestImage:
    """Return an image with these services, building it if the cache has none of today's packages.

    Where packages cannot be looked up, or there is no compiler, an older image from the cache is
    taken, and said so. Raises LiveError if there is none either.
    """
    names = chosen(services)
    try:
        return _build(names, say)
    except LiveError as error:
        image = cached(names)
        if image is None:
            raise
        say(f"taking the image from the cache: {error}")
        return image
    except OSError as error:
        raise LiveError(f"guest image: {error}: {cache_folder()} must be writable") from error


# --- building ------------------------------------------------------------------------------------


def _build(names: tuple[str, ...], say: Say) -> GuestImage:
    if platform.machine() not in ("x86_64", "amd64"):
        raise LiveError(f"this is {platform.machine()}: guest images are built on x86_64 only")
    compiler = compiler_version() if "ground" in names else ""
    store = Packages(cache_folder() / "packages", say)
    seeds = {_KERNEL, _BUSYBOX} | {one for name in names for one in SERVICES[name].packages}
    while True:
        resolved = store.resolve(seeds)
        key = _key(names, resolved.values(), compiler)
        folder = _images() / f"{_stem(names)}-{key[:16]}"
        image = _load(folder, names)
        if image is not None:
            return image
        try:
            debs = store.fetch(resolved.values())
            break
        except StaleLists:
            continue

    say(f"building a guest with {', '.join(names)}")
    kernel = next(name for name in resolved[_KERNEL].depends if name in resolved)
    vmlinuz, modules = boot_files(debs.pop(kernel))
    pool = Pool(debs.values())
    tree = _tree(names, pool, modules)
    return _keep(folder, names, key, resolved.values(), vmlinuz, tree.archive())


def _tree(names: tuple[str, ...], pool: Pool, modules: list[tuple[str, bytes]]) -> cpio.Tree:
    tree = cpio.Tree()
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "svc", "sbin", "usr/sbin"):
        tree.add(folder, cpio.directory())
    tree.add("dev/console", cpio.character_device(5, 1))
    tree.add("init", cpio.regular((_HERE / "init.sh").read_bytes(), 0o755))
    tree.add("bin/busybox", cpio.regular(pool.content("bin/busybox"), 0o755))
    tree.add(
        "etc/passwd",
        cpio.regular(b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
    )
    tree.add("etc/group", cpio.regular(b"root:x:0:\nnogroup:x:65534:\n"))
    for name, content in modules:
        tree.add(f"modules/{name}", cpio.regular(content))
    tree.add("modules/order", cpio.regular("".join(f"{name}\n" for name, _ in modules).encode()))
    if any(SERVICES[name].web for name in names):
        tree.add("www/index.html", cpio.regular(WEB_INDEX))
        for file, size_bytes in WEB_FILES.items():
            tree.add(f"www/{file}", cpio.regular(stream(size_bytes)))
    for name in names:
        _add_service(tree, name, pool)
    return tree


def _add_service(tree: cpio.Tree, name: str, pool: Pool) -> None:
    service = SERVICES[name]
    tree.add(f"svc/{name}", cpio.regular(service.script.encode(), 0o755))
    if name == "ground":
        tree.add("bin/ground", cpio.regular(compile_ground(), 0o755))
    for folder in service.folders:
        tree.add(folder, cpio.directory())
    for path, text in service.texts.items():
        tree.add(path, cpio.regular(text.encode()))
    programs = {path: pool.content(path) for path in service.files}
    for path, content in programs.items():
        tree.add(path, cpio.regular(content, 0o755))
    for library, content in pool.libraries(programs.values()).items():
        # The loader is looked for by its full path, the others in the usual folder.
        folder = "lib64" if library.startswith("ld-linux") else LIBRARY_FOLDER
        tree.add(f"{folder}/{library}", cpio.regular(content, 0o755))


# --- the cache -----------------------------------------------------------------------------------


def _images() -> Path:
    return cache_folder() / "images"


def _newest_first(stem: str) -> list[Path]:
    def made_ns(folder: Path) -> int:
        try:
            return folder.stat().st_mtime_ns
        except OSError:  # somebody else has just removed it
            return 0

    return sorted(_images().glob(f"{stem}-*"), key=made_ns, reverse=True)


def _stem(names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return f"{'+'.join(names)}-{digest.hexdigest()[:16]}"


def _key(names: tuple[str, ...], resolved: Iterable[Package], compiler: str) -> str:
    inputs = [_stem(names), compiler, [(package.name, package.sha256) for package in resolved]]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _image(folder: Path, names: tuple[str, ...], key: str) -> GuestImage:
    append = f"{_APPEND} colosim.services={','.join(names)}"
    return GuestImage(folder / "vmlinuz", folder / "initrd.cpio", append, names, key)


def _load(folder: Path, names: tuple[str, ...]) -> GuestImage | None:
    """Return the image in a folder; None if it is not there or not whole."""
    try:
        about = json.loads((folder / "image.json").read_text())
        whole = all(
            (folder / name).stat().st_size == size for name, size in about["size_bytes"].items()
        )
        return _image(folder, names, about["key"]) if whole else None
    except (OSError, ValueError, KeyError):
        return None


def _keep(
    folder: Path,
    names: tuple[str, ...],
    key: str,
    resolved: Iterable[Package],
    vmlinuz: bytes,
    initrd: bytes,
) -> GuestImage:
    """Put an image into the cache, whole or not at all."""
    about = {
        "key": key,
        "services": names,
        "size_bytes": {"vmlinuz": len(vmlinuz), "initrd.cpio": len(initrd)},
        "packages": {package.name: package.version for package in resolved},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as new_name:
        new = Path(new_name) / "image"
        new.mkdir()
        (new / "vmlinuz").write_bytes(vmlinuz)
        (new / "initrd.cpio").write_bytes(initrd)
        (new / "image.json").write_text(json.dumps(about, indent=1) + "\n")
        if folder.exists() and _load(folder, names) is None:
            shutil.rmtree(folder)  # damaged
        try:
            new.rename(folder)
        except OSError:
            if _load(folder, names) is None:  # else somebody else was faster with the same bytes
                raise
    _forget_old(names)
    return _image(folder, names, key)


def _forget_old(names: tuple[str, ...]) -> None:
    for folder in _newest_first("+".join(names))[_IMAGES_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
