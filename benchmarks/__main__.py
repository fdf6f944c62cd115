"""All benchmarks, short: some minutes, one page of tables, and what became of the goals.

    python -m benchmarks [--peers PYTHON] [--only NAME ...] [--out DIR] [--tiny]

Writes DIR (``out/benchmarks``) / ``benchmarks.md``, ``benchmarks.json`` and ``growth.svg`` and
``.png``.  A peer, or a part, that is missing here is skipped, with the reason.  A goal that is not
met is no failure: a number that depends on the machine has no right value.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

from benchmarks import events, fidelity, growth, requests, speed, sweeps, transfers
from benchmarks.command import Command, to_json
from benchmarks.rounds import Missing, Ratio, Row, context, markdown, table
from benchmarks.speed import aligned

Lines = Sequence[tuple[str, ...]]
_QEMU = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Size:
    """How much to run of everything."""

    events: int = 100_000
    requests: int = 1_000_000
    checkpoints: int = 400
    transfers: int = 4_000  # so many that building two hosts does not count
    rounds: int = 5
    sizes: int = 5
    scale: float = 1.0  # of what grows
    responses: int = 3_000
    pairs: int = 6_000
    points: int = 20
    replications: int = 20


TINY = Size(1_000, 20_000, 20, 20, 1, 3, 0.02, 60, 130, 4, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark: measure(size, python) -> its result; lines(result) -> its table."""

    title: str
    measure: Callable[[Size, str], dict[str, Any]]
    lines: Callable[[Mapping[str, Any]], Lines]


def _fidelity(size: Size, python: str) -> dict[str, Any]:
    return {"lines": fidelity.measure(1)}


def _speed(size: Size, python: str) -> dict[str, Any]:
    return speed.measure(speed.Counts(size.responses, size.checkpoints, min(size.rounds, 3)))


def _packets(size: Size, python: str) -> dict[str, Any]:
    if shutil.which(_QEMU) is None:
        raise Missing(f"there is no {_QEMU}; as root: apt-get install qemu-system-x86")
    packets = _module("packets")
    result = packets.measure(size.pairs, min(size.rounds, 3), _QEMU)
    return {**result, "lines": packets.table(result)}


