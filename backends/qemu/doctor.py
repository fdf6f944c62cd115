"""What this machine can do for live mode, found out by trying.

`examine` tries each thing within a limit and ends with a pair that loses its primary; it never
raises for what it finds.  What is known of QEMU's versions is in the table `ENGINES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.qemu import tracking
from backends.qemu.accelerators import kvm_works
from backends.qemu.address import free_ports
from backends.qemu.asking import ASK_LIMIT_S, ask_program, end_group, last_line, release, text_of
from backends.qemu.errors import LiveError
from backends.qemu.findings import Finding, Status, lines_of
from backends.qemu.guest import cached
from backends.qemu.guest.programs import compile_ground
from backends.qemu.guest.store import judge
from backends.qemu.launch import Qemu
from backends.qemu.memory import soft_dirty_works
from backends.qemu.net.passt import passt_argv
from backends.qemu.selftest import LAST_STEP, SELF_TEST_BYTES, self_test, skipped
from backends.qemu.volume import make_disk

QEMU = "qemu-system-x86_64"
Say = Callable[[str], None]
Version = tuple[int, int, int]

_MIB = 1 << 20
_MS = 1_000_000
_S = 1000 * _MS

_KVM_LIMIT_S = 5.0
_PASST_LIMIT_S = 15.0
_CHECK_LIMIT_S = 150.0  # of any one check; the compiler has 120 s of its own

_TMPFS = Path("/dev/shm")
_RAM_COPIES = 3  # in the tmpfs: two guests and the shadow
_CACHE_COPIES = 1  # of its own memory: what QEMU's secondary keeps
_OVERHEAD_BYTES = 512 * _MIB  # two QEMUs and four Pythons


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether a pair really survived the loss of its primary here."""
        tests = [each for each in self.findings if each.name == f"self-test {LAST_STEP}"]
        return any(each.status == "ok" for each in tests)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = [each.name for each in self.findings if each.status == "fail"]
        names = ", ".join(dict.fromkeys(failed))
        warnings = sum(each.status == "warn" for each in self.findings)
        if not self.works:
            return f"no live run was seen to work here: {names or 'the self-test did not run'}"
        if failed:
            return f"live runs work here, but not all that they can do: {names}"
        return "live runs work here" + (f"; {warnings} warnings" if warnings else "")

    def to_json(self) -> str:
        """The findings and the verdict as one JSON object."""
        findings = [asdict(each) for each in self.findings]
        whole = {"works": self.works, "verdict": self.verdict, "findings": findings}
        return json.dumps(whole, indent=1)

    def lines(self) -> list[str]:
        """Text for people: a row for each finding, its advice below it, then the verdict."""
        return [*lines_of(self.findings), "", self.verdict]


