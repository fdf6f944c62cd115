"""`compare_pcap`: each capture is read twice, first for what it holds, then to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from colosim import store
from colosim.pcap.alignment import Alignment
from colosim.pcap.clocks import Difference
from colosim.pcap.comparing import KEPT_MOST, Comparing, Outcome
from colosim.pcap.errors import CaptureError
from colosim.pcap.guest import Contents, choose, clocks_of, contents_of, frames_of, text_of
from colosim.pcap.kept import Counts
from colosim.pcap.reading import Capture
from colosim.pcap.results import PcapComparison
from colosim.pcap.streams import Numbers
from colosim.progress import Progress, reporter
from colosim.protocol.compare import MODES
from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.verdicts import CompareLimits

_SECOND_NS = 1_000_000_000
_MB = 1_000_000
_CLOCKS_NS = 5_000_000  # clocks nearer than that need no word
AUTO: Literal["auto"] = "auto"


def compare_pcap(
    primary: str | Path,
    secondary: str | Path,
    mode: str = "strict",
    *,
    compare_timeout_s: float = 3.0,
    offset_s: float | Literal["auto"] = 0.0,
    numbers: str = "auto",
    guest: str | None = None,
    checkpoint_pause_s: float = 0.0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PcapComparison:
    """Compare the frames of two guests as COLO would have done.

    primary, secondary: captures, pcap or pcapng, of two guests with the same input.
    mode: "strict", or "qemu" for what colo-compare would have done.
    compare_timeout_s: how long output of one guest alone is held.
    offset_s: added to the secondary's times, where its clock was behind the primary's; "auto" takes
    it from frames of clients that are in both captures.
    numbers: whose TCP sequence numbers the secondary's capture has: "own", "translated", "auto".
    guest: its MAC address; None takes that of the most frequent source in both captures.
    checkpoint_pause_s: how long a checkpoint stops the guests; each difference causes one.
    out: directory to write; must be new, empty or an older run.  None writes nothing.
    progress: called with (done, total); None draws a bar on stderr if that is a terminal.

    Raises `CaptureError` or `StoreError`, one line; `store.Unwritten` if only ``out`` is missing.
    """
    _check(mode, numbers, compare_timeout_s, offset_s, checkpoint_pause_s)
    settings = {
        "mode": mode,
        "compare_timeout_s": compare_timeout_s,
        "offset_s": offset_s,
        "numbers": numbers,
        "checkpoint_pause_s": checkpoint_pause_s,
    }
    found: PcapComparison | None = None
    try:
        with nullcontext() if out is None else store.new_directory(out) as directory:
            captures = Capture(Path(primary)), Capture(Path(secondary))
            found = _compared(*captures, guest, settings, progress)
            if directory is not None:
                found.write(directory)
    except store.StoreError as ended:
        if found is None:
            raise
        raise store.Unwritten(f"{ended}; all was compared", found) from None
    return found


def _check(
    mode: str, numbers: str, timeout_s: float, offset_s: float | str, pause_s: float
) -> None:
    for name, given, known in (("mode", mode, MODES), ("numbers", numbers, list(Numbers))):
        if given not in known:
            raise CaptureError(f"{name} {given!r} is unknown; use one of {', '.join(known)}")
    if not (isfinite(timeout_s) and timeout_s > 0):
        raise CaptureError("compare_timeout_s must be positive")
    if not (isfinite(pause_s) and pause_s >= 0):
        raise CaptureError("checkpoint_pause_s must not be negative")
    if offset_s != AUTO and not (isinstance(offset_s, int | float) and isfinite(offset_s)):
        raise CaptureError(f"offset_s must be a finite number or {AUTO!r}")


def _compared(
    primary: Capture,
    secondary: Capture,
    guest: str | None,
    settings: dict[str, Any],
    progress: Progress | None,
) -> PcapComparison:
    timeout_ns = round(settings["compare_timeout_s"] * _SECOND_NS)
    comparator = MODES[settings["mode"]](CompareLimits(timeout_ns=timeout_ns))
    with _told(primary, secondary, progress) as told:
        ours, theirs = contents_of(primary, told), contents_of(secondary, told)
        address, why = choose(ours, theirs, guest)
        clocks = clocks_of(ours, theirs, address)
        offset_ns = _offset_ns(settings["offset_s"], clocks, theirs)
        start_ns = min(ours.first_ns, theirs.first_ns + offset_ns)
        end_ns = max(ours.last_ns, theirs.last_ns + offset_ns)
        coverage = _coverage(ours, theirs, offset_ns, timeout_ns, clocks)
        alignment = Alignment(Numbers(settings["numbers"]), timeout_ns)
        comparing = Comparing(
            comparator, alignment, round(settings["checkpoint_pause_s"] * _SECOND_NS)
        )
        comparing.run(
            frames_of(primary, address, -start_ns, told),
            frames_of(secondary, address, offset_ns - start_ns, told),
        )
    repeated = sum(n for (_, is_first), n in comparing.reasons.items() if not is_first)
    reasons: Counter[str] = Counter()
    for (reason, _), n in comparing.reasons.items():
        reasons[reason] += n
    notes = [f"guest {text_of(address)}: {why}", *_clocks(clocks, offset_ns), *coverage]
    notes += _order(ours, theirs)
    notes += [*primary.notes, *secondary.notes, *_aligned(alignment.counts)]
    notes += _doubts(comparing, repeated)
    if isinstance(comparator, QemuComparator) and comparator.undefined:
        notes.append(f"{comparator.undefined:,} answers of QEMU depend on memory behind a frame")
    return PcapComparison(
        primary=ours,
        secondary=theirs,
        guest=text_of(address),
        duration_s=(end_ns - start_ns) / _SECOND_NS,
        settings={**settings, "offset_s": offset_ns / _SECOND_NS},
        notes=notes,
        reasons=dict(reasons.most_common()),
        repeated=repeated,
        _findings=comparing.findings,
        _checkpoints=comparing.checkpoints,
        _columns={
            "frame": np.asarray(comparing.frame_numbers),
            "made_ns": np.asarray(comparing.made_ns),
            "released_ns": np.asarray(comparing.released_ns),
            "outcome": np.asarray(comparing.outcomes),
            "checkpoint": np.asarray(comparing.checkpoint_of),
        },
    )


@contextmanager
def _told(
    primary: Capture, secondary: Capture, progress: Progress | None
) -> Iterator[Callable[[], None]]:
    """Progress in MB read; both captures are read twice."""
    both = (primary, secondary)
    total = 2 * sum(each.path.stat().st_size for each in both if each.path.is_file()) // _MB
    with reporter(progress, "compare-pcap (MB)", total) as report:
        yield lambda: report(sum(each.read_bytes for each in both) // _MB, total)


def _offset_ns(given: float | str, clocks: Difference | None, secondary: Contents) -> int:
    if given != AUTO:
        return round(float(given) * _SECOND_NS)
    if clocks is None:
        what = "holds no frame of a client that is in the primary's too"
        raise CaptureError(f"{secondary.capture.path}: {what}, so the offset must be given")
    return clocks.median_ns


def _clocks(clocks: Difference | None, offset_ns: int) -> list[str]:
    """What clients' frames say of the clocks, if there is something to say."""
    if clocks is None:
        return []
    off_ns = clocks.median_ns - offset_ns
    if abs(off_ns) < _CLOCKS_NS and clocks.high_ns - clocks.low_ns < _CLOCKS_NS:
        return []
    low, middle, high = (
        f"{each / 1e6:,.1f}" for each in (clocks.low_ns, clocks.median_ns, clocks.high_ns)
    )
    note = f"by {clocks.n:,} frames of clients the secondary's clock is {middle} ms behind"
    note += f" (90 %: {low} to {high} ms)"
    if abs(off_ns) >= _CLOCKS_NS:
        note += f", but {offset_ns / 1e6:,.1f} ms are added; --offset auto adds the former"
    return [note]


