"""Long-run figures of failures and repairs: by hand, exactly, and by simulated rare events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from colosim.model.availability import Fault, Plant, Rates, Takeover, Times, alone, pair
from colosim.model.errors import ModelError
from colosim.model.markov import MEASURES, generator_matrix, solve, stationary
from colosim.model.process import YEAR_S, Branch, Clock, Failure, Law, Process, State
from colosim.model.rare import Bias, run_cycles, simulate

PLAIN = Bias(0.0)


def one_machine(failure: float, repair: float, exponent: float = 1.0) -> Process:
    """Up and down, rates in 1/s."""
    up = State("up", "up", True, (Failure("it", failure, (Branch("down", loses=True),)),))
    down = State("down", "down", False, (), {"repair": Clock(Law(1 / repair), (Branch("up"),))})
    return Process((up, down), exponent)


def two_machines(failure: float, repair: Law) -> Process:
    """Two alike, each with its own repair; it serves while one is up."""
    back = Clock(repair, (Branch("both"),))
    one, two = Branch("one", moves={"a": "b"}), Branch("one")
    return Process(
        (
            State("both", "up", True, (Failure("first", 2 * failure, (Branch("one"),)),)),
            State("one", "up", True, (Failure("last", failure, (Branch("none"),)),), {"a": back}),
            State(
                "none", "down", False, (), {"a": Clock(repair, (one,)), "b": Clock(repair, (two,))}
            ),
        )
    )


RATES = Rates(
    0.5 / YEAR_S, 0.1 / YEAR_S, 0.1 / YEAR_S, 0.05 / YEAR_S, 0.02 / YEAR_S, 0.01 / YEAR_S, 0.01
)
TIMES = Times(
    *(Law(mean_s) for mean_s in (6 * 3600.0, 300.0, 3600.0, 30.0, 60.0, 900.0, 600.0, 5.0))
)
TAKEOVERS = {fault: Takeover(Law(0.5), Law(0.1), 0.0, 0.2) for fault in Fault}
PLANTS = {
    "pair": pair(Plant(RATES, TIMES, fencing_fails=0.001), TAKEOVERS),
    "no fencing": pair(Plant(RATES, TIMES, fencing=False), TAKEOVERS),
    "standby": alone(Plant(RATES, TIMES)),
    "single host": alone(Plant(RATES, TIMES, standby=False)),
}

# -- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "repair"), [(1.0, 3.0), (1e-6, 1e-3), (1e-12, 1e3)])
def test_one_machine_is_up_for_mu_over_lambda_plus_mu(failure, repair):
    exact = solve(one_machine(failure, repair))
    down = failure / (failure + repair)
    assert exact.measures["down"] == pytest.approx(down, rel=1e-13)
    assert exact.measures["outages"] == pytest.approx((1 - down) * failure, rel=1e-12)
    assert exact.measures["losses"] == exact.measures["outages"]


@pytest.mark.parametrize(("failure", "repair"), [(1.0, 3.0), (1e-7, 1e-3), (1e-10, 10.0)])
def test_two_machines_are_down_when_each_is(failure, repair):
    exact = solve(two_machines(failure, Law(1 / repair)))
    assert exact.measures["down"] == pytest.approx((failure / (failure + repair)) ** 2, rel=1e-12)


def test_the_stationary_distribution_is_that_of_the_matrix():
    rates = np.random.default_rng(1).uniform(0, 10, (12, 12)) ** 3
    np.fill_diagonal(rates, 0)
    np.fill_diagonal(rates, -rates.sum(axis=1))
    found = stationary(rates)
    equations = np.vstack([rates.T, np.ones(12)])
    by_lstsq = np.linalg.lstsq(equations, np.append(np.zeros(12), 1), rcond=None)[0]
    assert found == pytest.approx(by_lstsq, rel=1e-9)


def test_a_pair_that_is_repaired_at_once_is_down_for_takeovers_alone():
    rates = replace(RATES, common_cause=0.0, guest_crash_per_s=0.0)
    at_once = replace(TIMES, **dict.fromkeys(("host_repair", "host_reboot", "link_repair"), Law(0)))
    at_once = replace(at_once, resync=Law(0))
    exact = solve(pair(Plant(rates, at_once), TAKEOVERS))
    strikes = 2 * (0.5 + 0.1 + 0.1) + 0.05 + 0.02
    assert exact.measures["outages"] * YEAR_S == pytest.approx(strikes, rel=1e-6)
    assert exact.measures["down"] * YEAR_S == pytest.approx(strikes * 0.6, rel=1e-4)
    assert exact.measures["lost_responses"] * YEAR_S == pytest.approx(strikes * 0.2, rel=1e-6)


def test_a_single_host_that_only_crashes_is_the_one_machine():
    rates = Rates(2e-6, 0.0, 0.0)
    times = replace(TIMES, cold_boot=Law(0), host_repair=Law(5000.0))
    exact = solve(alone(Plant(rates, times, standby=False)))
    assert exact.measures["down"] == pytest.approx(0.01 / 1.01, rel=1e-9)


def test_an_outage_of_a_guest_crash_is_its_restart():
    rates = Rates(0.0, 0.0, 0.0, guest_crash_per_s=1e-7)
    for process in (alone(Plant(rates, TIMES)), pair(Plant(rates, TIMES), TAKEOVERS)):
        [cause] = solve(process).causes
        assert cause.cause == "guest crash"
        assert cause.outage_s == pytest.approx(90.0)
        assert cause.losses_per_s == pytest.approx(cause.outages_per_s)


def test_a_fence_that_always_fails_leaves_it_to_the_operator():
    rates = replace(RATES, common_cause=0.0)
    exact = solve(pair(Plant(rates, TIMES, fencing_fails=1.0), TAKEOVERS))
    [cut] = [cause for cause in exact.causes if cause.cause == Fault.LINK_CUT]
    assert cut.outage_s == pytest.approx(0.6 + 900 + 60, rel=1e-4)
    assert cut.losses_per_s == pytest.approx(cut.outages_per_s, rel=1e-4)


def test_without_fencing_a_hung_primary_wakes_up_beside_its_successor():
    fenced, loose = (solve(PLANTS[name]).measures["diverging"] for name in ("pair", "no fencing"))
    assert fenced == 0.0
    assert loose * YEAR_S == pytest.approx((0.1 + 0.02) * 600, rel=0.01)


def test_both_hosts_wait_for_the_first_repair():
    """Exponential repairs: half of one; deterministic ones end together."""
    rates = Rates(1e-6, 0.0, 0.0, common_cause=1.0)
    exact = solve(alone(Plant(rates, TIMES)))
    assert exact.causes[0].outage_s == pytest.approx(3 * 3600 + 60, rel=0.01)
    fixed = Law(6 * 3600.0, "deterministic"), Law(60.0, "deterministic")
    times = replace(TIMES, host_repair=fixed[0], cold_boot=fixed[1])
    found = simulate(alone(Plant(rates, times)), 1000, 1, PLAIN).measures["down"]
    lasts_s = 6 * 3600 + 60
    assert found.value == pytest.approx(lasts_s / (5e5 + lasts_s), rel=1e-6)


@pytest.mark.parametrize("name", PLANTS)
def test_causes_and_states_add_up(name):
    exact = solve(PLANTS[name])
    assert sum(exact.states.values()) == pytest.approx(1.0)
    for measure, of in (("down", "down"), ("outages", "outages_per_s"), ("losses", "losses_per_s")):
        total = sum(getattr(cause, of) for cause in exact.causes)
        assert total == pytest.approx(exact.measures[measure], rel=1e-9)
    balance = np.array([*exact.states.values()]) @ generator_matrix(PLANTS[name])
    assert np.abs(balance).max() < 1e-15


# -- simulated cycles ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pair", "no fencing", "standby"])
def test_intervals_of_biased_cycles_cover_the_exact_figures(name):
    """95 % intervals, 60 seeds: fewer than 51 hits have a chance of 1 in 1,300."""
    exact = solve(PLANTS[name]).measures
    hits = dict.fromkeys(MEASURES, 0)
    for seed in range(60):
        for measure, found in simulate(PLANTS[name], 2000, seed).measures.items():
            hits[measure] += found.low <= exact[measure] <= found.high
    if name == "standby":
        hits.pop("exposed")  # nearly all the time: an interval of no width
    assert min(hits.values()) >= 51, hits


def test_plain_cycles_cover_too():
    process = two_machines(0.2, Law(1.0))
    down = solve(process).measures["down"]
    found = [simulate(process, 1000, seed, PLAIN).measures["down"] for seed in range(60)]
    assert sum(each.low <= down <= each.high for each in found) >= 51


def test_biasing_sees_what_plain_cycles_miss_at_equal_cost():
    """Both machines down once in 10^5 cycles."""
    process = two_machines(1e-8, Law(1000.0))
    exact = solve(process).measures["down"]
    found = {
        bias: np.array(
            [simulate(process, 2000, seed, bias).measures["down"].value for seed in range(20)]
        )
        for bias in (PLAIN, Bias())
    }
    deviation = {
        bias: float(np.sqrt(np.mean((each / exact - 1) ** 2))) for bias, each in found.items()
    }
    assert deviation[Bias()] < 0.25
    assert deviation[Bias()] < deviation[PLAIN] / 3
    assert np.count_nonzero(found[PLAIN] == 0) >= 15  # most would report no downtime at all


def test_the_relative_error_stays_as_failures_become_rarer():
    widths = []
    for failure in (1e-5, 1e-8, 1e-11):
        found = simulate(two_machines(failure, Law(1000.0)), 5000, 3).measures["down"]
        widths.append((found.high - found.low) / found.value)
    assert max(widths) < 1.5 * min(widths)


@pytest.mark.parametrize("name", PLANTS)
def test_weights_have_mean_1(name):
    weights = run_cycles(PLANTS[name], 20_000, np.random.default_rng(1), Bias()).weight
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights))


def test_biased_and_plain_cycles_agree_for_other_distributions():
    """No closed form here: lognormal and Weibull repairs, failures that cluster."""
    times = replace(
        TIMES, host_repair=Law(6 * 3600.0, "lognormal", 2.0), cold_boot=Law(60.0, "weibull", 0.5)
    )
    rates = replace(RATES, **{
        name: 200 * getattr(RATES, name)
        for name in ("host_crash_per_s", "host_hang_per_s", "vm_crash_per_s")
    })  # fmt: skip
    process = pair(Plant(rates, times, failure_exponent=0.8), TAKEOVERS)
    plain, biased = (simulate(process, 30_000, 2, bias).measures for bias in (PLAIN, Bias()))
    for measure in ("down", "outages", "losses", "exposed"):
        a, b = plain[measure], biased[measure]
        apart = np.hypot(a.high - a.low, b.high - b.low) / 2
        assert abs(a.value - b.value) < 1.6 * apart, measure  # 3 standard deviations


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
def test_the_mean_time_to_the_first_failure_is_kept(exponent):
    found = simulate(one_machine(1e-3, 10.0, exponent), 20_000, 1, PLAIN).measures["outages"]
    assert found.value == pytest.approx(1e-3, rel=0.04)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_second_failure_follows_the_same_hazard(exponent):
    """With m the mean time to the first, the second comes after m (1 + 1/k) on average."""
    first = State("up", "up", True, (Failure("first", 1e-3, (Branch("worn"),)),))
    second = State("worn", "up", True, (Failure("second", 1e-3, (Branch("down"),)),))
    down = State("down", "down", False, (), {"repair": Clock(Law(1.0), (Branch("up"),))})
    process = Process((first, second, down), exponent)
    found = simulate(process, 40_000, 1, PLAIN).measures["outages"]
    assert 1 / found.value == pytest.approx(1000 * (1 + 1 / exponent), rel=0.04)


def test_failures_soon_after_the_start_are_more_likely_if_the_hazard_falls():
    """So a second failure strikes the survivor more often."""
    times = replace(TIMES, host_repair=Law(6 * 3600.0, "deterministic"))
    losses = [
        simulate(pair(Plant(RATES, times, failure_exponent=k), TAKEOVERS), 20_000, 1)
        for k in (0.7, 1.0)
    ]
    exposed = [each.measures["losses"].value * YEAR_S for each in losses]
    assert exposed[0] > exposed[1]


def test_the_same_seed_gives_the_same_figures():
    first, again, other = (simulate(PLANTS["pair"], 500, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# -- laws, and what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["exponential", "deterministic", "lognormal", "weibull"])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_law_has_its_mean_and_spread(shape, spread):
    times = Law(7.0, shape, spread).draw(np.random.default_rng(1), 400_000)
    wanted = {"exponential": 1.0, "deterministic": 0.0}.get(shape, spread)
    assert times.mean() == pytest.approx(7.0, rel=0.02)
    assert times.std() / times.mean() == pytest.approx(wanted, rel=0.1, abs=1e-9)


def test_a_law_that_was_seen_draws_what_was_seen():
    law = Law.seen([1.0, 2.0, 6.0])
    assert law.mean_s == 3.0
    assert set(law.draw(np.random.default_rng(1), 100)) == {1.0, 2.0, 6.0}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Law(-1.0), "mean time"),
        (lambda: Law(1.0, "normal"), "shape is 'normal'"),  # type: ignore[arg-type]
        (lambda: Law.seen([]), "no sample"),
        (lambda: one_machine(0.0, 1.0), "up would last for ever"),
        (lambda: one_machine(1.0, 1.0, 0.0), "failure_exponent"),
        (lambda: Process((State("up", "up", True, (Failure("it", 1, (Branch("on"),)),)),)), "on"),
        (lambda: simulate(one_machine(1.0, 1.0), 5, 1), "cycles is 5"),
        (lambda: Bias(1.0), "chances must be below 1"),
    ],
)
def test_what_will_not_do_is_refused_with_a_reason(make, says):
    with pytest.raises(ModelError, match=says):
        make()


def test_cycles_that_never_end_are_refused():
    with pytest.raises(ModelError, match="rarer than recoveries"):
        run_cycles(two_machines(1e6, Law(1.0)), 5, np.random.default_rng(1), PLAIN)
