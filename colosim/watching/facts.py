"""A view in words and rows of numbers, the same for every front end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Output, Role
from colosim.watching.model import HELD_STEP_NS, NodeView, Service, Tone, View

NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000
WINDOW_NS = 20 * NS_PER_S
_LEAST_WINDOW_NS = 5 * NS_PER_S
_MIB = 1 << 20
_LONGEST = 72
_BEYOND_USE = frozenset(("dead", "broken"))
_LEFT = frozenset(("exited", "failover", "relaunch", "relaunch-resume", "takeover"))

SERVICE: dict[Service, tuple[str, Tone]] = {
    Service.UNPROTECTED: ("not protected", Tone.WARN),
    Service.PROTECTED: ("protected", Tone.GOOD),
    Service.TAKEOVER: ("failing over", Tone.BAD),
    Service.ALONE: ("one guest alone", Tone.WARN),
}


def ms(value_ns: float) -> str:
    """A duration of a pause or a hold."""
    value = value_ns / _NS_PER_MS
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def seconds(value_ns: float) -> str:
    """A time of the axis."""
    return f"{value_ns / NS_PER_S:.1f} s"


def ago(then_ns: int, now_ns: int) -> str:
    """How long ago something was."""
    return "never" if then_ns < 0 else f"{max(0, now_ns - then_ns) / NS_PER_S:.1f} s ago"


def shortened(text: str) -> str:
    """No more of it than fits on a line."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node in words."""

    id: str
    role: str
    state: str
    tone: Tone
    step: str
    heard: str
    beats: str
    holds: str


def node_facts(view: View, node: NodeView, now_ns: int) -> NodeFacts:
    """What there is to say of a node at a time."""
    state, tone = _state(view, node, now_ns)
    oldest_ns = node.holding.oldest_ns()
    held = f"{node.holding.count:,}"
    if oldest_ns is not None and not node.gone:
        held += f", oldest for {ms(node.now_ns - oldest_ns)}"
    is_primary = node.role is Role.PRIMARY
    return NodeFacts(
        id=node.id,
        role="primary" if is_primary else "secondary",
        state=state,
        tone=tone,
        step=f"was {node.step}" if node.gone and node.step else node.step or "-",
        heard="-" if node.gone or node.is_alone else ago(node.heard_at_ns, now_ns),
        beats=f"{node.beats_sent:,} sent, {node.beats_heard:,} heard",
        holds="lost with it" if node.gone and node.holding.count else held,
    )


def _state(view: View, node: NodeView, now_ns: int) -> tuple[str, Tone]:
    if node.gone:
        return f"gone ({node.gone})", Tone.BAD
    if node.step in _BEYOND_USE:
        return "its guest is beyond use", Tone.BAD
    serves = node.id == view.serving
    if node.is_alone:
        return ("serves alone" if serves else "goes on, serves nobody"), Tone.WARN
    if node.step in _LEFT:
        return "left the checkpoint loop", Tone.WARN
    if node.stopped_at_ns >= 0:
        return f"stopped for {ms(max(0, now_ns - node.stopped_at_ns))}", Tone.PLAIN
    if serves:
        return "serves", Tone.GOOD
    return "runs in step", Tone.GOOD


def headline(view: View, now_ns: int) -> tuple[str, str, str, Tone]:
    """Name and policy; the time; how safe the service is, and how that is meant."""
    what = " · ".join(filter(None, (view.name, view.policy)))
    when = "starting" if view.begin_ns is None else seconds(view.since_begin_ns(now_ns))
    if view.duration_ns and view.begin_ns is not None:
        when += f" of {seconds(view.duration_ns)}"
    words, tone = SERVICE[view.service]
    if view.pair > 1:
        words += f", pair {view.pair}"
    if view.is_over:
        words += "; over"
    return what, when, words, tone


