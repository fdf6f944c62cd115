"""Managers by themselves, and two with the simple arbiter; whole nodes: expected/manager.txt."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.manager import (
    LONGEST_BACK_OFF,
    MANAGER_ROWS,
    M,
    Manager,
    ManagerConfig,
    MVerb,
    Witness,
)
from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    AskVote,
    Exit,
    Fence,
    Heartbeat,
    Promote,
    Promoted,
    Protected,
    Survival,
    Takeover,
)

CONFIG = ManagerConfig(
    heartbeat_interval_ns=100,
    heartbeat_timeout_ns=500,
    vote_timeout_ns=1_000,
    fence_timeout_ns=5_000,
)
CLEAN, LOADING, BROKEN = (Takeover(survival, 0) for survival in Survival)


class Bench:
    """One manager; every input says what it wants."""

    def __init__(self, survival=Survival.CLEAN, config=CONFIG, serves=False):
        self.out = Outbox()
        self.manager = Manager(config, self.out, survival, serves=serves)

    def hear(self, signal, now_ns=0):
        self.manager.hears()[type(signal)](signal, now_ns)
        return self.actions()

    def tick(self, now_ns):
        self.manager.tick(now_ns)
        return self.actions()

    def suspect(self, now_ns=0):
        self.manager.peer_gone(now_ns)
        return self.actions()

    def vote(self, op, granted, now_ns=0):
        self.manager.vote(op, granted, now_ns)
        return self.actions()

    def fenced(self, is_fenced, now_ns=0):
        (self.manager.done if is_fenced else self.manager.failed)(now_ns)
        return self.actions()

    def actions(self):
        actions, self.out.actions = self.out.actions, []
        return actions

    def deadline_ns(self):
        return self.manager.deadline_ns()


def kinds(actions):
    return [type(action) for action in actions]


# ---------------------------------------------------------------------------------------- single


def test_the_way_to_a_promotion():
    bench = Bench()
    [ask] = bench.suspect()
    assert isinstance(ask, AskVote)
    [fence] = bench.vote(ask.op, True)
    assert isinstance(fence, Fence)
    assert bench.manager.owns(fence.op)
    assert bench.fenced(True) == [Promote()]
    assert list(bench.out.signals) == [Promoted()]
    assert bench.hear(Alone()) == []
    assert bench.manager.state is M.ACTIVE


def test_heartbeats_keep_their_interval_and_silence_its_limit():
    bench = Bench()
    assert bench.deadline_ns() is None
    bench.manager.heartbeat_seen(7)
    assert bench.deadline_ns() is None  # nothing is promised before protection
    bench.hear(Protected(), 1_000)
    assert bench.deadline_ns() == 1_000
    assert bench.tick(1_000) == [Heartbeat()]
    assert bench.deadline_ns() == 1_100
    assert bench.tick(1_250) == [Heartbeat()]  # late: one, and the next an interval from now
    assert bench.deadline_ns() == 1_350
    bench.manager.heartbeat_seen(1_300)
    for now_ns in (1_350, 1_450, 1_550, 1_650, 1_750):
        assert bench.deadline_ns() == now_ns
        assert bench.tick(now_ns) == [Heartbeat()]
    assert bench.deadline_ns() == 1_800  # 500 after the last sign of life
    assert kinds(bench.tick(1_800)) == [AskVote]


def test_a_heartbeat_in_time_is_no_reason_to_doubt_and_one_in_the_grace_ends_it():
    bench = Bench(config=replace(CONFIG, heartbeat_grace_ns=300))
    states = []
    bench.hear(Protected(), 0)
    bench.tick(500)
    states.append(bench.manager.state)
    bench.manager.heartbeat_seen(799)
    states.append(bench.manager.state)
    bench.actions()
    bench.tick(1_299)
    states.append(bench.manager.state)
    assert states == [M.DOUBT, M.WATCH, M.DOUBT]
    assert AskVote in kinds(bench.tick(1_599))


def test_back_offs_double_up_to_a_limit():
    bench = Bench(config=replace(CONFIG, fence_retries=20, fence_backoff_ns=10))
    [ask] = bench.suspect()
    bench.vote(ask.op, True)
    waits, now_ns = [], 0
    for _ in range(20):
        bench.fenced(False, now_ns)
        waits.append(bench.deadline_ns() - now_ns)
        now_ns = bench.deadline_ns()
        assert kinds(bench.tick(now_ns)) == [Fence]
    assert waits == [10 * min(2**n, LONGEST_BACK_OFF) for n in range(20)]
    bench.fenced(False, now_ns)
    assert bench.manager.state is M.STRANDED


def test_an_exit_is_suspicious():
    bench = Bench()
    bench.hear(Protected())
    assert kinds(bench.hear(Exit("the loop was left"))) == [AskVote]


@pytest.mark.parametrize("signal", [CLEAN, LOADING])
def test_a_guest_that_can_go_on_asks(signal):
    bench = Bench(Survival.BROKEN)
    bench.hear(signal)
    assert kinds(bench.suspect()) == [AskVote]


def test_an_answer_to_a_question_never_asked_is_nothing():
    bench = Bench()
    [ask] = bench.suspect()
    assert bench.vote(ask.op + 1, True) == []
    assert bench.manager.state is M.VOTING


SIGNALS = [Protected(), Exit(""), CLEAN, LOADING, BROKEN, Alone()]
ANSWERS = {"grant": "AskVote", "deny": "AskVote", "fenced": "Fence", "not fenced": "Fence"}
inputs = st.sampled_from([*SIGNALS, *ANSWERS, "suspect", "tick"])


@given(st.lists(inputs, max_size=30))
def test_order_is_kept_whatever_happens(script):
    """Vote, then fence, then promotion; each in its turn, none by a guest beyond use."""
    bench, now_ns = Bench(), 0
    done: list = []  # names of actions and of what was fed, in order
    for what in script:
        if what in ANSWERS and ANSWERS[what] not in done:
            continue  # a world does not answer what was not asked
        if what == "tick":
            now_ns = max(now_ns, bench.deadline_ns() or 0)
        feed = {
            "suspect": bench.suspect,
            "grant": lambda now_ns: bench.vote(bench.out.last_op, True, now_ns),
            "deny": lambda now_ns: bench.vote(bench.out.last_op, False, now_ns),
            "fenced": lambda now_ns: bench.fenced(True, now_ns),
            "not fenced": lambda now_ns: bench.fenced(False, now_ns),
            "tick": bench.tick,
        }.get(what, lambda now_ns, what=what: bench.hear(what, now_ns))
        done.append(what)
        for action in feed(now_ns):
            done.append(type(action).__name__)
            check_turn(done)
        if bench.manager.state in {M.YIELDED, M.STRANDED}:
            assert bench.deadline_ns() is None


def check_turn(done):
    """May the last of these be done after the others?"""
    *before, last = done
    said = [what for what in before if isinstance(what, Takeover)]
    if last in {"AskVote", "Fence", "Promote"}:
        assert not said or said[-1] != BROKEN
    if last == "Fence":  # the first word of the arbiter counts
        assert next(what for what in before if what in {"grant", "deny"}) == "grant"
    if last == "Promote":
        assert next(what for what in before if what in {"fenced", "not fenced"}) == "fenced"
    if last in {"Fence", "Promote"}:
        assert last not in before


def test_every_state_is_reached_and_every_question_has_an_end():
    reached, more = set(), {M.IDLE}
    while more:
        reached |= more
        more = {after for (before, _), (_, after) in MANAGER_ROWS.items() if before in reached}
        more -= reached
    assert reached == set(M)
    waiting = {before for before, verb in MANAGER_ROWS if verb is MVerb.TIMEOUT}
    assert waiting == {M.DOUBT, M.VOTING, M.BACKING_OFF, M.SWITCHED}
    # a fence that is not done in time has failed
    assert (M.FENCING, MVerb.NOT_FENCED) in MANAGER_ROWS
    # a guest may end at any time, until there is nothing left to say
    unfit = {before for before, verb in MANAGER_ROWS if verb is MVerb.UNFIT}
    assert unfit == set(M) - {M.YIELDED, M.STRANDED}


# ------------------------------------------------------------------------------------------ pairs


def test_the_witness_grants_one_side_and_remembers():
    witness = Witness()
    assert witness.ask("secondary")
    assert not witness.ask("primary")
    assert witness.ask("secondary")


sides = st.sampled_from(["primary", "secondary"])
moves = st.sampled_from(["suspect", "answer", "fence", "fence fails", "tick", "break"])


@given(st.lists(st.tuples(sides, moves), max_size=40))
def test_two_sides_and_one_witness_never_promote_both(script):
    witness = Witness()
    benches = {"primary": Bench(), "secondary": Bench()}
    questions: dict[str, list] = {name: [] for name in benches}
    fences: dict[str, list] = {name: [] for name in benches}
    promoted = []
    now_ns = 0
    for bench in benches.values():
        bench.hear(Protected())
    for name, move in script:
        bench = benches[name]
        if move == "suspect":
            actions = bench.suspect(now_ns)
        elif move == "answer" and questions[name]:
            op = questions[name].pop(0)
            actions = bench.vote(op, witness.ask(name), now_ns)
        elif move in {"fence", "fence fails"} and fences[name]:
            fences[name].pop()
            actions = bench.fenced(move == "fence", now_ns)
        elif move == "break":
            actions = bench.hear(BROKEN, now_ns)
        else:
            now_ns = max(now_ns, bench.deadline_ns() or 0)
            actions = bench.tick(now_ns)
        questions[name] += [action.op for action in actions if isinstance(action, AskVote)]
        fences[name] += [action.op for action in actions if isinstance(action, Fence)]
        promoted += [name for action in actions if isinstance(action, Promote)]
    assert len(promoted) <= 1
