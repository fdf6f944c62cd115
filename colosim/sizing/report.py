"""A sizing as text (verdict first), JSON, HTML and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from colosim import store
from colosim.sizing.answer import Sizing, scenario_text
from colosim.sizing.candidates import NONE, OF_A_JOB
from colosim.sizing.changes import ALL
from colosim.sizing.unknowns import AS_GOOD
from colosim.units import BANDWIDTH, SIZE
from colosim.wording import between, is_told, number, percent, plus_minus, sure

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH = 120
_CURVE = "pages.csv"
_DIFFER = "What makes the guests differ, and what is gained without it"
#: columns that say nothing of no protection itself
_AGAINST_NONE = ("added", "added ", "longer", "capacity lost")
_WORDS = {
    "latency_p99_ms": "99 % latency",
    "latency_p50_ms": "median latency",
    "stopped_share": "time that the guest stands still",
    "completion_time_s": "the job's time",
}


def _or_dash(shown: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: "-" if math.isnan(value) else shown(value)


_number = _or_dash(number)
_percent = _or_dash(percent)
_ms = _or_dash(lambda value: f"{number(value)} ms")
_s = _or_dash(lambda value: f"{number(value)} s")


def _half(row: Mapping[Any, Any], name: str) -> str:
    """A mean and half of its 95 % interval."""
    return _number(row[name]) + plus_minus((row[f"{name}_high"] - row[f"{name}_low"]) / 2)


# --------------------------------------------------------------------------------------------
# The verdict


def verdict(found: Sizing) -> str:
    """A few sentences: which policy, what it costs, how sure, what it needs."""
    return "\n".join([_what(found), _sure(found), _needs(found), *_gains(found)])


def _what(found: Sizing) -> str:
    row = found.row()
    head = f"Choose {found.choice}:"
    if not math.isnan(row["added_time_s"]):
        return f"{head} the job takes {_told(row, 'added_time_s', _s)} longer."
    cost = (
        f"{head} it adds {_told(row, 'added_p50_ms', _ms)} to the median and"
        f" {_told(row, 'added_p99_ms', _ms)} to the 99 % latency"
    )
    if not math.isnan(row["capacity_lost"]):
        cost += f", and takes {_told(row, 'capacity_lost', _percent)} of the most it can answer"
    return f"{cost}."


def _told(row: Mapping[Any, Any], name: str, shown: Callable[[float], str]) -> str:
    """A difference with its 95 % interval, if that tells it from chance."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isnan(low):
        return shown(row[name])
    mean = shown(row[name]) if is_told(low, high) else "nothing that can be told"
    return f"{mean} ({between(low, high, shown)})"


def _sure(found: Sizing) -> str:
    if math.isnan(found.certain):
        text = "None keeps up with the load, so nothing is said of how sure that is by chance"
    else:
        text = f"By chance alone that is sure to {sure(found.certain)}"
    if found.runner_up:
        text += f" (next is {found.runner_up})"
    wins, draws, low, high = found.best
    if not draws:
        return f"{text}." if found.undone else f"{text}; nothing else was left open."
    text += (
        f"; with all that is not known drawn from its range it is the best, or within 5 % of it, in"
        f" {wins} of {draws} draws ({between(low, high, percent)})"
    )
    if wins < draws:
        others = found.draws.loc[found.draws["behind"] > AS_GOOD, "best"].value_counts()
        is_late = math.isinf(found.regret)
        more = "does not keep up" if is_late else f"is up to {percent(found.regret, 0)} worse"
        named = ", ".join(f"{label} ({count})" for label, count in others.items())
        text += f"; in others it {more}, and best are {named}"
    borders = found.sensitivity[found.sensitivity["border"] != ""]
    if len(borders):
        first = borders.iloc[0]
        text += (
            f". The choice hangs on {first['what']}: {first['best_at_low']} is best below"
            f" {first['border']}, {first['best_at_high']} above"
        )
    return f"{text}."


def _needs(found: Sizing) -> str:
    row = found.row()
    enough = found.link[found.link["enough"]]
    link = f"It uses {number(row['link_mbit_per_s'])} Mbit/s of the link"
    if len(enough) > 1:
        least = BANDWIDTH.readable(enough["bandwidth_bps"].min(), 3)
        link += f"; from {least} on a wider one gains less than 10 %"
    elif len(enough):
        widest, own = found.link.iloc[-1], found.link[found.link["own"]].iloc[0]
        link += (
            f"; a wider one helps: on {BANDWIDTH.readable(widest['bandwidth_bps'], 3)} its"
            f" {_words(found)} is {_goal(found, widest['goal'])} for {_goal(found, own['goal'])}"
        )
    by_host = found.memory.groupby("host")["bytes"].sum()
    needs = ", ".join(
        f"{SIZE.readable(value, 3)} on the {host}'s host" for host, value in by_host.items()
    )
    return f"{link}. Memory beside the guest's own: {needs}."