def totals(view: View) -> list[tuple[str, str]]:
    """Label and value, of the whole run."""
    sums, last = view.totals, view.last
    reasons = ", ".join(f"{name} {count:,}" for name, count in sums.reasons.most_common(3))
    released = ", ".join(
        f"{_how(view, how)} {count:,}" for how, count in sums.released.most_common()
    )
    open_ = sums.checkpoints - sums.committed - sums.aborted
    rows = [
        ("checkpoints", f"{sums.checkpoints:,}" + (f" ({reasons})" if reasons else "")),
        *([("not committed", f"{open_:,}")] if open_ else []),
        *([("aborted", f"{sums.aborted:,}")] if sums.aborted else []),
    ]
    if sums.pauses:
        rows.append(
            (
                "pause",
                f"{_last_pause(view)}mean {ms(sums.mean_pause_ns)}, "
                f"longest {ms(sums.longest_pause_ns)}",
            )
        )
    if sums.dirty_checkpoints:
        now = f"last {last.pages:,}, " if last is not None and last.pages >= 0 else ""
        rows.append(("dirty pages", f"{now}mean {sums.mean_pages:,.0f}"))
    if sums.sent_bytes:
        rows.append(("state sent", f"{sums.sent_bytes / _MIB:,.1f} MiB"))
    if sums.made:
        rows.append(
            ("output", f"{sums.made:,} made" + (f"; left by {released}" if released else ""))
        )
        if any(sums.released.values()):
            mean_ns = sums.held_ns / sum(sums.released.values())
            rows.append(("held for", f"mean {ms(mean_ns)}, longest {ms(sums.longest_hold_ns)}"))
    if sums.mismatches or sums.stale:
        alone = f", said by one guest alone {sums.stale:,}" if sums.stale else ""
        why = shortened(view.last_difference)
        rows.append(("differences", f"{sums.mismatches:,}{alone}; last: {why}"))
    if sums.takeovers:
        rows.append(("takeovers", f"{sums.takeovers:,}"))
    return rows


def _how(view: View, how: str) -> str:
    """What let output go; where nobody compares, what did not wait for a commit left at once."""
    compares = view.policy and POLICIES[view.policy].output is Output.WITNESS
    return "at once" if how == "match" and not compares else how


def _last_pause(view: View) -> str:
    for checkpoint in reversed(view.checkpoints):
        if checkpoint.pause_ns >= 0:
            return f"last {ms(checkpoint.pause_ns)}, "
    return ""


@dataclass(frozen=True, slots=True)
class Lanes:
    """A stretch of time in equal pieces: the largest of each, 0 where there was none.

    faults: pieces in which something went wrong. services: the last of each piece, None before the
    run.
    """

    pause_ms: Sequence[float]
    pages: Sequence[int]
    held: Sequence[int]
    services: Sequence[Service | None]
    faults: Sequence[bool]


def window(view: View, now_ns: int) -> int:
    """Where the last seconds begin that a front end draws: not long before the run."""
    begin_ns = view.begin_ns if view.begin_ns is not None else now_ns - WINDOW_NS
    return max(now_ns - WINDOW_NS, min(begin_ns, now_ns - _LEAST_WINDOW_NS))


def lanes(view: View, from_ns: int, to_ns: int, pieces: int) -> Lanes:
    """What there was between two times."""
    length_ns = max(1, to_ns - from_ns)

    def place(values: list[Any], found: Iterable[tuple[int, Any]]) -> None:
        """The largest of each piece; found: latest first."""
        for at_ns, value in found:
            i = (at_ns - from_ns) * pieces // length_ns
            if i < 0:
                break
            if i < pieces:
                values[i] = max(values[i], value)

    pause, pages, held, faults = [0.0] * pieces, [0] * pieces, [0] * pieces, [False] * pieces
    done = [each for each in reversed(view.checkpoints) if each.stopped_at_ns >= 0]
    place(pause, ((each.stopped_at_ns, each.pause_ns / _NS_PER_MS) for each in done))
    place(pages, ((each.stopped_at_ns, each.pages) for each in done))
    place(held, ((step * HELD_STEP_NS, count) for step, count in reversed(view.held)))
    place(faults, ((note.at_ns, note.tone is Tone.BAD) for note in reversed(view.notes)))
    services: list[Service | None] = [None] * pieces
    for at_ns, service in view.services:
        begin = max(0, (at_ns - from_ns) * pieces // length_ns)
        services[begin:] = [service] * max(0, pieces - begin)
    return Lanes(pause, pages, held, services, faults)