def _coverage(
    ours: Contents, theirs: Contents, offset_ns: int, timeout_ns: int, clocks: Difference | None
) -> list[str]:
    """Where one capture has nothing to compare with.  Raises `CaptureError` if that is all."""
    begin_ns = theirs.first_ns + offset_ns - ours.first_ns
    end_ns = theirs.last_ns + offset_ns - ours.last_ns
    behind_ns = theirs.first_ns + offset_ns - ours.last_ns
    before_ns = ours.first_ns - theirs.last_ns - offset_ns
    for gap_ns, order in ((behind_ns, "begins after"), (before_ns, "ends before")):
        if gap_ns > timeout_ns:
            other = "ends" if order == "begins after" else "begins"
            what = f"{order} {ours.capture.path} {other}, by {gap_ns / _SECOND_NS:,.3f} s"
            how = "if they are of one run, give the difference of the clocks (--offset)"
            if clocks is not None:
                how += f", by clients' frames {clocks.median_ns / _SECOND_NS:.6f} s (--offset auto)"
            raise CaptureError(f"{theirs.capture.path}: {what}; {how}")
    notes = []
    for ahead_ns, text in (
        (begin_ns, "the secondary's capture begins {} s after the primary's"),
        (-begin_ns, "the secondary's capture begins {} s before the primary's"),
        (-end_ns, "the secondary's capture ends {} s before the primary's"),
        (end_ns, "the secondary's capture ends {} s after the primary's"),
    ):
        if ahead_ns > timeout_ns:
            seconds = text.format(f"{ahead_ns / _SECOND_NS:,.3f}")
            notes.append(f"{seconds}: there nothing can be equal")
    return notes


def _order(*both: Contents) -> list[str]:
    return [
        f"{each.capture.path}: {each.out_of_order:,} frames are earlier than the one before"
        for each in both
        if each.out_of_order
    ]


def _aligned(counts: Counts) -> list[str]:
    texts = {
        "numbers of {} connections of the secondary were moved": counts.moved,
        "{} connections went over to the primary's numbers: a real checkpoint": counts.switched,
        "{} connections began before the captures, and their numbers are unknown": counts.unknown,
        "{} frames of the secondary were left out: a checkpoint covered them": counts.late,
        "{} frames of the secondary were taken again after a checkpoint": counts.again,
        "{} frames were not kept for after a checkpoint: too many": counts.not_kept,
    }
    return [text.format(f"{count:,}") for text, count in texts.items() if count]


def _doubts(comparing: Comparing, repeated: int) -> list[str]:
    """What makes the numbers less than they seem."""
    notes = []
    if repeated:
        total = comparing.reasons.total()
        what = f"{repeated:,} of {total:,} checkpoints are of connections that had caused one"
        why = "after a difference in length all are, for this secondary was never set right"
        notes.append(f"{what}; {why}")
    if comparing.finding_count > KEPT_MOST:
        notes.append(f"verdicts hold the first {KEPT_MOST:,} of {comparing.finding_count:,}")
    if comparing.reasons.total() > KEPT_MOST:
        notes.append(f"checkpoints hold the first {KEPT_MOST:,} of {comparing.reasons.total():,}")
    if held := comparing.outcomes.count(Outcome.HELD):
        notes.append(f"{held:,} frames were still held when the captures ended")
    return notes
