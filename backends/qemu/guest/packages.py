"""Debian packages, without root: what a name resolves to, and the files in a package.

Nothing is installed and nothing is unpacked to disk: `dpkg-deb --fsys-tarfile` streams a package.
Where the machine's own package lists are missing or old, lists of our own are fetched into the
cache; apt verifies their signature either way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.qemu.errors import LiveError

Say = Callable[[str], None]

_SHOW_LIMIT_S = 60
_UPDATE_LIMIT_S = 300
_DOWNLOAD_LIMIT_S = 900
_APT_LISTS = Path("/var/lib/apt/lists")
_APT_SOURCES = Path("/etc/apt")
_DPKG_STATUS = Path("/var/lib/dpkg/status")
_FEWEST_LISTS = 2  # else apt keeps its files elsewhere
_OTHER_RELATIONS = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")


class NoPackages(LiveError):
    """Packages cannot be had now: no network, no server, no tools of Debian's."""


class StaleLists(Exception):
    """The versions asked for are no longer offered; new lists are there, so resolve again."""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One version of a package; ``sha256`` names its bytes."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    section: str = ""
    depends: tuple[str, ...] = ()

    @property
    def is_content(self) -> bool:
        """Whether another package needs its files: a library, or the kernel of a metapackage."""
        return self.section.endswith("libs") or self.name.startswith("linux-image-")


