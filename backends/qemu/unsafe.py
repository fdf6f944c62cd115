"""What a scenario sets that is unsafe in a real run, or that no real run has.

Knowledge is in tables: `_UNSAFE` (settings) and `_ARGUMENTS` (arguments of QEMU).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.qemu import proxy
from backends.qemu.asking import release
from backends.qemu.errors import LiveError
from backends.qemu.findings import Finding, Status
from backends.qemu.live import is_not_asked, simulated_only
from colosim.model.errors import ModelError
from colosim.protocol.checkpoint import Quirks
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Output
from colosim.scenario import ClosedService, OpenService, Scenario, Workload

Version = tuple[int, int, int]

_TMPFS = Path("/dev/shm")
_RAM_COPIES = 3  # in the tmpfs: two guests and the shadow
_DISK_COPIES = 4  # two disks, the overlays, a fresh secondary's disk
_MIB = 1 << 20
_MS = 1_000_000
_S = 1000 * _MS


@dataclass(frozen=True)
class _Asked:
    """A scenario, and what its rules need to know beyond it."""

    s: Scenario
    versions: tuple[Version, ...]  # of primary and secondary; none if they cannot be told
    protects: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "protects", POLICIES[self.s.policy.name].protects())

    @property
    def compares(self) -> bool:
        """Both guests' output is compared."""
        return POLICIES[self.s.policy.name].output is Output.WITNESS

    @property
    def has_proxy(self) -> bool:
        """QEMU's own proxy compares it, in a native pair."""
        return self.compares and self.s.guest.engine == "native"

    @property
    def compare_timeout_ns(self) -> int:
        return int(self.s.policy_params(self.s.policy.name).compare_timeout_ns)

    @property
    def is_remote(self) -> bool:
        """A host is on another machine."""
        return not (self.s.hosts.primary is None and self.s.hosts.secondary is None)

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
_SHORTEST_REMOTE_FENCE_NS = 5 * _S
_LONG_COMPARE_NS = 1 * _S
_PAIR_NS = 180 * _S  # the runner's limit for the first synchronisation

_Rule = tuple[Status, Callable[[_Asked], Any], str, str, str]

#: (status, holds, key, what is unsafe, what would be right)
_UNSAFE: tuple[_Rule, ...] = (
    (
        "warn",
        lambda a: not a.protects,
        "policy.name",
        "nothing protects the guest: what kills it is the end of it",
        "give remus or colo",
    ),
    (
        "warn",
        lambda a: a.compares and not a.has_proxy and a.s.compare.mode != "strict",
        "compare.mode",
        "QEMU's rules call equal bytes at different places the same, lose what a full queue does "
        "not hold, and see differences in bursts of datagrams that are equal",
        'give "strict"',
    ),
    (
        "warn",
        lambda a: a.compares and not a.has_proxy and a.s.compare.rewriter != "strict",
        "compare.rewriter",
        "filter-rewriter misses connections that the guest opens, and those that outlive a "
        "takeover differ for ever in the next pair",
        'give "strict"',
    ),
    (
        "warn",
        lambda a: a.has_proxy,
        "guest.engine",
        "QEMU's own proxy, with its defects, decides what leaves, and lets it go before the state "
        "is loaded; what it holds dies with the primary, and datagrams for good",
        'give "wire", and what is safe for that; native is for reference',
    ),
    (
        "fail",
        lambda a: (
            a.s.guest.engine == "native"
            and a.protects
            and a.s.guest.accelerator != "kvm"
            and a.oldest is not None
            and a.oldest < (11, 0, 0)
        ),
        "guest.qemu",
        "before 11.0 two QEMUs hang at their first checkpoint under TCG, or never enter COLO",
        'name a QEMU 11.0 or newer, or give guest.engine = "wire"',
    ),
    (
        "warn",
        lambda a: a.compares and a.compare_timeout_ns > _LONG_COMPARE_NS,
        "policy.colo.compare_timeout",
        "what only one guest has said waits for so long, and a client with it",
        "give 300 ms, or a few times what the slower guest needs",
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
            and not a.has_proxy
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
        lambda a: a.is_remote and a.s.manager.fence_timeout_ns < _SHORTEST_REMOTE_FENCE_NS,
        "manager.fence_timeout",
        "a machine that does not answer is given up only after seconds, and then there is no vote",
        "give 5 s or more",
    ),
    (
        "warn",
        lambda a: a.is_remote and not str(a.s.hosts.listen).startswith("127."),
        "hosts.listen",
        "what machines send each other is not encrypted: memory, and all that clients say",
        "use a private network, WireGuard or an ssh tunnel",
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
        "fail",
        lambda a: (
            a.s.guest.volume is not None
            and a.s.guest.volume.directory is None
            and _RAM_COPIES * a.s.memory.guest_memory_bytes
            <= a.shared_memory_bytes
            < _RAM_COPIES * a.s.memory.guest_memory_bytes
            + _DISK_COPIES * a.s.guest.volume.size_bytes
        ),
        "guest.volume",
        f"four times its size and three times the guest's memory do not fit {_TMPFS} now",
        "give guest.volume.directory, on a disk",
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
    (
        "warn",
        lambda a: is_not_asked(a.s),
        "client.kind",
        "no client asks the guest anything, whatever [workload] says: that is for the simulator",
        'give "http" or another kind, and what answers it: guest.services or a guest of your own',
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
    return [
        *(_named(asked, each) for each in found),
        *_not_live(scenario),
        *_no_native_pair(scenario),
        *_unsafe_arguments(scenario),
    ]


def _not_live(scenario: Scenario) -> Iterator[Finding]:
    for key, why in simulated_only(scenario, scenario.policy.name):
        what, _, right = why.rpartition("; ")
        yield Finding(key, "fail", f"refused by a live run: {what}", right)


def _no_native_pair(scenario: Scenario) -> Iterator[Finding]:
    if scenario.guest.engine == "native":
        for key, given, right in proxy.conflicts(scenario, scenario.policy.name):
            what = f"{given}: in a native pair QEMU's own proxy decides"
            yield Finding(key, "fail", what, f'give "{right}", or guest.engine = "wire"')


def _versions(scenario: Scenario) -> Iterator[Version]:
    guest, hosts = scenario.guest, scenario.hosts
    if hosts.primary or hosts.secondary:  # only their machines can tell
        return
    try:
        yield from [
            release(path).version for path in filter(None, (guest.qemu, guest.secondary_qemu))
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