def _delay(size: Size, python: str) -> dict[str, Any]:
    delay = _module("delay")
    result = delay.measure(size.pairs // 12, min(size.rounds, 3), 1_000.0)
    return {**result, "lines": delay.table(result)}


def _module(name: str) -> Any:
    """One that takes frames, and QEMU, from the tests."""
    from importlib import import_module

    try:
        return import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise Missing(f"there is no {error.name}; pip install -e .[test]") from None


def _rows(result: Mapping[str, Any]) -> Lines:
    return table(result["rows"])


def _lines(result: Mapping[str, Any]) -> Lines:
    lines: Lines = result["lines"]
    return lines


PARTS = {
    "events": Part(
        "Bare events", lambda size, python: events.measure(size.events, size.rounds, python), _rows
    ),
    "requests": Part(
        "Requests, fidelity `epoch`, 1 response in 10,000 differs",
        lambda size, python: requests.measure(size.requests, size.rounds, python),
        _rows,
    ),
    "transfers": Part(
        "Transfers of a VM's state",
        lambda size, python: transfers.measure(size.transfers, size.rounds),
        _rows,
    ),
    "growth": Part(
        "Growth",
        lambda size, python: growth.measure(size.sizes, min(size.rounds, 2), size.scale),
        growth.table,
    ),
    "speed": Part("Whole runs, fidelity `response`", _speed, speed.table),
    "fidelity": Part("Whole runs, fidelity `packet`", _fidelity, _lines),
    "sweeps": Part(
        "A sweep of the web server, CPU time; `whole_s`: of 1,000 points of 20 on two cores",
        lambda size, python: sweeps.overhead(size.points, size.replications),
        lambda result: [("what", "value"), *sweeps.table(result)],
    ),
    "packets": Part("Comparators beside genuine colo-compare", _packets, _lines),
    "delay": Part("A pair of frames through the live world", _delay, _lines),
}


# --------------------------------------------------------------------------------------------
# Goals


@dataclass(frozen=True, slots=True)
class Goal:
    """A number of a part's result: at least ``least``, or at most ``most``.

    An exponent is 1 where growth is linear, and less while something reaches its full size; above
    ``most``, it is not met if its whole interval is.
    """

    what: str
    part: str
    find: Callable[[Mapping[str, Any]], Ratio | float]
    least: float = -inf
    most: float = inf


def _row(result: Mapping[str, Any], case: str) -> Row:
    found: Row = next(row for row in result["rows"] if row.case == case)
    return found


def _rate(case: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: _row(result, case).per_s[0]


def _times(case: str, peer: str) -> Callable[[Mapping[str, Any]], Ratio]:
    """KeyError if the peer did not run."""
    return lambda result: _row(result, case).ratios[peer]


def _exponent(number: int, what: str) -> Callable[[Mapping[str, Any]], Ratio]:
    def find(result: Mapping[str, Any]) -> Ratio:
        row = result["rows"][number]
        return Ratio(len(row["sizes"]), *row[f"{what}_exponent"])

    return find


_CHECKPOINTS = next(iter(transfers.CASES))
GOALS = (
    Goal("requests a second, epoch, colo", "requests", _rate("epoch, colo"), 10e6),
    *(
        Goal(
            f"requests, epoch, {policy}: times cimba's bare M/M/1",
            "requests",
            _times(f"epoch, {policy}", requests.bare("cimba")),
            2,
        )
        for policy in requests.POLICIES
    ),
    Goal("bare events: times SimPy", "events", _times(events.CLOCK, events.SIMPY), 0.8),
    Goal("checkpoints a second", "transfers", _rate(_CHECKPOINTS), 15_000),
    Goal("checkpoints a second, in the end", "transfers", _rate(_CHECKPOINTS), 40_000),
    Goal(
        "checkpoints: times SimGrid's transfers",
        "transfers",
        _times(_CHECKPOINTS, transfers.ROUNDS),
        1,
    ),
    Goal(
        "1,000 points of 20 on two cores, by CPU time, s",
        "sweeps",
        lambda result: float(result["whole_s"]),
        most=120,
    ),
    *(
        Goal(f"exponent of {name}: {axis.name}", "growth", _exponent(number, what), most=1.1)
        for number, axis in enumerate(growth.AXES)
        for what, name in (("s", "time"), ("peak_bytes", "memory"))
    ),
)


def judged(results: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str]) -> Lines:
    """Rows of text: every goal, what was measured, and whether it is met."""
    lines = [("goal", "measured", "wanted", "met")]
    for goal in GOALS:
        wanted = f"at least {goal.least:,.10g}" if goal.most == inf else f"at most {goal.most:g}"
        if goal.part not in results:
            if goal.part in skipped:
                lines.append((goal.what, "", wanted, f"not measured: {skipped[goal.part]}"))
            continue
        result = results[goal.part]
        try:
            found = goal.find(result)
        except KeyError as missing:
            why = next(iter(result["skipped"].values()), f"no {missing}")
            lines.append((goal.what, "", wanted, f"not measured: {why}"))
            continue
        value = found if isinstance(found, float | int) else found.mean
        is_met = "yes" if goal.least <= value <= goal.most else "no"
        if value > goal.most and isinstance(found, Ratio) and not found.low > goal.most:
            is_met = "not clear"
        measured = f"{found:,.0f}" if isinstance(found, float) else str(found)
        lines.append((goal.what, measured, wanted, "too noisy" if isnan(value) else is_met))
    return lines


# --------------------------------------------------------------------------------------------
# The page


def run(
    names: Sequence[str], size: Size, python: str, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Results by part, and why others were skipped."""
    results: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in names:
        start_s = time.monotonic()
        try:
            results[name] = PARTS[name].measure(size, python)
        except Missing as missing:
            skipped[name] = str(missing)
        say(f"{name}: {skipped.get(name, 'done')} ({time.monotonic() - start_s:.0f} s)")
    return results, skipped


def page(
    about: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    skipped: Mapping[str, str],
) -> str:
    """Markdown: where and with what, the goals, a table a part."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    text = [
        f"Measured on {about['date']}, one core of {about['machine']} ({about['cores']} cores, "
        f"load average {about['load_average']:.1f} at the start), {versions}.  Median (min to max) "
        "of rounds in which all cases take turns; ratios with 95 % intervals.",
        "",
        markdown(judged(results, skipped)),
    ]
    for name, part in PARTS.items():
        if name in results or name in skipped:
            text += ["", f"## {part.title}", "", f"`python -m benchmarks.{name}`", ""]
        if name in results:
            text.append(markdown(part.lines(results[name])))
            reasons = results[name].get("skipped", {})
            text += [f"\n{peer} skipped: {reason}" for peer, reason in reasons.items()]
        elif name in skipped:
            text.append(f"Skipped: {skipped[name]}")
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, print the goals, write the page, the JSON and the figure."""
    parser = Command("", __doc__)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="has the peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), metavar="DIR")
    parser.add_argument("--tiny", action="store_true", help="as little as runs: no measurement")
    given = parser.parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {given.out}: {error.strerror}; give a directory that can be written")
    about = context({})
    size = TINY if given.tiny else Size()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    results, skipped = run(given.only, size, given.peers, say)
    for result in results.values():
        about["versions"] |= result.get("versions", {})
    text = page(about, results, skipped)
    (given.out / "benchmarks.md").write_text(text)
    whole = {**about, "skipped": skipped, "goals": judged(results, skipped), "parts": results}
    (given.out / "benchmarks.json").write_text(to_json(whole))
    if "growth" in results:
        growth.figure(results["growth"]).save(given.out / "growth")
    print(aligned(judged(results, skipped)))
    print(f"\n{given.out / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
