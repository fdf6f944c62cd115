"""Mode `qemu` of the rewriter against the genuine filter-rewriter, frame by frame."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest

from colosim.protocol.rewrite import Rewriter
from colosim.protocol.rewrite_qemu import QemuRewriter
from tests.conformance.rewriter_oracle import LIMIT_S, VERSIONS, RewriterOracle, qemu_of
from tests.conformance.rewriter_talk import Step, Talk
from tests.segments import ACK, FIN, SYN, Ports

pytestmark = pytest.mark.live

#: frames a version, in this many parts that may run at the same time
FRAMES = {"conformance": 400_000, "campaign": 400_000}.get(
    os.environ.get("COLOSIM_PROFILE", ""), 24_000
)
PARTS = 2
CONVERSATION = 80  # frames; then the filter is made anew


@pytest.fixture(scope="module", params=list(VERSIONS))
def oracle(request: pytest.FixtureRequest) -> Iterator[RewriterOracle]:
    with RewriterOracle(qemu_of(request.param)) as oracle:
        yield oracle


class Model:
    """Our rewriter, asked like the oracle."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter

    def checkpoint(self) -> None:
        self.rewriter.loaded()

    def to_guest(self, frames: list[bytes]) -> list[bytes]:
        return self.rewriter.to_guest(frames)

    def from_guest(self, frames: list[bytes]) -> list[bytes]:
        out, ready = self.rewriter.from_guest(frames)
        assert not ready
        return out


def said_by(one: Model | RewriterOracle, steps: list[Step]) -> list[bytes]:
    """What came out, one for each step; ``b""`` for a checkpoint."""
    result: list[bytes] = []
    for what, group in groupby(steps, key=lambda step: step.what):
        frames = [step.frame for step in group]
        if what == "checkpoint":
            for _ in frames:
                one.checkpoint()
            result += frames
            continue
        out = (one.to_guest if what == "to" else one.from_guest)(frames)
        assert len(out) == len(frames), f"{len(frames)} frames in, {len(out)} out"
        result += out
    return result


def defined(steps: list[Step]) -> list[Step]:
    """Without the frames whose treatment depends on memory behind them."""
    kept = []
    for step in steps:
        rewriter = QemuRewriter()
        if step.what != "checkpoint":
            rewriter.to_guest([step.frame])
        if not rewriter.undefined:
            kept.append(step)
    return kept


def differ(oracle: RewriterOracle, steps: list[Step], model: Callable[[], Rewriter]) -> bool:
    oracle.reset()
    return said_by(oracle, steps) != said_by(Model(model()), steps)


def shrunk(oracle: RewriterOracle, steps: list[Step], model: Callable[[], Rewriter]) -> list[Step]:
    """A short conversation in which they still differ: parts are left out, larger ones first."""
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if fewer and differ(oracle, fewer, model):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def told(oracle: RewriterOracle, steps: list[Step], model: Callable[[], Rewriter]) -> str:
    """A conversation in words, with what both said where they differ."""
    oracle.reset()
    theirs, ours = said_by(oracle, steps), said_by(Model(model()), steps)
    lines = [f"QEMU {oracle.version()} and the model differ:"]
    for step, their, our in zip(steps, theirs, ours, strict=True):
        lines.append(f"  {step}")
        if their != our:
            lines += [
                f"    {name:5} {data.hex()}"
                for name, data in (("in", step.frame), ("QEMU", their), ("model", our))
            ]
    return "\n".join(lines)


def compare(
    oracle: RewriterOracle, seed: int, model: Callable[[], Rewriter] = QemuRewriter
) -> tuple[int, int, str]:
    """Frames compared, frames left out, and a difference in words."""
    drawn = Talk(seed).steps(CONVERSATION)
    steps = defined(drawn)
    if differ(oracle, steps, model):
        return (
            len(steps),
            len(drawn) - len(steps),
            told(oracle, shrunk(oracle, steps, model), model),
        )
    return len(steps), len(drawn) - len(steps), ""