class Packages:
    """Packages as apt knows them, kept under ``folder``."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say
        self._own_lists = False
        for tool, package in (("apt-cache", "apt"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
            if shutil.which(tool) is None:
                raise NoPackages(
                    f"{tool} was not found: a guest image is made of Debian packages, so building"
                    f" one needs the package {package}, on Debian or a relative"
                )

    def resolve(self, names: Collection[str]) -> dict[str, Package]:
        """Return the packages named and every library and kernel package they need, by name.

        Raises LiveError if apt does not know one of those named and its lists cannot be had.
        """
        known = self._known(names)
        if not known.keys() >= set(names) and not self._own_lists:
            self._fetch_lists()
            known = self._known(names)
        missing = sorted(set(names) - known.keys())
        if missing:
            raise LiveError(
                f"apt knows no package {', '.join(missing)}:"
                " the guest is made of Debian packages (12 was tried), see /etc/apt/sources.list"
            )
        found: dict[str, Package] = {}
        asking = sorted(names)
        while asking:
            package = known[asking.pop()]
            found[package.name] = package
            asking += [
                name
                for name in package.depends
                if name in known and name not in found and known[name].is_content
            ]
        return dict(sorted(found.items()))

    def _known(self, names: Collection[str]) -> dict[str, Package]:
        """Return what apt knows of these packages and all that they depend on.

        Asking costs seconds, so the answer is kept as long as apt's own files are the same.
        """
        kept = self._kept(names)
        if kept is not None and kept.is_file():
            with contextlib.suppress(OSError, ValueError, TypeError):
                rows = json.loads(kept.read_text())
                return {
                    row["name"]: Package(**{**row, "depends": tuple(row["depends"])})
                    for row in rows
                }
        known = self._ask(names)
        if kept is not None and known:
            kept.parent.mkdir(parents=True, exist_ok=True)
            for old in kept.parent.glob(f"{kept.name.partition('-')[0]}-*"):
                old.unlink(missing_ok=True)
            part = kept.with_name(f".{kept.name}.{os.getpid()}")
            part.write_text(json.dumps([asdict(package) for package in known.values()]))
            part.replace(kept)
        return known

    def _kept(self, names: Collection[str]) -> Path | None:
        """Where the answer is kept that holds while apt's files are as they are; None: nowhere."""
        lists = self._folder / "apt" / "lists" if self._own_lists else _APT_LISTS
        files = [_DPKG_STATUS, *(lists.iterdir() if lists.is_dir() else ())]
        files += [path for path in _APT_SOURCES.rglob("*") if path.is_file()]
        stamps = [
            (str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(files) if p.is_file()
        ]
        if len(stamps) < _FEWEST_LISTS:
            return None
        asked = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:16]
        answer = hashlib.sha256(repr((shutil.which("apt-cache"), stamps)).encode()).hexdigest()[:16]
        return self._folder / "known" / f"{asked}-{answer}"

    def _ask(self, names: Collection[str]) -> dict[str, Package]:
        # The exit status of both says that one of several is unknown: the caller finds out which.
        only = (f"--no-{kind}" for kind in _OTHER_RELATIONS)
        listed = self._apt_cache("depends", "--recurse", *only, *sorted(names))
        # A line without indent is a package; <NAME> is virtual, NAME:ARCH foreign.
        above = {line for line in listed.splitlines() if re.fullmatch(r"[a-z0-9][^\s:]*", line)}
        if not above:
            return {}
        shown = self._apt_cache("show", "--no-all-versions", *sorted(above))
        return {package.name: package for package in _parse(shown)}

    def _apt_cache(self, *words: str) -> str:
        return _run(["apt-cache", *self._options(), *words], _SHOW_LIMIT_S).stdout

    def _fetch_lists(self) -> None:
        self._own_lists = True
        self._say("fetching package lists")
        for folder in ("lists/partial", "archives/partial"):
            (self._folder / "apt" / folder).mkdir(parents=True, exist_ok=True)
        argv = ["apt-get", *self._options(), "-q", "-o", "APT::Update::Error-Mode=any", "update"]
        answer = _run(argv, _UPDATE_LIMIT_S)
        if answer.returncode != 0:
            raise NoPackages(
                f"no package lists: {_reason(answer.stderr)}; building a guest image needs the"
                " network (or the proxy that apt is told of)"
            )

    def _options(self) -> list[str]:
        if not self._own_lists:
            return []
        apt = self._folder / "apt"
        return [
            *("-o", f"Dir::State::lists={apt / 'lists'}"),
            *("-o", f"Dir::Cache={apt}"),
            *("-o", "Debug::NoLocking=true"),
            *(("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()),
        ]

    def fetch(self, packages: Collection[Package]) -> dict[str, Path]:
        """Return each package's file by name, downloading those that are not in the cache."""
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [package for package in packages if not self._path(package).is_file()]
        if missing:
            total = sum(package.size_bytes for package in missing)
            self._say(f"downloading {len(missing)} packages, {total / 1e6:.1f} MB")
            try:
                self._download(missing)
            except NoPackages:
                if self._own_lists:
                    raise
                # The lists may be so old that the server has dropped these versions: then the
                # caller resolves again, with new lists.
                self._fetch_lists()
                raise StaleLists from None
        return {package.name: self._path(package) for package in packages}

    def _download(self, packages: Collection[Package]) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="download-") as folder:
            names = [f"{package.name}={package.version}" for package in packages]
            answer = _run(
                ["apt-get", *self._options(), "-q", "download", *names],
                _DOWNLOAD_LIMIT_S,
                cwd=folder,
            )
            if answer.returncode != 0:
                raise NoPackages(f"cannot download packages: {_reason(answer.stderr)}")
            got = {_sha256(path): path for path in Path(folder).glob("*.deb")}
            for package in packages:
                if package.sha256 not in got:
                    raise LiveError(
                        f"package {package.name} {package.version}: what was downloaded is not"
                        f" what apt's lists promise (SHA256 {package.sha256})"
                    )
                got[package.sha256].rename(self._path(package))

    def _path(self, package: Package) -> Path:
        return self._folder / f"{package.name}_{package.sha256}.deb"


def files(deb: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | str]]:
    """Yield path and content (a link: its target as text) of each wanted file of a package."""
    argv = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    if not wanted(path):
                        continue
                    if member.issym():
                        yield path, member.linkname
                    elif member.isfile():
                        content = archive.extractfile(member)
                        yield path, content.read() if content else b""
        except tarfile.TarError as error:
            raise LiveError(f"{deb} is no sound package ({error}): delete it") from error
        finally:
            process.kill()  # it has ended, unless the reader gave up early


def _parse(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[^\s:]+: ", line)
        )
        if "SHA256" not in fields:
            continue
        depends = [fields.get("Pre-Depends", ""), fields.get("Depends", "")]
        yield Package(
            fields["Package"],
            fields["Version"],
            fields["SHA256"],
            int(fields["Size"]),
            fields.get("Section", ""),
            tuple(_first_names(", ".join(depends))),
        )


def _first_names(depends: str) -> Iterator[str]:
    """Yield the first alternative of each dependency, without version and architecture."""
    for one in depends.split(","):
        name = re.match(r"\s*([^\s:(|]+)", one)
        if name:
            yield name[1]


def _run(
    argv: list[str], limit_s: float, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=limit_s,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoPackages(
            f"{argv[0]} took longer than {limit_s:.0f} s: is the network there?"
        ) from None


def _reason(stderr: str) -> str:
    """Return the line that says why, of the many that apt prints."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return (errors or lines or ["apt gave no reason"])[0].removeprefix("E:").strip()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