def _gains(found: Sizing) -> Iterator[str]:
    if not len(found.changes):
        return
    table = found.changes
    alone = table[table["what"] != ALL]
    best = alone.sort_values("p99_gain_ms", na_position="first").iloc[-1]
    one = table.attrs.get("candidate", "colo")
    if best["gain_low"] > 0:
        then, now = number(best["checkpoints_per_s"]), number(table.attrs["before"])
        yield (
            f"What would help {one} most: {best['what']} out; its 99 % latency is then"
            f" {_ms(best['p99_ms'])}, {_ms(best['p99_gain_ms'])} less, with"
            f" {then} checkpoints/s for {now}."
        )
    else:
        yield f"What makes the guests differ costs {one} nothing that could be told from chance."


# --------------------------------------------------------------------------------------------
# Tables


def parts(found: Sizing) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and table of text, in the order in which a reader wants them."""
    yield (
        "What each candidate costs (± half of the 95 % interval over replications)",
        _candidates(found),
    )
    if len(found.sensitivity):
        yield f"What is not known, one by one: {_words(found)} of {found.choice}", _open(found)
    if len(found.changes):
        yield _DIFFER, _changes(found)
    if len(found.link):
        yield f"{found.choice} by bandwidth of the link", _links(found)
    yield "Memory that protection needs", _memory(found)
    yield "Where the numbers are from", found.facts.rename(columns={"key": "what"})


def _words(found: Sizing) -> str:
    return _WORDS[found.metric]


def _goal(found: Sizing, value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return "falls behind"
    shown = {"stopped_share": _percent, "completion_time_s": _s}.get(found.metric, _ms)
    return shown(value)


def _candidates(found: Sizing) -> pd.DataFrame:
    rows = []
    for row in found.policies.to_dict("records"):
        marked = f"{row['candidate']} *" if row["candidate"] == found.choice else row["candidate"]
        cells = {"candidate": marked}
        if found.metric == OF_A_JOB:
            cells |= {
                "job": _s(row["completion_time_s"]),
                "longer": _told(row, "added_time_s", _s),
            }
        else:
            cells |= {
                "answers (1/s)": _number(row["throughput_per_s"]),
                "p50 (ms)": _number(row["latency_p50_ms"]),
                "added": _half(row, "added_p50_ms"),
                "p99 (ms)": _number(row["latency_p99_ms"]),
                "added ": _half(row, "added_p99_ms"),
                "capacity lost": _percent(row["capacity_lost"]),
            }
        cells |= {
            "stopped": _percent(row["stopped_share"]),
            "checkpoints (1/s)": _number(row["checkpoints_per_s"]),
            "link (Mbit/s)": _number(row["link_mbit_per_s"]),
        }
        if row["candidate"] == NONE:
            cells |= {name: "" for name in _AGAINST_NONE if name in cells}
        rows.append(cells)
    return pd.DataFrame(rows)


def _open(found: Sizing) -> pd.DataFrame:
    rows = [
        {
            "what": row["what"],
            "": row["kind"],
            "taken": row["value"],
            "from": row["low"],
            "then": _goal(found, row["goal_at_low"]),
            "to": row["high"],
            "then ": _goal(found, row["goal_at_high"]),
            "best": _there(row),
        }
        for row in found.sensitivity.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _there(row: Mapping[Any, Any]) -> str:
    low, high = row["best_at_low"], row["best_at_high"]
    return str(low) if low == high else f"{low} below {row['border']}, {high} above"


def _changes(found: Sizing) -> pd.DataFrame:
    rows = [
        {
            "what": row["what"],
            "share": "" if pd.isna(row["share"]) else _percent(row["share"]),
            "here and there": _sides(row),
            "without: checkpoints/s": _number(row["checkpoints_per_s"]),
            "p99 (ms)": _number(row["p99_ms"]),
            "gain (ms)": _half(row | {"gain": row["p99_gain_ms"]}, "gain"),
            "best": row["best"],
        }
        for row in found.changes.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _advice(found: Sizing) -> Iterator[str]:
    """What to do about each cause, a line each."""
    for row in found.changes.to_dict("records"):
        if row["advice"]:
            yield f"{row['what']}: {row['advice']}"


def _sides(row: Mapping[Any, Any]) -> str:
    ours, theirs = row["example_primary"], row["example_secondary"]
    return f"{ours[:18]} | {theirs[:18]}" if ours or theirs else ""


def _links(found: Sizing) -> pd.DataFrame:
    rows = [
        {
            "bandwidth": BANDWIDTH.readable(row["bandwidth_bps"], 3)
            + (" (yours)" if row["own"] else ""),
            "then": _goal(found, row["goal"]),
            "used": f"{_number(row['used_mbit_per_s'])} Mbit/s",
            "enough": "yes" if row["enough"] else "no",
        }
        for row in found.link.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _memory(found: Sizing) -> pd.DataFrame:
    return found.memory.assign(bytes=[SIZE.readable(each, 3) for each in found.memory["bytes"]])


# --------------------------------------------------------------------------------------------
# Text, HTML, JSON, files


def show(found: Sizing, console: Console) -> None:
    """All of it, verdict first."""
    for part in _rendered(found):
        console.print(part)


def _rendered(found: Sizing) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    yield Text(f"{verdict(found)}\n", style="bold")
    for note in _notes(found):
        yield Text(f"note: {note}", style="yellow")
    for heading, table in parts(found):
        drawn = Table(
            title=heading, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        for name in table.columns:
            drawn.add_column(str(name), overflow="fold", no_wrap=name == "candidate")
        for row in table.to_dict("records"):
            drawn.add_row(*(Text(str(each)) for each in row.values()))  # no markup: bytes of guests
        yield Text("")
        yield drawn
        if heading == _DIFFER:
            for line in _advice(found):
                yield Text(line)


def _notes(found: Sizing) -> list[str]:
    flags = [
        f"{row['candidate']}: {row['flags']}"
        for row in found.policies.to_dict("records")
        if row["flags"]
    ]
    left = [f"{label} was left out: {why}" for label, why in found.left_out.items()]
    return [*_interrupted(found), *found.notes, *left, *flags]


def _interrupted(found: Sizing) -> Iterator[str]:
    if found.undone:
        yield f"interrupted, without {'; '.join(found.undone)}"


def plain(found: Sizing) -> str:
    """Text without colours."""
    from rich.console import Console

    into = StringIO()
    show(found, Console(file=into, width=WIDTH, color_system=None, force_jupyter=False))
    return "\n".join(line.rstrip() for line in into.getvalue().splitlines()) + "\n"


def html(found: Sizing) -> str:
    """For notebooks."""
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(found))
    body = "".join(
        f"<p><b>{escape(heading)}</b></p>{table.to_html(index=False)}"
        for heading, table in parts(found)
    )
    said = "".join(f"<p><b>{escape(line)}</b></p>" for line in verdict(found).splitlines())
    advice = "".join(f"<p>{escape(line)}</p>" for line in _advice(found))
    return f"{said}{notes}{body}{advice}"


def mapping(found: Sizing) -> dict[str, Any]:
    """All of it, as plain values: no NaN and no infinity."""
    wins, draws, low, high = found.best
    return {
        "verdict": verdict(found),
        "choice": found.choice,
        "runner_up": found.runner_up,
        "goal": "time" if found.metric == OF_A_JOB else found.goal,
        "certain_by_chance": None if math.isnan(found.certain) else found.certain,
        "certain_with_unknowns": _finite(
            {"best": wins, "draws": draws, "low": low, "high": high, "regret": found.regret}
        ),
        "policies": _rows(found.policies),
        "facts": _rows(found.facts),
        "sensitivity": _rows(found.sensitivity),
        "changes": _rows(found.changes),
        "link": _rows(found.link),
        "memory": _rows(found.memory),
        "notes": _notes(found),
        "sources": list(found.sources),
        "left_out": dict(found.left_out),
        "options": dict(found.options),
        "interrupted": bool(found.undone),
        "fingerprint": found.fingerprint,
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        _finite(row) for row in json.loads(table.to_json(orient="records", double_precision=12))
    ]


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def write(found: Sizing, directory: Path) -> None:
    """The scenario that was simulated, its curve, all tables, the text and a manifest."""
    file = found.scenario.to_mapping()["memory"].get("file")
    if file is not None:
        pd.read_csv(file).to_csv(directory / _CURVE, index=False)
    with store.explained(directory):
        text = scenario_text(found, None if file is None else _CURVE)
        (directory / "scenario.toml").write_text(text, "utf-8")
        (directory / "sizing.txt").write_text(plain(found), "utf-8")
        body = json.dumps(mapping(found), indent=2, allow_nan=False)
        (directory / "sizing.json").write_text(body + "\n", "utf-8")
    tables = {
        "policies.csv": found.policies,
        "facts.csv": found.facts,
        "sensitivity.csv": found.sensitivity,
        "draws.csv": found.draws,
        "changes.csv": found.changes,
        "link.csv": found.link,
        "memory.csv": found.memory,
    }
    manifest = {
        "kind": "sizing",
        "choice": found.choice,
        "sources": list(found.sources),
        "options": dict(found.options),
        "interrupted": bool(found.undone),
        "fingerprint": found.fingerprint,
    }
    store.write(directory, manifest, tables)
