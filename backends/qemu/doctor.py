"""What this machine can do for live mode, found out by trying; and what a scenario does unsafely.

`examine` tries each thing within a limit and ends with a pair that loses its primary; it never
raises for what it finds.  `unsafe` reads a scenario.  Knowledge is in tables: `ENGINES` (QEMU's
versions), `_UNSAFE` (settings) and `_ARGUMENTS` (arguments of QEMU).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from backends.nodes import node_configs
from backends.qemu.accelerators import kvm_works
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, GuestImage, cached
from backends.qemu.guest.programs import compile_ground
from backends.qemu.launch import Machine, Qemu
from backends.qemu.memory import soft_dirty_works
from backends.qemu.net.passt import passt_argv
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.records import merged
from backends.qemu.runner import LiveRun
from colosim.model.errors import ModelError
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Quirks
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.invariants import check
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import decode_line, encode_line, replay
from colosim.scenario import ClosedService, OpenService, Scenario, Workload

QEMU = "qemu-system-x86_64"
Status = Literal["ok", "warn", "fail", "skip"]
Say = Callable[[str], None]
Version = tuple[int, int, int]

_MIB = 1 << 20
_MS = 1_000_000
_S = 1000 * _MS

_ASK_LIMIT_S = 5.0  # of a program that only has to say something
_KVM_LIMIT_S = 5.0
_PASST_LIMIT_S = 5.0
_CHECK_LIMIT_S = 150.0  # of any one check; the compiler has 120 s of its own
_BUILD_LIMIT_S = 300.0
_PAIR_LIMIT_S = 120.0
_SERIAL_LIMIT_S = 15.0
_TAKEOVER_LIMIT_S = 20.0

_TMPFS = Path("/dev/shm")
_RAM_COPIES = 3  # in the tmpfs: two guests and the shadow
_CACHE_COPIES = 1  # of its own memory: what QEMU's secondary keeps
_OVERHEAD_BYTES = 512 * _MIB  # two QEMUs and four Pythons
_SELF_TEST_BYTES = 131080 << 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out.

    status: ok; warn, works but worse or unsafe; fail, does not work; skip, was not tried.
    advice: what would make it right; empty if nothing need be done.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether a pair really survived the loss of its primary here."""
        tests = [each for each in self.findings if each.name == f"self-test {_LAST_STEP}"]
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


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """Aligned text of findings, advice below what it is for."""
    width = max((len(each.name) for each in findings), default=0)
    status = max(map(len, get_args(Status)))
    lines = []
    for each in findings:
        lines.append(f"{each.status:<{status}}  {each.name:<{width}}  {each.detail}".rstrip())
        if each.advice:
            lines.append(f"{'':{status + width + 4}}-> {each.advice}")
    return lines


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
    ),
    Known(
        "native",
        (10, 1, 0),
        (10, 2, 0),
        _ANY,
        "warn",
        "COLO is broken for everybody in 10.1: the primary never enters it",
        _USE_WIRE,
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
    ),
    Known(
        "native",
        (10, 0, 7),
        (10, 1, 0),
        ("tcg",),
        "warn",
        "hangs at the first checkpoint under TCG",
        _USE_WIRE,
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
# Asking programs


@dataclass(frozen=True, slots=True)
class _Said:
    """What a program said before its limit; status None if it was killed then."""

    status: int | None
    out: str
    err: str


def _ask_program(argv: Sequence[str], limit_s: float, give: str = "") -> _Said:
    """Run a program; it and what it started have ended when this returns.

    Raises OSError if it cannot be started.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # no pipe can block us
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
        )
        status: int | None = None
        try:
            process.communicate(give.encode(), timeout=limit_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        out.seek(0)
        err.seek(0)
        return _Said(status, _text(out.read(1 << 22)), _text(err.read(1 << 16)))


def _end(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ASK_LIMIT_S)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _release(path: str) -> Qemu:
    """The version of a binary, sooner given up than `launch.probe` does; LiveError."""
    found = shutil.which(path)
    if found is None:
        raise LiveError(
            f"{path}: not found; install the Debian package qemu-system-x86, or name another binary"
        )
    try:
        said = _ask_program([found, "--version"], _ASK_LIMIT_S)
    except OSError as error:
        raise LiveError(f"{found}: cannot be run: {error.strerror}; give a QEMU binary") from None
    if said.status is None:
        raise LiveError(
            f"{found}: did not tell its version in {_ASK_LIMIT_S:g} s; give a QEMU binary"
        )
    match = re.match(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)", said.out)
    if match is None:
        raise LiveError(f"{found}: is no QEMU system emulator; give a QEMU binary")
    major, minor, micro = map(int, match.groups())
    return Qemu(found, (major, minor, micro))


# --------------------------------------------------------------------------------------------
# Checks


def _colo(qemu: Qemu) -> Finding:
    """Start it without a machine and look whether it knows COLO: it can be built without."""
    commands = ("qmp_capabilities", "query-migrate-capabilities", "quit")
    give = "".join(json.dumps({"execute": command}) + "\n" for command in commands)
    said = _ask_program(
        [
            *(qemu.path, "-machine", "none", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-qmp", "stdio"),
        ],
        2 * _ASK_LIMIT_S,
        give,
    )
    name = "qemu colo"
    if '"x-colo"' in said.out:
        return Finding(name, "ok", f"QEMU {qemu.release} answers QMP and was built with COLO")
    if '"QMP"' in said.out:
        why = f"QEMU {qemu.release} was built without COLO"
    else:
        why = f"QEMU {qemu.release} does not start: {_last(said.err)}"
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
            argv = passt_argv(path, [(_free_port(), 80)])
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
                _end(process)
            log.seek(0)
            why = _last(_text(log.read(1 << 16)))
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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
    return Finding(name, "ok", f"{_text(made[:16].rstrip(bytes(1)))} could be made")


def _soft_dirty() -> Finding:
    if soft_dirty_works():
        return Finding("soft-dirty", "ok", "the kernel tells which pages were written")
    return Finding(
        "soft-dirty",
        "warn",
        "this kernel does not record them: all memory is compared, about 20 ms for 128 MiB",
        "keep the guest small, or use a kernel with CONFIG_MEM_SOFT_DIRTY",
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
    said = _ask_program(["apt-cache", "show", "--no-all-versions", "busybox-static"], 30.0)
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


# --------------------------------------------------------------------------------------------
# The self-test

_LAST_STEP = "replay"
_STEPS = ("parts", "boot", "protect", "checkpoints", "takeover", "memory", _LAST_STEP)
_CHECKPOINTS = 5
_PAGES = 2000

_SCENARIO: dict[str, Any] = {
    "name": "doctor",
    "duration": "60 s",
    "policy": {"name": "remus", "remus": {"interval": "100 ms"}},
    "commit": "loaded",
    "workload": {"kind": "batch", "work": "1 s"},
    "memory": {"kind": "uniform", "working_set_pages": _PAGES, "touches": "5000 /s"},
    "manager": {"heartbeat_interval": "50 ms", "heartbeat_timeout": "2 s"},
    "limits": {
        **dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "3 s"),
        **dict.fromkeys(("ready", "save", "send", "received", "loaded", "load", "receive"), "10 s"),
    },
}

_Passed = Callable[[str], None]


async def self_test(say: Say, qemu: str = QEMU, accelerator: str = "tcg") -> list[Finding]:
    """Lose the primary of a real pair: one finding a step; after one that failed the rest skip."""
    passed: list[str] = []
    why = ""
    with tempfile.TemporaryDirectory(prefix="colosim-", ignore_cleanup_errors=True) as scratch:
        try:
            async with asyncio.timeout(_BUILD_LIMIT_S + _PAIR_LIMIT_S):
                image = await asyncio.to_thread(_image, say)
                binary = await asyncio.to_thread(_release, qemu)
                passed.append(f"QEMU {binary.release}, {accelerator}, {image.initrd.parent}")
                plan = _plan(image, binary, accelerator)
                async with asyncio.timeout(_PAIR_LIMIT_S):
                    await _lose_primary(plan, Path(scratch), say, passed.append)
        except TimeoutError:
            why = "not done in time"
        except Exception as error:  # whatever it is, it is what was to be found out
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, LiveError):
                why = str(error)
    found = [
        Finding(f"self-test {step}", "ok", detail)
        for step, detail in zip(_STEPS, passed, strict=False)
    ]
    for step in _STEPS[len(passed) :]:
        if len(found) == len(passed):
            detail, _, advice = why.partition("; ")
            advice = advice or "run a scenario with colosim live --out DIR, which keeps the logs"
            found.append(Finding(f"self-test {step}", "fail", detail, advice))
        else:
            found.append(Finding(f"self-test {step}", "skip", "the step before it failed"))
    return found


def _skipped(why: str) -> list[Finding]:
    return [Finding(f"self-test {step}", "skip", why) for step in _STEPS]


def _image(say: Say) -> GuestImage:
    """From the cache, else built by a process that can be ended."""
    image = cached(["ground"])
    if image is not None:
        return image
    say("building a guest image")
    code = (
        "import sys\n"
        "from backends.qemu.errors import LiveError\n"
        "from backends.qemu.guest import build\n"
        "try: build(['ground'], lambda text: None)\n"
        "except LiveError as error: sys.exit(str(error))\n"
    )
    said = _ask_program([sys.executable, "-c", code], _BUILD_LIMIT_S)
    image = cached(["ground"])
    if image is None:
        late = f"was not built within {_BUILD_LIMIT_S:g} s; is the network there?"
        raise LiveError(f"guest image: {late if said.status is None else _last(said.err)}")
    return image


def _plan(image: GuestImage, qemu: Qemu, accelerator: str) -> LivePlan:
    ground = GroundOptions(pages=_PAGES, rate=5000, pattern="uniform", seed=1, vm="p")
    machine = Machine(
        kind="pc",
        accelerator=accelerator,
        memory_bytes=_SELF_TEST_BYTES,
        kernel=image.kernel,
        initrd=image.initrd,
        append=image.command_line(ground=ground),
    )
    nodes = node_configs(Scenario.from_mapping(_SCENARIO), "remus")
    a, b = (HostPlan(name, node, qemu) for name, node in zip("ab", nodes, strict=True))
    return LivePlan(machine, (a, b))


async def _lose_primary(plan: LivePlan, scratch: Path, say: Say, passed: _Passed) -> None:
    run = LiveRun(plan, scratch, say)
    async with run.running():
        start_s = time.monotonic()
        await run.boot()
        passed(f"the guest was ready after {time.monotonic() - start_s:.1f} s")
        start_s = time.monotonic()
        await run.protect()
        passed(f"the pair was made in {time.monotonic() - start_s:.1f} s")
        start_s = time.monotonic()
        await _until_checkpoint(run, scratch, _CHECKPOINTS)
        passed(f"{_CHECKPOINTS} done in {time.monotonic() - start_s:.1f} s")
        say("killing the primary")
        await run.strike("a", "vm", "crash")
        struck_ns = run.events[-1].at_ns
        survivor = await run.until_promoted(_TAKEOVER_LIMIT_S)
        if survivor != "b":
            raise LiveError(f"host {survivor} went on, whose guest had been killed")
        promoted = next(told for told in run.events if told.what == "promoted")
        took_ms = (promoted.at_ns - struck_ns) / _MS
        passed(f"the secondary went on {took_ms:.0f} ms after the primary's SIGKILL")
        generation = await _goes_on(run, survivor)
    committed = _committed_generation(scratch)
    if not generation >= committed > 0:
        raise LiveError(
            f"the guest went on from generation {generation}, {committed} was committed"
        )
    passed(f"all pages verified, generation {generation}, {committed} was committed")
    passed(await asyncio.to_thread(_replayed, scratch))


async def _until_checkpoint(run: LiveRun, scratch: Path, number: int) -> None:
    done = f'"{t.Completed.__name__}":{{"checkpoint":{number}}}'
    trace = scratch / "a.trace"
    while not trace.exists() or done not in trace.read_text(errors="replace"):
        run.check()
        await asyncio.sleep(0.1)


async def _goes_on(run: LiveRun, host: str) -> int:
    """The guest's generation; it verified its memory twice, and worked between."""
    path = run.paths(host).command
    generations = []
    for _ in range(2):
        said = await asyncio.to_thread(_serial, path, "verify")
        if not said.startswith("ok "):
            raise LiveError(f"the guest's memory is not intact: {said}")
        generations.append(int(said.rpartition("generation=")[2]))
    if generations[1] <= generations[0]:
        raise LiveError(f"the guest stands still at generation {generations[0]}")
    return generations[0]


def _serial(path: Path, command: str) -> str:
    """One command to the guest by its second serial port."""
    with socket.socket(socket.AF_UNIX) as tty:
        tty.settimeout(_SERIAL_LIMIT_S)
        tty.connect(str(path))
        tty.sendall(command.encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            piece = tty.recv(4096)
            if not piece:
                raise LiveError("the guest's serial port closed")
            said += piece
    return _text(said).strip()


def _committed_generation(scratch: Path) -> int:
    """Of the guest's program in the state of the last committed checkpoint."""
    lines = merged([scratch / "a.trace", scratch / "b.trace"])
    committed = [line.body.checkpoint for line in lines if isinstance(line.body, t.Committed)]
    rows = [json.loads(row) for row in (scratch / "a.saves").read_text().splitlines()]
    last = max(committed, default=0)
    return next((int(row["generation"]) for row in rows if row["checkpoint"] == last), 0)


def _replayed(scratch: Path) -> str:
    lines = merged([scratch / "a.trace", scratch / "b.trace"])
    differing = replay(decode_line(encode_line(line)) for line in lines)
    if differing:
        raise LiveError(f"the trace replays to other decisions: {differing[0]}")
    broken = [str(each) for each in check(lines)]
    if broken:
        raise LiveError(f"the trace breaks an invariant: {broken[0]}")
    return f"{len(lines)} trace lines replay to the same decisions and break no invariant"


# --------------------------------------------------------------------------------------------
# The examination


async def examine(
    qemus: Sequence[str] = (QEMU,),
    say: Say = lambda text: None,
    *,
    guest_bytes: int = _SELF_TEST_BYTES,
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
        ("soft-dirty", _soft_dirty),
        ("guest image", _cached_image),
        ("dpkg and apt", _tools),
        ("compiler", _compiler),
    )
    for name, function in checks:
        say(f"trying {name}")
        findings.append(await _guarded(name, asyncio.to_thread(function)))
    if not usable or not tests:
        findings += _skipped("not asked for" if usable else "there is no QEMU that can run it")
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
        qemu = await asyncio.to_thread(_release, path)
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


# --------------------------------------------------------------------------------------------
# Unsafe settings of a scenario


@dataclass(frozen=True)
class _Asked:
    """A scenario, and what its rules need to know beyond it."""

    s: Scenario
    versions: tuple[Version, ...]  # of primary and secondary; none if they cannot be told
    protects: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "protects", POLICIES[self.s.policy.name].protects())

    @property
    def oldest(self) -> Version | None:
        return min(self.versions, default=None)

    @property
    def differ(self) -> bool:
        return len({version[:2] for version in self.versions}) > 1

    @property
    def is_q35(self) -> bool:
        return "q35" in self.s.guest.machine

    @property
    def machine_version(self) -> tuple[int, int] | None:
        match = re.search(r"-(\d+)\.(\d+)$", self.s.guest.machine)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def interval_ns(self) -> int | None:
        """From one checkpoint to the next, where the policy has such a time."""
        params = self.s.policy_params(self.s.policy.name)
        for name in ("interval_ns", "checkpoint_delay_ns"):
            value = getattr(params, name, None)
            if value is not None:
                return int(value)
        return None

    @property
    def pages(self) -> float:
        """Dirty pages to be expected in one interval; 0 if the model cannot tell."""
        if self.interval_ns is None:
            return 0.0
        requests = _requests_per_s(self.s.workload) * self.interval_ns / _S
        try:
            return self.s.memory_model().mean(self.interval_ns, requests)
        except ModelError:  # beyond what was measured
            return 0.0

    @property
    def send_ns(self) -> float:
        """To send the state of one interval."""
        return self._on_link_ns(self.s.costs().state_bytes(round(self.pages)))

    @property
    def first_ns(self) -> float:
        """To send all of the guest's memory."""
        return self._on_link_ns(self.s.memory.guest_memory_bytes)

    def _on_link_ns(self, size_bytes: float) -> float:
        return size_bytes * 8 / self.s.link.bandwidth_bps * _S + self.s.link.delay_ns

    @property
    def pause_ns(self) -> float:
        """A checkpoint with all memory compared: 21 ms for 128 MiB (`live-recipes.md` 2)."""
        costs, pages = self.s.costs(), round(self.pages)
        compared = 21 * _MS * self.s.memory.guest_memory_bytes / (128 * _MIB)
        return compared + costs.save_ns(pages) + costs.load_ns(pages) + self.send_ns

    @property
    def long_limits(self) -> list[str]:
        longest = _LIMIT_TIMEOUTS * self.s.manager.heartbeat_timeout_ns
        limits = self.s.limits.model_dump().items()
        return [name.removesuffix("_ns") for name, limit in limits if limit > longest]

    @property
    def port_trouble(self) -> str:
        port = self.s.client.host_port
        if port is None or self.s.client.kind == "none":
            return ""
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
            except OSError as error:
                used = error.errno == errno.EADDRINUSE
                return "is taken by another program" if used else str(error.strerror)
        return ""

    @property
    def shared_memory_bytes(self) -> int:
        return shutil.disk_usage(_TMPFS).free if _TMPFS.is_dir() else 0


def _requests_per_s(workload: Workload) -> float:
    if isinstance(workload, OpenService):
        return workload.rate_per_s
    if isinstance(workload, ClosedService):
        return workload.clients * _S / (workload.think_time_ns + workload.service_time_ns)
    return 0.0


_LIMIT_TIMEOUTS = 60  # a limit of more heartbeat time-outs than these finds what is long known
_PAUSES = 3  # a heartbeat time-out shorter than these pauses suspects a busy peer
_SHORTEST_TIMEOUT_NS = 200 * _MS  # a loaded machine does not run a process for so long
_SHORTEST_FENCE_NS = 1 * _S
_PAIR_NS = 180 * _S  # the runner's limit for the first synchronisation

_Rule = tuple[Status, Callable[[_Asked], Any], str, str, str]

#: (status, holds, key, what is unsafe, what would be right)
_UNSAFE: tuple[_Rule, ...] = (
    (
        "warn",
        lambda a: not a.protects,
        "policy.name",
        "nothing protects the guest: what kills it is the end of it",
        "give remus",
    ),
    (
        "fail",
        lambda a: a.s.manager.fence_fails,
        "manager.fence_fails",
        "where fencing fails no host may go on, or two guests with one address would",
        "leave it out: it is for simulations",
    ),
    (
        "fail",
        lambda a: a.s.quirks is not Quirks.NONE,
        "quirks",
        "reproduces defects of QEMU 7.2 on purpose",
        'give "none", or leave it out',
    ),
    (
        "warn",
        lambda a: (
            a.protects
            and (a.s.commit or DIALECTS[a.s.dialect].commit.value) == Message.RECEIVED.value
        ),
        "commit",
        "output leaves when the state is received, before it is loaded: if the load fails then, "
        "the secondary must not take over, and what clients have seen is lost with the primary",
        'give commit = "loaded"',
    ),
    (
        "fail",
        lambda a: a.protects and a.s.manager.heartbeat_timeout_ns < a.pause_ns,
        "manager.heartbeat_timeout",
        "shorter than a checkpoint of this guest is likely to be: a healthy peer can be killed",
        "give at least three pauses, 500 ms or more",
    ),
    (
        "warn",
        lambda a: (
            a.protects
            and a.pause_ns
            <= a.s.manager.heartbeat_timeout_ns
            < max(_PAUSES * a.pause_ns, _SHORTEST_TIMEOUT_NS)
        ),
        "manager.heartbeat_timeout",
        "a busy machine can be silent for as long: a healthy peer can be killed",
        "give at least three pauses, 500 ms or more",
    ),
    (
        "warn",
        lambda a: a.s.manager.heartbeat_timeout_ns < 3 * a.s.manager.heartbeat_interval_ns,
        "manager.heartbeat_interval",
        "one or two late heartbeats are enough to suspect a healthy peer",
        "give at most a third of heartbeat_timeout",
    ),
    (
        "warn",
        lambda a: a.s.manager.fence_timeout_ns < _SHORTEST_FENCE_NS,
        "manager.fence_timeout",
        "a process with much memory takes long to end, and a fence that is given up strands both",
        "give 1 s or more",
    ),
    (
        "warn",
        lambda a: a.protects and a.long_limits,
        "limits",
        f"longer than {_LIMIT_TIMEOUTS} heartbeat time-outs: a guest that hangs while its node "
        "beats keeps clients waiting for so long",
        "give shorter ones, a few times the longest step",
    ),
    (
        "fail",
        lambda a: a.protects and min(a.s.limits.send_ns, a.s.limits.received_ns) < a.send_ns,
        "limits.send",
        "shorter than the link takes for a state of this size: every checkpoint fails",
        "give more to send, received and receive, or more link.bandwidth",
    ),
    (
        "warn",
        lambda a: a.protects and a.interval_ns is not None and a.send_ns >= a.interval_ns,
        "link.bandwidth",
        "a checkpoint's state is not sent before the next is due: the period stretches, and output "
        "waits with it",
        "give more bandwidth, a longer interval or fewer dirty pages",
    ),
    (
        "warn",
        lambda a: (
            a.protects and a.interval_ns is not None and a.send_ns < a.interval_ns <= a.pause_ns
        ),
        "policy",
        "a checkpoint is not done before the next is due: the guest stands still most of the time",
        "give a longer interval or less guest_memory",
    ),
    (
        "fail",
        lambda a: a.protects and a.first_ns > _PAIR_NS,
        "link.bandwidth",
        "the first synchronisation does not end within its limit of 180 s",
        "give more bandwidth or less guest_memory",
    ),
    (
        "fail",
        lambda a: _RAM_COPIES * a.s.memory.guest_memory_bytes > a.shared_memory_bytes,
        "memory.guest_memory",
        f"three times as much does not fit {_TMPFS} now",
        f"give less, or mount {_TMPFS} larger",
    ),
    (
        "skip",
        lambda a: (
            any(version[:2] == (7, 2) for version in a.versions)
            and a.s.memory.guest_memory_bytes % (256 << 10) == 0
        ),
        "memory.guest_memory",
        "a multiple of 256 KiB: QEMU 7.2's own COLO would lose dirty pages under TCG; the wire "
        "engine does not use that log while the guest runs",
        'nothing for the wire engine; for a native run a size like "131080 KiB"',
    ),
    (
        "fail",
        lambda a: a.is_q35 and a.oldest is not None and a.oldest < (11, 0, 0),
        "guest.machine",
        "q35 crashes the secondary at the second state it loads, before QEMU 11.0",
        'give "pc", or QEMU 11.0',
    ),
    (
        "warn",
        lambda a: a.is_q35 and a.oldest is None,
        "guest.machine",
        "q35 crashes the secondary at the second state it loads, before QEMU 11.0, and the version "
        "is not known",
        'give "pc"',
    ),
    (
        "fail",
        lambda a: (
            a.s.guest.secondary_qemu is not None
            and (a.differ or not a.versions)
            and a.machine_version is None
        ),
        "guest.machine",
        "means another machine in each of two versions of QEMU: the state does not load",
        "give a versioned one that both have, like pc-i440fx-7.2",
    ),
    (
        "fail",
        lambda a: a.oldest and a.machine_version and a.machine_version > a.oldest[:2],
        "guest.machine",
        "is newer than a QEMU of the pair",
        "give the version of the older QEMU, or an earlier one",
    ),
    (
        "fail",
        lambda a: (
            a.s.client.kind != "none"
            and len(a.versions) == 2
            and a.versions[0][:2] == (10, 0)
            and a.versions[1] >= (11, 0, 0)
        ),
        "guest.secondary_qemu",
        "QEMU 10.0 saves virtio network queues of 1024 entries, which 11.1 refuses to load",
        "give another primary, or no client",
    ),
    (
        "fail",
        lambda a: a.s.guest.accelerator == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK),
        "guest.accelerator",
        "/dev/kvm is not there or may not be opened",
        'give "auto"',
    ),
    (
        "warn",
        lambda a: a.s.guest.accelerator == "kvm" and os.access("/dev/kvm", os.R_OK | os.W_OK),
        "guest.accelerator",
        "that /dev/kvm opens does not prove that it runs code, and none tried pairs under it",
        'give "auto", which tries it',
    ),
    (
        "warn",
        lambda a: a.s.guest.boot_limit_ns < 5 * _S,
        "guest.boot_limit",
        "shorter than a guest without KVM takes to boot",
        "give 30 s or more",
    ),
    (
        "warn",
        lambda a: a.s.guest.kernel is not None and "console=ttyS0" not in a.s.guest.append,
        "guest.append",
        "the kernel says nothing on the console where guest.ready is looked for",
        "add console=ttyS0",
    ),
    (
        "fail",
        lambda a: a.port_trouble,
        "client.host_port",
        "cannot be had on 127.0.0.1",
        "give a free one of 1024 or more, or leave it out",
    ),
    (
        "warn",
        lambda a: (
            a.protects
            and a.s.client.kind != "none"
            and a.s.client.timeout_ns <= a.s.manager.heartbeat_timeout_ns
        ),
        "client.timeout",
        "clients give up before a host can take over that fell silent",
        "give more than manager.heartbeat_timeout and a second",
    ),
)

