"""The records that `ground` stores on a disk, and what a disk must say of those acknowledged.

`judge` reads a disk as it is after a crash: it replays the journal of a copy, has the file system
checked, and looks at each record.  The format is described in ground.c.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.qemu.asking import ask_program, last_line
from backends.qemu.errors import LiveError
from backends.qemu.volume import copy_sparse, program

RECORDS_FILE: Final = "/records"  # as the file system has it
_WORDS = 64
_RECORD_BYTES = 8 * _WORDS
_TAG = 0x4443455244524E47
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LIMIT_S = 60.0

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Stored:
    """A record that was acknowledged.

    client, number: whose, and which of that client.  sequence: its place.  check: its last word.
    """

    client: int
    number: int
    sequence: int
    check: int


_ANSWER = re.compile(r"stored (\d+) ([0-9a-f]{16})")


def acknowledged(client: int, number: int, answer: str) -> Stored:
    """What an answer to ``store client=CLIENT number=NUMBER`` promises; ValueError: no answer."""
    match = _ANSWER.fullmatch(answer)
    if match is None:
        raise ValueError(answer)
    return Stored(client, number, int(match[1]), int(match[2], 16))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a disk says.

    problems: one line each, of the file system, of records that are torn, damaged or out of order,
    and of acknowledged ones that are missing or others.  records: on the disk.  lost: acknowledged
    and not there, or not the same.
    """

    problems: tuple[str, ...]
    records: int
    acknowledged: int
    lost: int


def judge(disk: Path, promised: Sequence[Stored], seed: int) -> Verdict:
    """Look whether a disk keeps what was promised; seed: of `ground`.

    `LiveError` if e2fsprogs are not there or the disk cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="colosim-judge-") as folder:
        copy = Path(folder) / "disk"
        copy_sparse(disk, copy)
        problems = _check_file_system(copy)
        raw = _read(copy, RECORDS_FILE)
    found, wrong = _records(raw, seed)
    problems += wrong
    lost = [each for each in promised if not _is_kept(found, each)]
    problems += [
        f"record {each.sequence} of client {each.client}, number {each.number}, "
        "was acknowledged and is not there"
        for each in lost
    ]
    return Verdict(tuple(problems), len(found), len(promised), len(lost))


def _check_file_system(copy: Path) -> list[str]:
    fsck = program("e2fsck")
    # status 1: it has replayed it
    replayed = ask_program([fsck, "-E", "journal_only", "-y", str(copy)], _LIMIT_S)
    if replayed.status not in (0, 1):
        return [f"journal: {last_line(replayed.err + replayed.out)}"]
    checked = ask_program([fsck, "-f", "-n", str(copy)], _LIMIT_S)
    if checked.status == 0:
        return []
    said = [line.strip() for line in checked.out.splitlines() if line.strip()]
    return [f"e2fsck: status {checked.status}: {'; '.join(said[:4])}"]


def _read(copy: Path, path: str) -> bytes:
    """A file of the disk; empty if it is not there: nothing was stored yet."""
    try:
        said = subprocess.run(
            [program("debugfs"), "-R", f"cat {path}", str(copy)],
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LiveError(f"{copy}: debugfs did not read it within {_LIMIT_S:g} s") from None
    return said.stdout


def _records(raw: bytes, seed: int) -> tuple[Words, list[str]]:
    """The records up to the first that is wrong, and what is wrong."""
    wrong = []
    count, rest = divmod(len(raw), _RECORD_BYTES)
    if rest:
        wrong.append(f"the file ends in the midst of record {count + 1}")
    words = np.frombuffer(raw[: count * _RECORD_BYTES], "<u8").reshape(count, _WORDS)
    good = (words == _expected(words, seed)).all(axis=1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        damaged = int((~good).sum())
        wrong.append(f"{damaged} of {count} records are damaged, the first is {first + 1}")
        words = words[:first]
    for client in np.unique(words[:, 2]):
        numbers = words[words[:, 2] == client, 3].astype(np.int64)
        if (np.diff(numbers) <= 0).any():
            wrong.append(f"records of client {client} are out of order or doubled")
    return words, wrong


def _expected(words: Words, seed: int) -> Words:
    """What records must be, by their place and whose they are."""
    count = len(words)
    expected = np.empty_like(words)
    expected[:, 0] = _TAG
    expected[:, 1] = np.arange(1, count + 1, dtype=np.uint64)
    expected[:, 2:4] = words[:, 2:4]
    shift = np.uint64(32)
    names = _mixed(words[:, 2] << shift | words[:, 3])
    with np.errstate(over="ignore"):
        start = _mixed(np.uint64(seed) ^ _mixed(expected[:, 1] * _STEP + names))
        steps = np.arange(_WORDS - 5, dtype=np.uint64) * _STEP
        expected[:, 4:-1] = start[:, None] + steps[None, :]
    check = np.zeros(count, np.uint64)
    for word in range(_WORDS - 1):
        check = _mixed(check ^ expected[:, word])
    expected[:, -1] = check
    return expected


def _mixed(x: Words) -> Words:
    """`mix` of each."""
    with np.errstate(over="ignore"):
        x = x + _STEP
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _is_kept(found: Words, each: Stored) -> bool:
    if not 1 <= each.sequence <= len(found):
        return False
    record = found[each.sequence - 1]
    there = int(record[2]), int(record[3]), int(record[-1])
    return there == (each.client, each.number, each.check)