# --------------------------------------------------------------------------------------------
# What is known of QEMU's versions


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an engine with versions low <= version < high under some accelerators."""

    engine: str
    low: Version
    high: Version
    accelerators: tuple[str, ...]
    status: Status
    detail: str
    advice: str = ""
    is_broken: bool = False


_ANY = ("tcg", "kvm")
_LATER: Version = (999, 0, 0)
_USE_WIRE = "use the wire engine; a native run needs QEMU 11.0 or newer"

#: the first row of an engine that fits counts (`live-recipes.md` 1, `qemu-colo.md` 2.9 and 6)
ENGINES: tuple[Known, ...] = (
    Known(
        "wire",
        (0, 0, 0),
        (7, 2, 0),
        _ANY,
        "fail",
        "QEMU before 7.2 has no stream network device, which the guest's frames go through",
        "install QEMU 7.2 or newer",
    ),
    *(
        Known("wire", low, high, ("tcg",), "ok", detail)
        for low, high, detail in (
            (
                (7, 2, 0),
                (7, 3, 0),
                "works (7.2.22 was tried); its dirty log loses pages under TCG unless the guest is "
                "stopped before the first migration, which this engine does",
            ),
            ((10, 0, 0), (10, 1, 0), "works (10.0.13 was tried)"),
            ((11, 1, 0), (11, 2, 0), "works (11.1.3 was tried)"),
        )
    ),
    Known(
        "wire",
        (7, 2, 0),
        _LATER,
        _ANY,
        "warn",
        "not tried with this version and accelerator; 7.2, 10.0 and 11.1 work under TCG",
        "trust the self-test below",
    ),
    Known(
        "native",
        (10, 0, 0),
        (10, 0, 7),
        _ANY,
        "warn",
        "COLO is broken for everybody in 10.0 before 10.0.7: the primary never enters it",
        _USE_WIRE,
        is_broken=True,
    ),
    Known(
        "native",
        (10, 1, 0),
        (10, 2, 0),
        _ANY,
        "warn",
        "COLO is broken for everybody in 10.1: the primary never enters it",
        _USE_WIRE,
        is_broken=True,
    ),
    Known(
        "native",
        (7, 2, 0),
        (7, 3, 0),
        ("tcg",),
        "warn",
        "hangs at the first checkpoint under TCG, and its dirty log loses pages where RAM is a "
        "multiple of 256 KiB",
        _USE_WIRE,
        is_broken=True,
    ),
    Known(
        "native",
        (10, 0, 7),
        (10, 1, 0),
        ("tcg",),
        "warn",
        "hangs at the first checkpoint under TCG",
        _USE_WIRE,
        is_broken=True,
    ),
    Known(
        "native",
        (0, 0, 0),
        (11, 0, 0),
        _ANY,
        "warn",
        "not tried with this version and accelerator; hangs under TCG on 7.2 and 10.0",
        _USE_WIRE,
    ),
    Known(
        "native",
        (11, 0, 0),
        (11, 1, 0),
        ("tcg",),
        "ok",
        "works by QEMU's own tests; 11.1 was tried",
    ),
    Known("native", (11, 1, 0), (11, 2, 0), ("tcg",), "ok", "works (11.1.3 was tried)"),
    Known(
        "native",
        (11, 0, 0),
        _LATER,
        _ANY,
        "warn",
        "not tried with this version and accelerator; 11.1 works under TCG",
        "look at a short run first",
    ),
)


def broken(engine: str, qemu: Qemu, accelerator: str) -> str | None:
    """Why an engine is known not to work with this QEMU, or None."""
    for row in ENGINES:
        fits = row.low <= qemu.version < row.high and accelerator in row.accelerators
        if row.engine == engine and fits:
            return f"{accelerator}: {row.detail}" if row.is_broken else None
    return None


def engines(qemu: Qemu, accelerator: str) -> list[Finding]:
    """What is known of each engine with this QEMU."""
    found: dict[str, Finding] = {}
    for row in ENGINES:
        fits = row.low <= qemu.version < row.high and accelerator in row.accelerators
        if fits and row.engine not in found:
            name = f"{row.engine} engine"
            detail = f"QEMU {qemu.release}, {accelerator}: {row.detail}"
            found[row.engine] = Finding(name, row.status, detail, row.advice)
    return list(found.values())


# --------------------------------------------------------------------------------------------
# Checks


def _colo(qemu: Qemu) -> Finding:
    """Start it without a machine and look whether it knows COLO: it can be built without."""
    commands = ("qmp_capabilities", "query-migrate-capabilities", "quit")
    give = "".join(json.dumps({"execute": command}) + "\n" for command in commands)
    said = ask_program(
        [
            *(qemu.path, "-machine", "none", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-qmp", "stdio"),
        ],
        2 * ASK_LIMIT_S,
        give,
    )
    name = "qemu colo"
    if '"x-colo"' in said.out:
        return Finding(name, "ok", f"QEMU {qemu.release} answers QMP and was built with COLO")
    if '"QMP"' in said.out:
        why = f"QEMU {qemu.release} was built without COLO"
    else:
        why = f"QEMU {qemu.release} does not start: {last_line(said.err)}"
    return Finding(name, "fail", why, "install a distribution's QEMU (built with replication)")


async def _accelerator(qemu: Qemu) -> tuple[str, Finding]:
    """The one that really runs code."""
    name = "accelerator"
    kvm = Path("/dev/kvm")
    if not kvm.exists():
        detail = "tcg: there is no /dev/kvm"
        return "tcg", Finding(name, "warn", detail, "guests are slower; use a host with KVM")
    if not os.access(kvm, os.R_OK | os.W_OK):
        return "tcg", Finding(
            name, "warn", "tcg: /dev/kvm may not be opened", "join the group kvm, for speed"
        )
    if await kvm_works(qemu, _KVM_LIMIT_S):
        return "kvm", Finding(name, "ok", f"kvm runs code with QEMU {qemu.release}")
    return "tcg", Finding(
        name,
        "warn",
        f"tcg: /dev/kvm is there, but runs no code with QEMU {qemu.release} "
        f"within {_KVM_LIMIT_S:g} s",
        "guests are slower; nested virtualisation may be off",
    )


def _available_bytes() -> int:
    """Memory that can still be had: of the machine, and of this control group."""
    about = Path("/proc/meminfo").read_text()
    match = re.search(r"^MemAvailable:\s+(\d+) kB", about, re.MULTILINE)
    available = int(match[1]) << 10 if match else 0
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no such limit
        most = int((group / "memory.max").read_text())
        available = min(available, most - int((group / "memory.current").read_text()))
    return available


def _memory(guest_bytes: int) -> Finding:
    need = (_RAM_COPIES + _CACHE_COPIES) * guest_bytes + _OVERHEAD_BYTES
    free = _available_bytes()
    detail = f"{free // _MIB} MiB available, {need // _MIB} MiB needed for a guest of " + (
        f"{guest_bytes // _MIB} MiB"
    )
    if free >= need:
        return Finding("memory", "ok", detail)
    return Finding("memory", "fail", detail, "give the guest less memory, or end other programs")


def _shared_memory(guest_bytes: int) -> Finding:
    name = str(_TMPFS)
    if not _TMPFS.is_dir():
        return Finding(name, "fail", "not there", f"mount a tmpfs at {_TMPFS}")
    if not os.access(_TMPFS, os.W_OK | os.X_OK):
        return Finding(name, "fail", "may not be written to", f"chmod 1777 {_TMPFS}")
    need = _RAM_COPIES * guest_bytes
    free = shutil.disk_usage(_TMPFS).free
    detail = f"{free // _MIB} MiB free, {need // _MIB} MiB needed"
    if free >= need:
        return Finding(name, "ok", detail)
    return Finding(name, "fail", detail, f"mount -o remount,size={2 * need // _MIB}M {_TMPFS}")


def _passt() -> Finding:
    """Start it as a run does, and connect to it."""
    install = "apt-get install passt; runs without clients need none"
    with tempfile.TemporaryDirectory(prefix="colosim-passt-") as directory:
        path = Path(directory, "gw")
        try:
            argv = passt_argv(path, [(free_ports()[0], 80)])
        except LiveError as error:
            return Finding("passt", "fail", str(error).partition(";")[0], install)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                connects = _connects(path, process)
            finally:
                end_group(process)
            log.seek(0)
            why = last_line(text_of(log.read(1 << 16)))
    if connects:
        return Finding("passt", "ok", f"{argv[0]} runs and takes a connection")
    advice = "it needs user namespaces, or root; runs without clients need no passt"
    return Finding("passt", "fail", f"{argv[0]} does not serve: {why}", advice)


def _connects(path: Path, process: subprocess.Popen[Any]) -> bool:
    """Whether the process takes a connection there and is still alive a moment later."""
    end_s = time.monotonic() + _PASST_LIMIT_S
    while time.monotonic() < end_s and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(_PASST_LIMIT_S)
            client.connect(str(path))
            time.sleep(0.1)
            return process.poll() is None
        time.sleep(0.02)
    return False


_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000


def _tap() -> Finding:
    """Make a TAP device; it goes when it is closed."""
    name = "tap"
    if os.geteuid() != 0:
        return Finding(name, "skip", "only root may make one; clients reach guests by passt")
    advice = "not needed where passt runs; else load the module tun, with CAP_NET_ADMIN"
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH22x", b"colosim%d", _IFF_TAP_NO_PI)
            made = fcntl.ioctl(device, _TUNSETIFF, request)
        finally:
            os.close(device)
    except OSError as error:
        return Finding(name, "warn", f"cannot be made: {error.strerror}", advice)
    return Finding(name, "ok", f"{text_of(made[:16].rstrip(bytes(1)))} could be made")


def _dirty_pages() -> Finding:
    name = "dirty pages"
    if tracking.works():
        return Finding(name, "ok", "the kernel records what a QEMU writes (userfaultfd)")
    if soft_dirty_works():
        return Finding(name, "ok", "the kernel tells which pages were written (soft-dirty)")
    return Finding(
        name,
        "warn",
        "this kernel does not record them: all memory is compared, about 20 ms for 128 MiB",
        "keep the guest small, or use Linux 6.7 or later, or one with CONFIG_MEM_SOFT_DIRTY",
    )


def _cached_image() -> Finding:
    image = cached(["ground"])
    if image is None:
        detail = "none in the cache: the first run builds one, which takes the network"
        return Finding("guest image", "warn", detail, "run the self-test once with a network")
    return Finding("guest image", "ok", f"in the cache: {image.initrd.parent}")


def _tools() -> Finding:
    """Of Debian: packages that can be looked up and unpacked."""
    name = "dpkg and apt"
    status: Status = "fail" if cached(["ground"]) is None else "warn"
    missing = [tool for tool in ("apt-cache", "apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        detail = f"not found: {', '.join(missing)}; no other guest image can be built"
        return Finding(name, status, detail, "build images on Debian, or give guest.kernel")
    said = ask_program(["apt-cache", "show", "--no-all-versions", "busybox-static"], 30.0)
    if "SHA256:" in said.out:
        return Finding(name, "ok", "packages can be looked up")
    detail = "apt has no list with busybox-static: lists of our own are fetched for an image"
    return Finding(name, "warn", detail, "apt-get update, or let a run fetch them")


def _compiler() -> Finding:
    """Compile the guest's program."""
    try:
        size = len(compile_ground())
    except LiveError as error:
        status: Status = "fail" if cached(["ground"]) is None else "warn"
        detail, _, advice = str(error).rpartition("; ")
        return Finding("compiler", status, detail or advice, advice)
    return Finding("compiler", "ok", f"builds the guest's program, {size >> 10} KiB")


