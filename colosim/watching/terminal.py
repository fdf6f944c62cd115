"""A view in a terminal: a screen that is drawn again, or, where there is none, plain lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from colosim.watching.facts import NS_PER_S, headline, lanes, node_facts, seconds, totals, window
from colosim.watching.model import Note, Service, Tone, View

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

SHOWN_NOTES = 7
PLAIN_EVERY_NS = NS_PER_S
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


def drawn(view: View, now_ns: int, width: int) -> Group:
    """The whole screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    what, when, words, tone = headline(view, now_ns)
    top = Table.grid(expand=True)
    top.add_column()
    top.add_column(justify="right")
    top.add_row(
        Text(f"{what}   {when}", style="bold"), Text(f"{SIGNS[tone]} {words}", _STYLES[tone])
    )
    nodes = Table(expand=True, box=None, pad_edge=False)
    for label in ("node", "guest", "step", "peer heard", "heartbeats", "holds output"):
        nodes.add_column(label, header_style="dim", overflow="fold")
    for node in view.shown:
        facts = node_facts(view, node, now_ns)
        nodes.add_row(
            facts.id,
            Text(f"{SIGNS[facts.tone]} {facts.state}", _STYLES[facts.tone]),
            *(facts.step, facts.heard, facts.beats, facts.holds),
        )
    sums = Table(box=None, pad_edge=False, show_header=False)
    sums.add_column(style="dim")
    sums.add_column(overflow="fold")
    for label, value in totals(view):
        sums.add_row(label, Text(value))
    notes = [_noted(view, note) for note in list(view.notes)[-SHOWN_NOTES:]]
    return Group(top, "", nodes, "", _strip(view, now_ns, width), "", sums, "", *notes)


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
    """Draws again and again where it is; the last picture stays."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda view, now_ns: live.update(drawn(view, now_ns, console.width), refresh=True)


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