_OWN = "colosim gives it itself, and both would not agree"

#: (status, the argument alone or with its value, what is unsafe, what would be right)
_ARGUMENTS: tuple[tuple[Status, str, str, str], ...] = (
    ("fail", r"\bvhost=on\b", "the kernel would send frames past the gate", "give vhost=off"),
    ("fail", r"\bvhost-(user|vdpa|vsock|scsi)", "its output passes the gate", "leave it out"),
    (
        "fail",
        r"\bmq=on\b|(?<![-\w])queues=([2-9]|1\d)",
        "several queues pass QEMU's network filters by",
        "leave it at one queue",
    ),
    (
        "fail",
        r"\b(return-path|multifd|pause-before-switchover|postcopy(-\w+)?)=(on|true|yes)\b",
        "does not go with COLO: the migration fails, or pages pass its cache by",
        "leave it out",
    ),
    ("fail", r"\bqxl\b|^-spice\b", "crashes the secondary", "give -display none or -vnc"),
    (
        "fail",
        r"^-snapshot$",
        "each guest would write to a temporary disk of its own that is gone with it",
        "leave it out",
    ),
    (
        "fail",
        r"^-(drive|blockdev|hd[abcd]|sd|pflash|mtdblock)\b"
        r"(?!.*(\breplication\b|\bread-?only=(on|true)\b|\bmedia=cdrom\b|\"read-only\": *true))",
        "a disk that is not replicated: the two guests' disks part, or both write to one",
        "add readonly=on, or run without a disk",
    ),
    (
        "fail",
        r"^-(netdev|nic|net) (?!none$)",
        "frames of a network of your own are not held back until they are safe",
        "leave it out; [client] makes the network",
    ),
    (
        "fail",
        r"^-(virtfs|fsdev)\b|\b(virtio-9p|vhost-user-fs|virtiofs)",
        "writes reach the host's files before they are safe",
        "leave it out",
    ),
    ("fail", r"\b(vfio|usb-host|pci-assign)\b", "its state cannot be saved", "leave it out"),
    ("fail", r"^-daemonize$", "its supervisor would lose it, and could not fence", "leave it out"),
    *(
        ("fail", pattern, _OWN, "leave it out")
        for pattern in (
            r"^-(incoming|S|m|M|machine|accel|enable-kvm|qmp|mem-path|kernel|initrd|append)( |$)",
            r"^-object memory-backend-",
        )
    ),
    (
        "warn",
        r"^-cpu (host|max)\b",
        "two hosts with different processors are different machines",
        "give a named model, like qemu64",
    ),
    (
        "warn",
        r"^-(serial|chardev|parallel|monitor) .*\b(tcp|udp|telnet|websocket|socket)\b",
        "what the guest writes there is not held back until it is safe",
        "leave it out, or do not rely on it",
    ),
    (
        "warn",
        r"\bballoon\b",
        "pages cannot be given back while a pair is protected",
        "leave it out",
    ),
    (
        "warn",
        r"\b[rw]error=(stop|enospc)\b|\bpvpanic\b",
        "a guest stopped by an error makes QEMU abort at the next checkpoint",
        "give rerror=report, werror=report, and no pvpanic",
    ),
)