def _disks() -> Finding:
    """Make a file system and look at it, as a run with guest.volume does."""
    name = "e2fsprogs"
    try:
        with tempfile.TemporaryDirectory(prefix="colosim-disk-") as directory:
            disk = Path(directory, "disk")
            make_disk(disk, 8 * _MIB)
            verdict = judge(disk, [], 1)
    except LiveError as error:
        detail, _, advice = str(error).rpartition("; ")
        return Finding(name, "warn", f"{detail}; runs without guest.volume need none", advice)
    if verdict.problems:
        return Finding(name, "fail", verdict.problems[0], "install another e2fsprogs")
    return Finding(name, "ok", "a disk of a guest can be made and checked")


# --------------------------------------------------------------------------------------------
# The examination


async def examine(
    qemus: Sequence[str] = (QEMU,),
    say: Say = lambda text: None,
    *,
    guest_bytes: int = SELF_TEST_BYTES,
    tests: bool = True,
) -> Examination:
    """Find out what this machine can do for live mode.

    qemus: binaries, by name or path.  say: progress.  guest_bytes: RAM of the guest that is meant.
    tests: whether to run the self-test, with each QEMU.
    """
    findings: list[Finding] = []
    usable: list[tuple[Qemu, str]] = []
    for path in qemus or (QEMU,):
        say(f"looking at {path}")
        found, accelerator, qemu = await _examine_qemu(path)
        findings += found
        if qemu is not None:
            usable.append((qemu, accelerator))
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("memory", lambda: _memory(guest_bytes)),
        (str(_TMPFS), lambda: _shared_memory(guest_bytes)),
        ("passt", _passt),
        ("tap", _tap),
        ("dirty pages", _dirty_pages),
        ("guest image", _cached_image),
        ("dpkg and apt", _tools),
        ("compiler", _compiler),
        ("e2fsprogs", _disks),
    )
    for name, function in checks:
        say(f"trying {name}")
        findings.append(await _guarded(name, asyncio.to_thread(function)))
    if not usable or not tests:
        findings += skipped("not asked for" if usable else "there is no QEMU that can run it")
    for qemu, accelerator in usable if tests else ():
        say(f"self-test with QEMU {qemu.release} and {accelerator}")
        found = await self_test(say, qemu.path, accelerator)
        if accelerator != "tcg" and found[-1].status != "ok":
            found += await self_test(say, qemu.path)
        findings += found
    return Examination(tuple(findings))


