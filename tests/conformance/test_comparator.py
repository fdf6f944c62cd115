"""Mode ``qemu`` against genuine colo-compare objects: after each step both have done the same.

100,000 steps in `make test`, over 1,000,000 by `make conformance`, for Debian's QEMU and for each
that the environment names (COLOSIM_QEMU_10, COLOSIM_QEMU_11).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

import pytest
from hypothesis import settings

from colosim.protocol.compare_qemu import QemuComparator, _Connection, _Frame
from colosim.protocol.verdicts import CompareLimits
from tests.conformance.ages import Disturbed, ages, expected, observed
from tests.conformance.conversations import CUT, KINDS, Conversation, Do, Step
from tests.conformance.frames import Flow, tcp, udp
from tests.conformance.oracle import RELEASES, Oracle, program_of
from tests.conformance.play import Watched, conversation_of, play, run, shortest
from tests.conformance.rows import CP, ROWS, N, P, S

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
IS_FULL = settings().max_examples > 100
STEPS = {"tcp": 45_000, "mixed": 30_000, "limits": 12_000, "vnet": 15_000, "large": 500}
AGES = 100 if IS_FULL else 8
LIMIT_S = 60


@pytest.fixture(params=RELEASES)
def oracle(request):
    with Oracle(program_of(request.param)) as started:
        yield started


@pytest.fixture
def debian():
    with Oracle(program_of("debian")) as started:
        yield started


def test_every_kind_is_counted():
    assert set(STEPS) == set(KINDS)
    assert sum(STEPS.values()) >= 100_000


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_random_conversations(oracle, kind, record_property):
    """The seeds are fixed in `make test`, and others each time in full."""
    first = SystemRandom().randrange(1 << 40) if IS_FULL else 0
    steps = STEPS[kind] * (10 if IS_FULL else 1)
    count, difference = run(oracle, kind, steps, first)
    told = ", ".join(f"{n:,} {what}" for what, n in sorted(count.items()))
    record_property(
        "counted",
        f"QEMU {oracle.release}, {kind} from seed {first}: {told}, {oracle.restarts} restarts",
    )
    if difference is not None:
        small = shortest(oracle, kind, difference)
        pytest.fail(f"QEMU {oracle.release} and the model differ:\n{small.story()}")
    # a model that takes too much for undefined would be compared too little
    assert count["undefined comparisons"] <= 2 + 0.03 * count["conversations"], told
    assert count["undefined headers"] <= 0.02 * count["steps"], told
    assert oracle.restarts <= 1 + count["conversations"] // 1000, oracle.said()


STEP_OF = {P: Do.PRIMARY, S: Do.SECONDARY}


def test_the_rows_of_the_table(oracle):
    """What `tests/protocol/test_compare_qemu.py` demands of the model is what QEMU does."""
    for name, (row, wanted) in ROWS.items():
        count: Counter[str] = Counter()
        steps = [
            CUT if isinstance(each, CP) else Step(STEP_OF[type(each)], each.frame) for each in row
        ]
        difference = play(oracle, Conversation(tuple(steps)), count)
        assert difference is None, f"{name}: {difference.story()}"
        assert count["steps"] == len(row), f"{name}: {count}"
        outcomes = [each for step in wanted for each in step]
        assert count["notified"] == outcomes.count(N), name
        assert count["sent"] == len(outcomes) - outcomes.count(N), name


# --------------------------------------------------------------------------------------------
# The suite can fail: each of these models is wrong in one thing


class MaximumAck(QemuComparator):
    """Takes the highest acknowledgement of a side where QEMU takes the last."""

    def _read_tcp(self, frame: _Frame, transport: int) -> int:
        self._highest = max(getattr(self, "_highest", 0), super()._read_tcp(frame, transport))
        return self._highest


class OldestFirst(QemuComparator):
    """Flushes datagrams in the order in which they came."""

    def cut(self, now_ns: int) -> tuple[int, ...]:
        return tuple(sorted(super().cut(now_ns)))


class NoSentinel(QemuComparator):
    """Takes a stream that was compared up to number 0 for one that was."""

    def _compare_tcp(self, connection: _Connection) -> None:
        super()._compare_tcp(connection)
        connection.compared = connection.compared or 1


class OneLess(QemuComparator):
    """Queues hold as many frames as their limit says."""

    def primary(self, first, frames, now_ns):
        limits = self.limits
        self.limits = CompareLimits(queue_frames=limits.queue_frames - 1)
        super().primary(first, frames, now_ns)
        self.limits = limits


MUTANTS = [(MaximumAck, "tcp"), (OldestFirst, "mixed"), (NoSentinel, "tcp"), (OneLess, "limits")]


@pytest.mark.parametrize(("mutant", "kind"), MUTANTS)
def test_a_wrong_model_is_found_and_its_story_is_short(debian, mutant, kind):
    def make(limits: CompareLimits, vnet: bool) -> QemuComparator:
        return mutant(limits, vnet=vnet)

    _, difference = run(debian, kind, 20_000, make=make)
    assert difference is not None
    small = shortest(debian, kind, difference, make=make)
    story = small.story()
    assert len(small.conversation.steps) <= 8, story
    assert "model: sent" in story
    assert "QEMU : sent" in story
    assert play(debian, small.conversation, Counter()) is None, "the true model differs as well"


def test_a_qemu_that_ends_is_a_difference(debian):
    """An empty frame ends QEMU as soon as more comes; the model ignores it."""
    given = Conversation((Step(Do.PRIMARY, b""),))
    difference = play(debian, given, Counter())
    assert difference is not None
    assert difference.observed is None
    assert debian.process.wait(LIMIT_S) == -signal.SIGABRT
    assert play(debian, conversation_of("tcp", 0), Counter()) is None
    assert debian.restarts == 1


# --------------------------------------------------------------------------------------------
# What random conversations do not reach


@pytest.mark.slow
def test_ages(oracle, record_property):
    """A scan a cycle, one notice a scan, until the cut; for held frames of either side."""
    draw = Random(f"ages {SystemRandom().random() if IS_FULL else 0}")
    count: Counter[str] = Counter()
    for _ in range(AGES):
        given = ages(draw)
        wanted = expected(given)
        seen = None
        for number in range(24):  # a busy machine
            try:
                seen = observed(oracle, given, slower=2 ** (number // 6))
            except Disturbed:
                count["disturbed"] += 1
                continue
            if seen == wanted:
                break
            count["tried again"] += 1
        assert seen == wanted, given
        count["conversations"] += 1
        count["late"] += len(wanted)
    assert count["tried again"] <= AGES / 4 + count["disturbed"], count
    record_property("counted", f"QEMU {oracle.release}, ages: {dict(count)}")


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_the_default_queue_holds_1025_and_loses_the_newest(oracle, kind):
    where = Flow(2, 1, 80, 40000)
    payloads = [number.to_bytes(4) for number in range(1030)]
    if kind == "udp":
        frames = [udp(where, payload) for payload in payloads]
        twins = frames[1024::-1]  # the newest is looked for first
    else:
        frames = [tcp(where, 1000 + 4 * i, 1, payload) for i, payload in enumerate(payloads)]
        twins = frames[:1025]
    oracle.fresh()
    watched = Watched(QemuComparator(CompareLimits()))
    for at in range(0, len(frames), 50):
        watched.primary(*frames[at : at + 50])
        assert oracle.primary(frames[at : at + 50]) == ([], 0)
    assert watched.seen() == ([], 0)
    assert watched.lost == 5
    for twin in twins:
        fence = oracle.fence()
        watched.secondary(twin, fence)
        watched.primary(fence)
        assert watched.seen() == oracle.secondary([twin], fence) == ([twin, fence], 0)
    watched.secondary(*frames[1025:])
    assert oracle.secondary_alone(frames[1025:]) == watched.seen() == ([], 0)
    assert oracle.cut() == watched.cut() == ([], 0)


@pytest.mark.slow
@pytest.mark.parametrize("by_primary", [True, False], ids=["primary", "secondary"])
def test_a_full_table_is_cleared_with_all_that_was_held(oracle, by_primary):
    """16,385 connections are known; the next one finds more than 16,384 of them."""
    flows = [Flow(2 + i // 8192, 1, 80, 40000 + i % 8192) for i in range(16_385 + 10)]
    frames = [
        udp(flow, i.to_bytes(4)) if i % 3 else tcp(flow, 1, 1, i.to_bytes(4))
        for i, flow in enumerate(flows)
    ]
    oracle.fresh()
    watched = Watched(QemuComparator(CompareLimits()))
    before, after = frames[:16_385], frames[16_385:]
    for at in range(0, len(before), 50):
        watched.primary(*before[at : at + 50])
        assert oracle.primary(before[at : at + 50]) == ([], 0)
    twin = [before[0]]  # known: the table is as full as it gets, and still there
    watched.secondary(*twin)
    assert oracle.secondary_alone(twin) == watched.seen() == (twin, 0)
    if by_primary:
        watched.primary(after[0])
        assert oracle.primary(after[:1]) == ([], 0)
    else:
        watched.secondary(after[0])
        assert oracle.secondary_alone(after[:1]) == ([], 0)
        watched.primary(after[0])
        assert oracle.primary(after[:1]) == (after[:1], 0)
    assert watched.seen() == ([] if by_primary else after[:1], 0)
    assert watched.lost == 16_384
    watched.primary(*after[1:])
    assert oracle.primary(after[1:]) == watched.seen() == ([], 0)
    for number in (1, 2, 16_384):  # their twins wait now
        watched.secondary(before[number])
        assert oracle.secondary_alone([before[number]]) == watched.seen() == ([], 0)
    assert oracle.cut() == watched.cut() == (after if by_primary else after[1:], 0)


def test_no_qemu_outlives_its_test():
    program = program_of("debian")
    code = f"""
import time
from tests.conformance.oracle import Oracle
with Oracle({program!r}) as oracle:
    print(oracle.process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as test:
        assert test.stdout is not None
        qemu = int(test.stdout.readline())
        test.kill()
    end_s = time.monotonic() + LIMIT_S
    while is_running(qemu):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