def unsafe(scenario: Scenario) -> list[Finding]:
    """What a scenario sets that is unsafe in a real run; nothing if all is well.

    The QEMUs that it names are asked for their versions, within a limit.
    """
    asked = _Asked(scenario, tuple(_versions(scenario)))
    found = [
        Finding(key, status, what, right)
        for status, holds, key, what, right in _UNSAFE
        if holds(asked)
    ]
    return [_named(asked, each) for each in found] + list(_unsafe_arguments(scenario))


def _versions(scenario: Scenario) -> Iterator[Version]:
    guest = scenario.guest
    try:
        yield from [
            _release(path).version for path in filter(None, (guest.qemu, guest.secondary_qemu))
        ]
    except LiveError:  # a run says it; here it only means that no version is known
        return


def _named(asked: _Asked, finding: Finding) -> Finding:
    """The finding with what only the scenario can tell."""
    more = {"limits": ", ".join(asked.long_limits), "client.host_port": asked.port_trouble}
    about = more.get(finding.name)
    if not about:
        return finding
    return Finding(finding.name, finding.status, f"{finding.detail} ({about})", finding.advice)


def _unsafe_arguments(scenario: Scenario) -> Iterator[Finding]:
    for i, argument in _arguments(scenario.guest.arguments):
        for status, pattern, what, right in _ARGUMENTS:
            if re.search(pattern, argument):
                yield Finding(f"guest.arguments.{i}", status, f"{argument}: {what}", right)


def _arguments(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Each option with its value, by the option's number; QEMU takes -x and --x for the same."""
    i = 0
    while i < len(words):
        option = re.sub("^--", "-", words[i])
        has_value = option.startswith("-") and i + 1 < len(words) and words[i + 1][:1] != "-"
        yield i, f"{option} {words[i + 1]}" if has_value else option
        i += 2 if has_value else 1