async def _guarded(name: str, trying: Awaitable[Finding]) -> Finding:
    """What was found; a check that fails by itself is a finding too."""
    try:
        async with asyncio.timeout(_CHECK_LIMIT_S):
            return await trying
    except TimeoutError:
        return Finding(name, "fail", f"not found out within {_CHECK_LIMIT_S:g} s", "try again")
    except Exception as error:
        why = f"could not be tried: {type(error).__name__}: {error}"
        return Finding(name, "fail", why, "look at what it names")


async def _examine_qemu(path: str) -> tuple[list[Finding], str, Qemu | None]:
    """Findings, the accelerator that works, and the QEMU unless it is of no use."""
    try:
        qemu = await asyncio.to_thread(release, path)
    except LiveError as error:
        detail, _, advice = str(error).rpartition("; ")
        return [Finding("qemu", "fail", detail, advice)], "", None
    findings = [Finding("qemu", "ok", f"{qemu.path} is QEMU {qemu.release}")]
    findings.append(await _guarded("qemu colo", asyncio.to_thread(_colo, qemu)))
    if findings[-1].status == "fail":
        return findings, "", None
    accelerator = "tcg"

    async def accelerated() -> Finding:
        nonlocal accelerator
        accelerator, finding = await _accelerator(qemu)
        return finding

    findings.append(await _guarded("accelerator", accelerated()))
    findings += engines(qemu, accelerator)
    failed = any(each.status == "fail" for each in findings)
    return findings, accelerator, None if failed else qemu
