"""What the steps of a checkpoint cost, and how dirty tracking slows the guest down.

Durations are linear in pages: a fixed part and a part per page. The defaults are medians that were
measured (``live-recipes.md``, cited by section as LR) and are orders of magnitude; a default that
was not measured says so. Fields carry ``metadata`` with their kind of unit and their source, from
which the scenario builds the table ``[cost]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from colosim.model.errors import check_range
from colosim.model.memory import MemoryModel
from colosim.protocol.policies.base import parameter


def _spread(of: str, apart: str = "one checkpoint to the next") -> Any:
    """Declare the spread of one step's duration."""
    text = f"relative standard deviation of {of} from {apart} (lognormal)"
    return field(default=0.0, metadata={"unit": "ratio", "help": text, "minimum": 0})


class Parts(NamedTuple):
    """Pages of a state: of zeros alone, the same as one that the other side has, all others."""

    zero: int
    duplicate: int
    content: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Durations (ns) and sizes (bytes) of one checkpoint; ModelError below the minimum."""

    quiesce_ns: int = parameter(
        0, "time", "let client input drain before a checkpoint; not measured"
    )
    stop_ns: int = parameter(500_000, "time", "stop a guest (LR 5)")
    find_pages_ns: int = parameter(
        150_000,
        "time",
        "find the dirty pages while the guest is stopped: dirty log of a genuine QEMU (LR 1); "
        "comparing all of 256 MB takes 43 ms (LR 5)",
    )
    save_fixed_ns: int = parameter(1_600_000, "time", "save the state of the devices (LR 5)")
    save_per_page_ns: int = parameter(
        3_300, "time", "encode one page while the guest is stopped: 0.5 ms for 150 (LR 2)"
    )
    copy_fixed_ns: int = parameter(
        1_750_000,
        "time",
        "copy-then-send: find the pages and save the devices while the guest is stopped (as above)",
    )
    copy_per_page_ns: int = parameter(
        400, "time", "copy one page aside: assumed, 4 KiB at 10 GB/s; not measured"
    )
    transfer_fixed_ns: int = parameter(
        0,
        "time",
        "the hosts' own time to move a state, on top of the link's; not measured, to be calibrated",
    )
    transfer_per_page_ns: int = parameter(
        0, "time", "the same for each page sent; not measured, to be calibrated"
    )
    load_fixed_ns: int = parameter(2_000_000, "time", "load a state on the secondary (LR 2)")
    load_per_page_ns: int = parameter(
        400, "time", "restore one page on the secondary: assumed, 4 KiB at 10 GB/s; not measured"
    )
    resume_ns: int = parameter(325_000, "time", "resume a guest (median of cont_ms, LR 5)")
    first_write_ns: int = parameter(
        0,
        "time",
        "delay of the first write to a page after a checkpoint; not measured, to be fitted",
    )
    release_ns: int = parameter(
        0,
        "time",
        "what output that was held takes to leave the host once it is released; not measured, to "
        "be calibrated",
    )
    witness_ns: int = parameter(
        0,
        "time",
        "colo: from what the secondary's guest says until the link has it, to be compared; not "
        "measured, to be calibrated",
    )
    wake_up_ns: int = parameter(
        0, "time", "how late a host notices that a time has come; not measured, to be calibrated"
    )
    fence_ns: int = parameter(10_000_000, "time", "fence the other host; assumed, not measured")
    page_bytes: int = parameter(4_096, "size", "size of a page", 1)
    page_header_bytes: int = parameter(
        8, "size", "offset and flags before each page on the wire (LR 2)"
    )
    device_state_bytes: int = parameter(105_007, "size", "state of the devices (LR 5)", 1)
    zero_pages: float = field(
        default=0.0,
        metadata={
            "unit": "ratio",
            "help": "part of the pages sent that hold only zeros, of which one byte is sent",
            "minimum": 0,
            "maximum": 1,
        },
    )
    zero_page_cost: float = field(
        default=1.0,
        metadata={
            "unit": "ratio",
            "help": "part of save_per_page that a page of zeros takes; 1: as long as any other",
            "minimum": 0,
            "maximum": 1,
        },
    )
    duplicate_pages: float = field(
        default=0.0,
        metadata={
            "unit": "ratio",
            "help": "part of the pages sent that are the same as one that the other side has, of "
            "which a reference is sent; above 0: they are looked for; not measured",
            "minimum": 0,
            "maximum": 1,
        },
    )
    duplicate_bytes: int = parameter(
        8, "size", "reference that is sent for such a page: the address of the other one"
    )
    find_duplicate_ns: int = parameter(
        4_500,
        "time",
        "look for one page's double, if it is not of zeros: SHA-256 and a table (Python's hashlib "
        "on one core of this project's machine)",
    )
    delta_ratio: float = field(
        default=0.08,
        metadata={
            "unit": "ratio",
            "help": "stream.compression delta: what is left of a page (LR 5: medians 0.01 to 0.18; "
            "redis 0.06, nginx 0.08)",
            "minimum": 0,
            "maximum": 1,
        },
    )
    delta_write_bytes: int = parameter(
        64,
        "size",
        'stream.delta_size "writes": bytes that a touch changes, at a random place of its page; '
        "a cache line, assumed",
    )
    delta_per_page_ns: int = parameter(
        50_000,
        "time",
        "delta: XOR and compress one page, one core (zlib level 1, 5 % of the page changed; "
        "30 to 110 us for 1 to 30 %)",
    )
    delta_load_per_page_ns: int = parameter(
        15_000, "time", "delta: decompress one page and apply it on the secondary (the same)"
    )
    quiesce_spread: float = _spread("quiesce")
    stop_spread: float = _spread("stop")
    save_spread: float = _spread("the state's save, or its copy")
    transfer_spread: float = _spread("the hosts' own time to move a state")
    load_spread: float = _spread("load")
    resume_spread: float = _spread("resume")
    release_spread: float = _spread("release")
    witness_spread: float = _spread("witness", "one to the next")
    fence_spread: float = _spread("fencing", "one fence to the next")
    delta_spread: float = field(
        default=0.2,
        metadata={
            "unit": "ratio",
            "help": "relative standard deviation of delta_ratio from one checkpoint to the next "
            "(lognormal, at most 1 in all; LR 5: 0.1 to 0.2)",
            "minimum": 0,
        },
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            check_range(each.name, getattr(self, each.name), each.metadata["minimum"])
        check_range("zero_pages", self.zero_pages, high=1.0)
        check_range("zero_page_cost", self.zero_page_cost, high=1.0)
        check_range("duplicate_pages", self.duplicate_pages, high=1.0 - self.zero_pages)
        check_range("delta_ratio", self.delta_ratio, high=1.0)

    def spreads(self) -> dict[str, float]:
        """Relative deviation by step, of those that have one."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        steps = {name: value for name, value in given.items() if name.endswith("_spread")}
        return {name.removesuffix("_spread"): value for name, value in steps.items() if value}

    def parts(self, pages: int) -> Parts:
        """What so many pages are, rounded."""
        if not (self.zero_pages or self.duplicate_pages):
            return Parts(0, 0, pages)
        zero = round(self.zero_pages * pages)
        duplicate = min(round(self.duplicate_pages * pages), pages - zero)
        return Parts(zero, duplicate, pages - zero - duplicate)

    def save_ns(self, pages: int) -> int:
        """Find and encode the dirty pages and save the devices; the guest is stopped.

        A page that is found to be a double is not encoded; looking for it is in `encode_ns`.
        """
        zero, _, content = self.parts(pages)
        zero_ns = round(self.save_per_page_ns * self.zero_page_cost * zero)
        return self.find_pages_ns + self.save_fixed_ns + self.save_per_page_ns * content + zero_ns

    def copy_ns(self, pages: int) -> int:
        """Copy the dirty pages aside, so that the guest can run while they are sent."""
        return self.copy_fixed_ns + self.copy_per_page_ns * pages

    def transfer_ns(self, pages: int) -> int:
        """What moving a state takes the hosts themselves, whatever the link."""
        return self.transfer_fixed_ns + self.transfer_per_page_ns * pages

    def load_ns(self, pages: int) -> int:
        """Load devices and restore pages on the secondary."""
        return self.load_fixed_ns + self.load_per_page_ns * pages

    def state_bytes(self, pages: int, ratio: float = 1.0) -> int:
        """Bytes of one checkpoint on the link: devices, and every page with its header.

        ratio: what compression leaves of a page that is neither of zeros nor a double.
        """
        zero, duplicate, content = self.parts(pages)
        sent = zero + duplicate * self.duplicate_bytes + round(content * self.page_bytes * ratio)
        return self.device_state_bytes + pages * self.page_header_bytes + sent

    def encode_ns(self, pages: int, is_delta: bool) -> int:
        """Look for doubles among as many pages, and compress the others if they go as differences.

        On top of `save_ns`, or of `transfer_ns` where the guest runs meanwhile.
        """
        if not (is_delta or self.duplicate_pages):
            return 0
        _, duplicate, content = self.parts(pages)
        looked_at = duplicate + content if self.duplicate_pages else 0
        return self.find_duplicate_ns * looked_at + self.delta_per_page_ns * content * is_delta


