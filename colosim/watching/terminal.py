"""A view in a terminal: a screen that is drawn again, or, where there is none, plain lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from colosim.watching.facts import NS_PER_S, headline, lanes, node_facts, seconds, totals, window
from colosim.watching.model import Note, Service, Tone, View

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

SHOWN_NOTES = 7
_LEAST_NOTES = 4  # on a low screen
_BEATS_FROM = 110  # columns of the screen: below it is said when the peer was heard, which is more
PLAIN_EVERY_NS = NS_PER_S
_STRIP_LINES = 5
_GAPS = 4
_BLOCKS = " ▁▂▃▄▅▆▇█"
#: a sign beside the colour, for those who do not tell colours apart
_STYLES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "bold red"}
SIGNS = {Tone.PLAIN: "·", Tone.GOOD: "✔", Tone.WARN: "▲", Tone.BAD: "✖"}
_SERVICES: dict[Service | None, tuple[str, str]] = {
    None: (" ", ""),
    Service.UNPROTECTED: ("░", "yellow"),
    Service.PROTECTED: ("━", "green"),
    Service.TAKEOVER: ("✖", "bold red"),
    Service.ALONE: ("╌", "yellow"),
}
#: totals that a plain line has
_SAID = ("checkpoints", "pause", "dirty pages", "differences")

Show = Callable[[View, int], None]


def drawn(view: View, now_ns: int, width: int, height: int | None = None) -> Group:
    """The whole screen; height: lines that there are, None for as many as it takes.

    Where it is low the gaps go first, then the older notes, then the last of the sums.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    is_low = height is not None
    what, when, words, tone = headline(view, now_ns)
    top = Table.grid(expand=True)
    top.add_column(no_wrap=is_low, overflow="ellipsis")
    top.add_column(justify="right", no_wrap=is_low)
    top.add_row(
        Text(f"{what}   {when}", style="bold"), Text(f"{SIGNS[tone]} {words}", _STYLES[tone])
    )
    nodes = _nodes(view, now_ns, width, is_low)
    sums, notes = totals(view), list(view.notes)[-SHOWN_NOTES:]
    always = 1 + (1 + len(view.shown)) + _STRIP_LINES
    gaps = [""]
    if height is not None:
        room = max(_LEAST_NOTES, height - always)
        if len(sums) + len(notes) + _GAPS > room:
            gaps = []
        notes = notes[-max(_LEAST_NOTES, room - len(sums)) :]
        sums = sums[: room - len(notes)]
    longest = max((len(label) for label, _ in sums), default=0)
    below = Table.grid(padding=(0, 2, 0, 0))
    below.add_column(style="dim", width=longest)
    below.add_column(
        no_wrap=is_low,
        overflow="ellipsis" if is_low else "fold",
        max_width=max(1, width - longest - 2),
    )
    for label, value in sums:
        below.add_row(label, Text(value))
    parts = (top, nodes, _strip(view, now_ns, width), below)
    spaced = [each for part in parts for each in (part, *gaps)]
    return Group(*spaced, *(_noted(view, note) for note in notes))


def _nodes(view: View, now_ns: int, width: int, is_low: bool) -> Table:
    """A line for each node, if it is low; what is no longer than its column is whole."""
    from rich.table import Table
    from rich.text import Text

    labels = ["node", "guest", "step", "peer heard", "heartbeats", "holds output"]
    nodes = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [label for label in labels if label != "heartbeats" or width >= _BEATS_FROM]
    for label in shown:
        nodes.add_column(
            label, header_style="dim", no_wrap=is_low, overflow="ellipsis" if is_low else "fold"
        )
    for node in view.shown:
        facts = node_facts(view, node, now_ns)
        cells: tuple[Text | str, ...] = (
            facts.id,
            Text(f"{SIGNS[facts.tone]} {facts.state}", _STYLES[facts.tone]),
            *(facts.step, facts.heard, facts.beats, facts.holds),
        )
        nodes.add_row(*(c for c, label in zip(cells, labels, strict=True) if label in shown))
    return nodes