@pytest.mark.parametrize("part", range(PARTS))
def test_random_conversations(
    oracle: RewriterOracle, part: int, record_property: Callable[[str, object], None]
) -> None:
    compared = avoided = 0
    seed = part
    while compared < FRAMES // PARTS:
        count, left_out, difference = compare(oracle, seed)
        assert not difference, f"seed {seed}: {difference}"
        compared += count
        avoided += left_out
        seed += PARTS
    text = f"QEMU {oracle.version()}: {compared} frames, 0 differences, {avoided} undefined avoided"
    record_property("conformance", text)
    print(text)


class ForgetsNothing(QemuRewriter):
    """Keeps its offsets at a checkpoint."""

    def loaded(self, numbers=b""):
        pass


class KeepsConnections(QemuRewriter):
    """Does not remove a connection after the last acknowledgment."""

    def _from_client(self, segment, connection):
        super()._from_client(segment, connection)
        self._table[segment.key] = connection


class TranslatesSynAck(QemuRewriter):
    """As one should."""

    def _from_guest(self, segment, connection):
        known = connection.state.name == "ESTABLISHED" and connection.offset
        super()._from_guest(segment, connection)
        if known and segment.flags & (SYN | ACK) == SYN | ACK:
            segment.seq = (segment.seq - connection.offset) & 0xFFFFFFFF
            segment.sum_up()


class SumsInPlace(QemuRewriter):
    """Does not write the checksum elsewhere with IP options."""

    def _frame(self, frame, handle, *, inward):
        before = bytes(frame)
        after = super()._frame(frame, handle, inward=inward)
        options = before[12:14] == b"\x08\x00" and before[14:15] != b"\x45"
        if not options or after == before:
            return after
        return after[:50] + before[50:52] + after[52:]


@pytest.mark.parametrize(
    "mutant", [ForgetsNothing, KeepsConnections, TranslatesSynAck, SumsInPlace]
)
def test_a_wrong_model_is_found_and_shown_short(oracle: RewriterOracle, mutant) -> None:
    for seed in range(400):
        _, _, difference = compare(oracle, seed, mutant)
        if difference:
            print(difference)
            assert len(difference.splitlines()) < 20
            return
    raise AssertionError("not found")


def test_qemu_ends_with_the_process_that_started_it() -> None:
    """SIGKILL leaves it no time to say goodbye."""
    starts = (
        "import sys, time\n"
        "from tests.conformance.rewriter_oracle import RewriterOracle\n"
        "oracle = RewriterOracle(sys.argv[1])\n"
        "print(oracle.process, oracle.directory, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starts, qemu_of("installed")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as starter:
        assert starter.stdout is not None
        process, directory = starter.stdout.readline().split()
        starter.kill()
    end_s = time.monotonic() + LIMIT_S
    while Path("/proc", process).exists():
        assert time.monotonic() < end_s, "QEMU is still there"
        time.sleep(0.02)
    shutil.rmtree(directory)


def test_all_connections_are_forgotten_above_the_limit(oracle: RewriterOracle) -> None:
    oracle.reset()
    model = Model(QemuRewriter())
    first = Ports()
    opening = [
        Step("to", first.inward(10, 0, SYN).frame(), ""),
        Step("from", first.outward(900, 11, SYN | ACK).frame(), ""),
        Step("to", first.inward(11, 501).frame(), ""),
    ]
    assert said_by(oracle, opening) == said_by(model, opening)
    others = [
        Ports(client_port=port, guest_port=guest).inward(1, 1).frame()
        for guest in (81, 82)
        for port in range(1, 8193)
    ]
    asked = first.outward(901, 11, FIN | ACK).frame()
    answers = []
    for one in (oracle, model):
        before = one.from_guest([asked])
        for start in range(0, len(others), 64):
            part = others[start : start + 64]
            assert one.to_guest(part) == part
        last = one.from_guest([asked])
        more = Ports(client_port=9).outward(1, 1).frame()
        assert one.from_guest([more]) == [more]
        answers.append((before, last, one.from_guest([asked])))
    assert answers[0] == answers[1]
    before, last, after = answers[0]
    assert before == last != after == [asked]
