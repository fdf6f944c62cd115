"""A view as HTML with a drawing in SVG: no script, file or network, so it prints as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from colosim.watching.facts import NS_PER_S, headline, lanes, node_facts, totals, window
from colosim.watching.model import Note, Service, Tone, View
from colosim.watching.terminal import SIGNS

_SHOWN_NOTES = 12
_PIECES = 360
#: Okabe and Ito's colours, which colour-blind readers tell apart; there are always words as well
_COLOURS = {Tone.PLAIN: "#333333", Tone.GOOD: "#00704f", Tone.WARN: "#9a5b00", Tone.BAD: "#b03a00"}
_BANDS = {
    Service.UNPROTECTED: ("#d9d9d9", "not protected"),
    Service.PROTECTED: ("#009e73", "protected"),
    Service.TAKEOVER: ("#d55e00", "failing over"),
    Service.ALONE: ("#e69f00", "one guest alone"),
}
_BAR, _FAULT = "#0072b2", "#d55e00"
_LEFT, _WIDTH, _RIGHT, _LANE, _GAP = 150, 720, 12, 34, 10
_SIGN = 60  # width of the sign of a fault
_FONT = "font-family:sans-serif;font-size:13px;color:#222;background:#fff"


def page(view: View, now_ns: int, from_ns: int | None = None) -> str:
    """The view at a time; from_ns: where the drawing begins, None for the last seconds."""
    begin_ns = window(view, now_ns) if from_ns is None else min(from_ns, now_ns - NS_PER_S)
    sums = [[f'<span style="color:#666">{label}</span>', escape(v)] for label, v in totals(view)]
    what, when, words, tone = headline(view, now_ns)
    badge = f'<b style="color:{_COLOURS[tone]}">{SIGNS[tone]} {escape(words)}</b>'
    parts = [
        f'<div style="{_FONT};max-width:900px;padding:8px">',
        f'<div style="margin-bottom:6px"><b>{escape(what)}</b> &nbsp; {when} &nbsp; {badge}</div>',
        _nodes(view, now_ns),
        drawing(view, begin_ns, now_ns),
        _table(sums),
        *(_note(view, note) for note in list(view.notes)[-_SHOWN_NOTES:]),
        "</div>",
    ]
    return "".join(parts)


def _nodes(view: View, now_ns: int) -> str:
    rows = []
    for node in view.shown:
        facts = node_facts(view, node, now_ns)
        state = f'<span style="color:{_COLOURS[facts.tone]}">{SIGNS[facts.tone]} '
        state += f"{escape(facts.state)}</span>"
        rest = (facts.step, facts.heard, facts.beats, facts.holds)
        rows.append([escape(facts.id), state, *map(escape, rest)])
    labels = ("node", "guest", "step", "peer heard", "heartbeats", "holds output")
    return _table(rows, labels) if rows else "<div>no node yet</div>"


def _table(rows: Sequence[Sequence[str]], labels: Sequence[str] = ()) -> str:
    cell = 'style="text-align:left;padding:1px 14px 1px 0;border:0;vertical-align:top"'
    head = "".join(f'<th {cell}><span style="color:#666">{each}</span></th>' for each in labels)
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{each}</td>" for each in row) + "</tr>" for row in rows
    )
    table = f'style="border-collapse:collapse;margin:4px 0;{_FONT}"'
    return f"<table {table}>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _note(view: View, note: Note) -> str:
    when = f"{view.since_begin_ns(note.at_ns) / NS_PER_S:.3f} s"
    text = f"{SIGNS[note.tone]} {escape(note.node)}: {escape(note.text)}"
    return f'<div style="color:{_COLOURS[note.tone]}">{when} {text}</div>'


# --------------------------------------------------------------------------------------------
# The drawing


def drawing(view: View, from_ns: int, to_ns: int) -> str:
    """How safe the service was, pauses, dirty pages and held output over time, as SVG."""
    found = lanes(view, from_ns, to_ns, _PIECES)
    rows: list[tuple[str, Sequence[float], str]] = [
        ("pause", found.pause_ms, " ms"),
        ("dirty pages", found.pages, ""),
        ("output held", found.held, ""),
    ]
    height = (len(rows) + 1) * (_LANE + _GAP) + 24
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'style="width:100%;max-width:{width}px;background:#fff" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="service, pauses, dirty pages and held output '
        'over time">',
        _label(0, "service", ""),
        *_bands(found.services),
    ]
    for row, (name, values, unit) in enumerate(rows, 1):
        top = max(values, default=0)
        parts.append(_label(row, name, f"to {top:,.0f}{unit}" if top > 0 else ""))
        parts += _bars(row, values, top)
    parts += _faults(found.faults, height)
    parts += _axis(view.since_begin_ns(from_ns), view.since_begin_ns(to_ns), height)
    return "".join([*parts, "</svg>"])


def _y(row: int) -> int:
    return row * (_LANE + _GAP)


def _x(piece: float) -> float:
    return _LEFT + piece * _WIDTH / _PIECES


def _label(row: int, name: str, most: str) -> str:
    y = _y(row) + _LANE / 2
    return (
        f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end" fill="#222">{name}</text>'
        f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end" fill="#666">{most}</text>'
    )


def _bands(services: Sequence[Service | None]) -> Iterator[str]:
    """Neighbours that are alike are one band; its name is in it where there is room."""
    begin = 0
    for i in range(1, len(services) + 1):
        if i < len(services) and services[i] is services[begin]:
            continue
        service = services[begin]
        if service is not None:
            colour, name = _BANDS[service]
            x, width = _x(begin), _x(i) - _x(begin)
            yield f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="{_LANE}" fill="{colour}">'
            yield f"<title>{name}</title></rect>"
            if width > 8 * len(name):
                y = _LANE / 2 + 4
                yield f'<text x="{x + width / 2:.1f}" y="{y}" text-anchor="middle">{name}</text>'
        begin = i


def _bars(row: int, values: Sequence[float], top: float) -> Iterator[str]:
    base = _y(row) + _LANE
    yield f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{base}" y2="{base}" stroke="#bbb"/>'
    for i, value in enumerate(values):
        if value > 0:
            tall = max(1.5, value / top * _LANE)
            yield f'<rect x="{_x(i):.1f}" y="{base - tall:.1f}" width="2" height="{tall:.1f}" '
            yield f'fill="{_BAR}"/>'


def _faults(faults: Sequence[bool], height: int) -> Iterator[str]:
    """A line through all lanes; of faults that come close together, the first has the sign."""
    free_x = 0.0
    for i, is_fault in enumerate(faults):
        if not is_fault or (i and faults[i - 1]):
            continue
        x = _x(i + 0.5)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 24}" stroke="{_FAULT}" '
        yield 'stroke-width="1.5" stroke-dasharray="4 3"/>'
        if x < free_x:
            continue
        free_x = x + _SIGN
        anchor, at_x = ("start", x + 4) if x < _LEFT + _WIDTH - _SIGN else ("end", x - 4)
        yield f'<text x="{at_x:.1f}" y="{_LANE + 9}" text-anchor="{anchor}" fill="{_FAULT}">'
        yield "✖ fault</text>"


def _axis(from_ns: int, to_ns: int, height: int) -> Iterator[str]:
    length_s = (to_ns - from_ns) / NS_PER_S
    step_s = next((s for s in (0.5, 1, 2, 5, 10, 30, 60, 300, 600) if length_s / s <= 12), 3600)
    tick = -(-from_ns // round(step_s * NS_PER_S))
    while (at_ns := round(tick * step_s * NS_PER_S)) <= to_ns:
        x = _LEFT + (at_ns - from_ns) / (to_ns - from_ns) * _WIDTH
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{height - 24}" y2="{height - 20}" '
        yield 'stroke="#666"/>'
        yield f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle" fill="#444">'
        yield f"{at_ns / NS_PER_S:g} s</text>"
        tick += 1