def _strip(view: View, now_ns: int, width: int) -> Group:
    """The last seconds, a column for each piece of time."""
    from rich.console import Group
    from rich.text import Text

    label = 24
    pieces = max(10, width - label)
    begin_ns = window(view, now_ns)
    found = lanes(view, begin_ns, now_ns, pieces)

    def lane(name: str, values: Sequence[float], unit: str) -> Text:
        top = max(values, default=0)
        most = f" to {top:,.0f}{unit}" if top else ""
        return Text(f"{name}{most}".ljust(label)[:label], "dim").append(bars(values), "default")

    services = Text("service".ljust(label), "dim")
    for service, is_fault in zip(found.services, found.faults, strict=True):
        services.append(*(("✖", "bold red") if is_fault else _SERVICES[service]))
    first = f"-{seconds(now_ns - begin_ns)}".ljust(pieces - 3)
    ends = Text(" " * label + first + "now", "dim", no_wrap=True)
    return Group(
        services,
        lane("pause", found.pause_ms, " ms"),
        lane("dirty pages", found.pages, ""),
        lane("output held", found.held, ""),
        ends,
    )


def bars(values: Sequence[float]) -> str:
    """A character for each value, the largest one full; what is not 0 is to be seen."""
    top = max(values, default=0) or 1
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[0 if v <= 0 else max(1, round(v / top * steps))] for v in values)


def _noted(view: View, note: Note) -> Text:
    from rich.text import Text

    when_s = view.since_begin_ns(note.at_ns) / NS_PER_S
    text = f"{when_s:8.3f} s {SIGNS[note.tone]} {note.node}: {note.text}"
    return Text(text, _STYLES[note.tone], overflow="ellipsis", no_wrap=True)


# --------------------------------------------------------------------------------------------
# Front ends


@contextmanager
def screen(console: Console) -> Iterator[Show]:
    """Draws again and again where it is, no higher than that; the last picture stays, whole."""
    from rich.live import Live

    def show(view: View, now_ns: int) -> None:
        height = None if view.is_over else console.height
        live.update(drawn(view, now_ns, console.width, height), refresh=True)

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield show


@contextmanager
def plain(write: Callable[[str], None]) -> Iterator[Show]:
    """A line for each note, and one a second about all else."""
    lines = PlainLines()

    def show(view: View, now_ns: int) -> None:
        for line in lines.since(view, now_ns):
            write(line)

    yield show


class PlainLines:
    """What plain lines have not said yet."""

    def __init__(self) -> None:
        self._said: Note | None = None
        self._due_ns: int | None = None
        self._ended = False

    def since(self, view: View, now_ns: int) -> Iterator[str]:
        """Lines that are due."""
        for note in self._new(view):
            when = f"{view.since_begin_ns(note.at_ns) / NS_PER_S:.3f} s"
            yield f"{'starting' if view.begin_ns is None else when} {note.node}: {note.text}"
        is_end = view.is_over and not self._ended
        is_due = self._due_ns is None or now_ns >= self._due_ns
        if is_end or (is_due and view.begin_ns is not None):
            self._ended = view.is_over
            self._due_ns = now_ns + PLAIN_EVERY_NS
            _, when, words, _ = headline(view, now_ns)
            nodes = "; ".join(
                f"{facts.id} {facts.state}, holds {facts.holds}"
                for facts in (node_facts(view, node, now_ns) for node in view.shown)
            )
            sums = "; ".join(f"{each} {value}" for each, value in totals(view) if each in _SAID)
            yield f"{when}: {words}" + "".join(f"; {each}" for each in (nodes, sums) if each)

    def _new(self, view: View) -> list[Note]:
        found: list[Note] = []
        for note in reversed(view.notes):
            if note is self._said:
                break
            found.append(note)
        if found:
            self._said = found[0]
        return found[::-1]


@contextmanager
def front(console: Console, write: Callable[[str], None]) -> Iterator[Show]:
    """A screen on a terminal, else plain lines."""
    with screen(console) if console.is_terminal else plain(write) as show:
        yield show
