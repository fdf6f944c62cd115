"""A scenario to begin with, commented from the schema."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from colosim.scenario import ScenarioError
from colosim.starting.keys import Key, Table, tables
from colosim.tomltext import as_toml

_WIDTH = 100


@dataclass(frozen=True)
class Kind:
    """A kind of scenario.

    given: dotted key -> value as in a file; what is not given has its default.  faults: tables
    [[fault]].  then: commands that use it, where ``{file}`` stands for the file.
    """

    summary: str
    given: Mapping[str, Any]
    then: Sequence[str]
    faults: Sequence[Mapping[str, Any]] = ()


_RUN = {"duration": "10 s", "warm_up": "2 s", "replications": 4}
_PROTECTED = {"policy.name": "colo", "policy.remus.interval": "50 ms"}
_SERVICE = {
    "workload.kind": "service",
    "workload.load": "open",
    "workload.rate": "200 /s",
    "workload.service_time": "1 ms",
    "workload.response": "8 KiB",
    "memory.kind": "uniform",
    "memory.working_set_pages": 4000,
    "memory.touches": "2000 /s",
    "memory.touches_per_request": 10.0,
    "divergence.probability": 0.001,
}
_LINK = {"link.bandwidth": "1 Gbit/s", "link.delay": "50 us"}
_COMPARE = "colosim compare {file} --policies none,remus,colo"
_CRASH = {"target": "primary", "scope": "host", "kind": "crash"}
_WEB = {**_RUN, **_PROTECTED, **_SERVICE, **_LINK}

KINDS: Mapping[str, Kind] = {
    "web": Kind(
        "clients ask a service that answers; what does protection cost them?",
        _WEB,
        (_COMPARE, "colosim simulate {file} --policy remus --out out/{name}"),
    ),
    "batch": Kind(
        "a job that ends, without clients; how much later does it end?",
        {
            "duration": "60 s",
            "replications": 8,
            **_PROTECTED,
            "workload.kind": "batch",
            "workload.work": "10 s",
            "memory.kind": "uniform",
            "memory.working_set_pages": 20_000,
            "memory.touches": "20000 /s",
            **_LINK,
        },
        (_COMPARE,),
    ),
    "disk": Kind(
        "a service that writes to a replicated disk before it answers",
        {
            **_WEB,
            "workload.rate": "100 /s",
            "disk.writes_per_request": 1,
            "disk.write": "4 KiB",
            "disk.flush": "request",
        },
        (_COMPARE,),
    ),
    "failover": Kind(
        "the primary's host dies under its clients; how long do they wait?",
        {
            **_WEB,
            "manager.heartbeat_interval": "100 ms",
            "manager.heartbeat_timeout": "500 ms",
            "manager.reprotect": False,
        },
        ("colosim simulate {file} --out out/{name}", "colosim replay out/{name}"),
        faults=({**_CRASH, "at": "6 s"},),
    ),
    "live": Kind(
        "two real QEMU guests of this machine; kill -9 of the primary at the tenth second",
        {
            "duration": "15 s",
            "replications": 1,
            "commit": "loaded",
            "policy.name": "remus",
            "policy.remus.interval": "100 ms",
            "workload.kind": "batch",
            "workload.work": "10 s",
            "memory.kind": "uniform",
            "memory.guest_memory": "128 MiB",
            "memory.working_set_pages": 2000,
            "memory.touches": "5000 /s",
            "memory.background": "idle",
            "guest.services": ["ground"],
            "guest.ground.pages": 2000,
            "guest.ground.touches": "5000 /s",
        },
        ("colosim doctor", "colosim live {file} --out out/{name}", "colosim replay out/{name}"),
        faults=({**_CRASH, "scope": "vm", "at": "10 s"},),
    ),
}


def scenario_text(kind: str, file: str = "scenario.toml", everything: bool = False) -> str:
    """The scenario of this kind as text; ``everything``: each key there is, with its default.

    ``file`` is what the comments call it; its name is the scenario's.
    """
    chosen = KINDS[kind]
    name = _name_of(file) or kind
    given = {"name": name, "description": chosen.summary, **chosen.given}
    lines = [f"# {chosen.summary[0].upper()}{chosen.summary[1:]}", "#"]
    lines += [f"#   {command}" for command in commands(file, kind)]
    lines += ["#", "# A value carries its unit; what is left out has its default."]
    lines += ["# 'colosim schema KEY' explains a key or a table; --all writes all of them.", ""]
    further: list[str] = []
    for table in tables():
        if table.path == "fault":
            for fault in chosen.faults:
                given_here = {f"fault.{key}": value for key, value in fault.items()}
                lines += _table(table, given_here, everything)
        elif not _is_form(table, given) or not table.keys:
            continue
        elif any(key.path in given for key in table.keys):
            lines += _table(table, given, everything)
        elif everything and not table.is_list:
            lines += _table(table, {}, everything)
        elif "." not in table.path or table.path.startswith("policy."):
            further.append(f"#   {table.title}: {table.meaning}")
    if further:
        lines += ["# Further tables:", *further]
    return "\n".join(lines).rstrip() + "\n"


def write_scenario(path: Path, kind: str, everything: bool = False) -> None:
    """Write it to a new file; `ScenarioError` if there is one or it cannot be written."""
    text = scenario_text(kind, str(path), everything)
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:  # half a scenario would only be in the way
                path.unlink()
                raise
    except FileExistsError:
        raise ScenarioError(f"{path}: is there already; give another name, or remove it") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be written: {error.strerror or error}") from None


def commands(file: str, kind: str) -> list[str]:
    """What to do with the file next, for a shell."""
    named = {"file": shlex.quote(file), "name": _name_of(file) or kind}
    return [command.format(**named) for command in KINDS[kind].then]


def _name_of(file: str) -> str:
    """The file's name as a scenario's name: without what may not be in one."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(file).stem).lstrip("._-")[:80]


def _is_form(table: Table, given: Mapping[str, Any]) -> bool:
    """Of a table with forms the one that is chosen."""
    chosen = (f"{key.name} = {as_toml(given.get(key.path))}" for key in table.keys)
    return not table.form or set(table.form.split(", ")) <= set(chosen)


def _table(table: Table, given: Mapping[str, Any], everything: bool) -> Iterator[str]:
    """The table's lines: what is given, in that order, then the rest, commented out."""
    if table.path:  # without any key of its own a table may mean something, as [disk] does
        yield f"{'' if given else '# '}{table.title.partition(',')[0]}"
    keys = {key.path: key for key in table.keys}
    for path in given:
        if path in keys:
            yield from _explained(
                f"{keys[path].name} = {as_toml(given[path])}", _meaning(keys[path])
            )
    rest = [key for path, key in keys.items() if path not in given]
    if everything:
        for key in rest:
            yield from _explained(f"# {key.name} = {key.default or '...'}", _meaning(key))
    elif rest:
        names = ", ".join(key.name for key in rest)
        yield from (f"# {part}" for part in wrap(f"also: {names}", _WIDTH - 2))
    yield ""


def _meaning(key: Key) -> str:
    return f"{key.meaning} [{key.value}]" if key.words else key.meaning


def _explained(line: str, meaning: str) -> Iterator[str]:
    if len(line) + len(meaning) + 4 <= _WIDTH:
        yield f"{line}  # {meaning}"
        return
    yield from (f"#: {part}" for part in wrap(meaning, _WIDTH - 3, break_on_hyphens=False))
    yield line