def varied_ns(mean_ns: int, spread: float, z: float) -> int:
    """A duration with that mean and relative deviation, lognormal, at standard normal ``z``."""
    if not spread:
        return mean_ns
    variance = math.log1p(spread**2)
    return round(mean_ns * math.exp(math.sqrt(variance) * z - variance / 2))


def varied_ratio(mean: float, spread: float, z: float) -> float:
    """A part with about that mean and relative deviation, lognormal, but never more than 1."""
    variance = math.log1p(spread**2)
    return min(mean * math.exp(math.sqrt(variance) * z - variance / 2), 1.0)


class Slowdown:
    """Run-time slow-down by tracking writes: the first write to a page after a cut costs extra.

    Guest work ``t`` done since the cut takes ``t + first_write_ns * mean(t)`` of running time,
    ``mean`` being the expected distinct pages. ``requests`` in the methods is the number of
    requests since the cut and stays the same over the piece of work asked about; what a further
    request dirties on its own is :meth:`request_ns`.
    """

    def __init__(self, memory: MemoryModel, first_write_ns: float) -> None:
        check_range("first_write_ns", first_write_ns)
        self._memory = memory
        self._first_write_ns = first_write_ns

    def wall_ns(self, progress0_ns: int, work_ns: int, requests: float = 0.0) -> int:
        """Running time that ``work_ns`` takes when ``progress0_ns`` was done since the cut.

        Pieces of work one after the other take what they take as a whole, to the nanosecond
        (where the mean never falls as exposure grows, which is so unless a measured curve is
        scaled with more pages a request than its own load explains; then no writes are charged).
        """
        if not self._first_write_ns:
            return work_ns
        before = self._writes_ns(progress0_ns, requests)
        return work_ns + max(self._writes_ns(progress0_ns + work_ns, requests) - before, 0)

    def progress_ns(self, progress0_ns: int, wall_ns: int, requests: float = 0.0) -> int:
        """Work done in ``wall_ns`` of running time: the most that :meth:`wall_ns` fits into it."""
        if not self._first_write_ns:
            return wall_ns
        low, high = 0, wall_ns + 1  # work of `low` fits, work of `high` does not
        before = self._writes_ns(progress0_ns, requests)
        while high - low > 1:
            middle = (low + high) // 2
            writes = self._writes_ns(progress0_ns + middle, requests) - before
            if middle + max(writes, 0) <= wall_ns:
                low = middle
            else:
                high = middle
        return low

    def request_ns(self, progress_ns: int, requests: float) -> int:
        """Extra running time for the pages that one more request writes first."""
        if not self._first_write_ns:
            return 0
        before = self._writes_ns(progress_ns, requests)
        return max(self._writes_ns(progress_ns, requests + 1) - before, 0)

    def _writes_ns(self, progress_ns: int, requests: float) -> int:
        return round(self._first_write_ns * self._memory.mean(progress_ns, requests))
