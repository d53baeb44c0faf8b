"""Every strategy on landscapes whose answers are known."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from tuning_machine import landscape_of

from transfuse import tune

PARAMETERS = {"block": [8, 16, 32, 64, 128], "other": [1, 2, 3, 4], "threads": [1, 2]}
SMALL = {"block": [8, 16, 32, 64], "threads": [1, 2, 4, 8], "dtype": ["a", "b"]}
THOROUGH = ("grid", "exhaustive", "adaptive", "halving", "race")


def valley(parameters, *, seed=0, rough=0.02):
    """Each parameter has a best value, and values behave a little differently together."""
    rng = np.random.default_rng(seed)
    places = np.array(tune.Space(parameters).levels(), float)
    logs = rough * rng.standard_normal(len(places))
    for column, values in zip(places.T, parameters.values(), strict=True):
        logs += np.abs(column - rng.integers(len(values))) * rng.uniform(0.05, 0.3)
    logs[logs.argmin()] -= 0.03  # so that there is one answer
    return np.exp(logs - logs.min())


def landscape(parameters=PARAMETERS, *, default=0.3, **options):
    medians = valley(parameters)
    return landscape_of(medians, parameters, default=int(np.argsort(medians)[int(default * len(medians))]), **options)


def shares(strategy, made, runs=40, **options):
    (row,) = tune.compare([strategy], [made], runs=runs, **options)
    return row


def at_least(share, runs, expected):
    """A share is no worse than expected, as far as so many runs can tell."""
    return stats.binomtest(round(share * runs), runs, expected, alternative="less").pvalue > 1e-3


@pytest.mark.parametrize("strategy", THOROUGH)
@pytest.mark.parametrize(
    "noise",
    [
        {"noise": 0.0, "outliers": 0.0, "drift": 0.0},
        {"noise": 0.02, "outliers": 0.0},
        {"noise": 0.05, "outliers": 0.0},
        {"noise": 0.02, "outliers": 0.04},
        {"noise": 0.02, "drift": 0.02},
    ],
    ids=["none", "skewed", "strong", "outliers", "rounds"],
)
def test_the_best_is_found_in_noise(strategy, noise):
    row = shares(strategy, landscape(**noise))
    assert at_least(row.within_2, 40, 0.8 if strategy == "exhaustive" or noise["noise"] == 0.05 else 0.93), row


@pytest.mark.parametrize("strategy", THOROUGH)
def test_ties_end_and_are_harmless(strategy):
    medians = np.r_[1.2, [1.0] * 6, np.linspace(1.1, 2, 13)]
    row = shares(strategy, landscape_of(medians))
    assert at_least(row.within_1, 40, 0.93)
    result = tune.replay(landscape_of(medians), strategy)
    if strategy == "exhaustive":
        assert result.stopped == "cap"
        assert result.ties


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_one_candidate(strategy):
    result = tune.replay(landscape_of([1.0]), strategy)
    assert result.best == {"candidate": 0}
    assert result.stopped == "decided"


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_two_candidates(strategy):
    assert tune.replay(landscape_of([1.5, 1.0]), strategy).best == {"candidate": 1}
    assert tune.replay(landscape_of([1.0, 1.5]), strategy).best == {"candidate": 0}


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06])
def test_race_keeps_the_default_where_all_are_equal(noise):
    row = shares("race", landscape_of(np.ones(32), SMALL, noise=noise, rounds=200), runs=100)
    assert stats.binomtest(round(100 * row.false_winners), 100, 0.05, alternative="greater").pvalue > 0.05
    assert row.regret_mean < 1e-4


def test_race_does_not_change_the_default_for_less_than_its_minimum_effect():
    medians = np.r_[1.0, 0.99, np.linspace(1.05, 1.5, 14)]
    row = shares("race", landscape_of(medians, noise=0.01, rounds=200), runs=60)
    assert row.false_winners <= 0.05
    assert row.regret_mean == pytest.approx(0.01 / 0.99, rel=0.1)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_race_needs_the_fewest_measurements(noise):
    made = landscape(noise=noise, rounds=100)
    race = shares("race", made)
    assert at_least(race.within_1, 40, 0.95)
    for strategy in ("grid", "exhaustive", "adaptive", "halving"):
        other = shares(strategy, made)
        assert race.measurements_mean < other.measurements_mean


def test_race_does_not_measure_what_is_predicted_to_be_slow():
    made = landscape()
    race = shares("race", made)
    assert race.evaluations_median < len(made.configurations)
    assert shares(tune.Race(far=100), made).evaluations_median == len(made.configurations)


def test_race_measures_everything_where_the_parameters_say_nothing(rng):
    made = landscape_of(np.exp(rng.normal(0, 0.3, 40)), PARAMETERS)
    race = shares("race", made)
    assert race.evaluations_median > 30
    assert at_least(race.within_2, 40, 0.9)


@pytest.mark.parametrize(("gain", "fewest", "most"), [(2.0, 1, 4), (1.04, 8, 150)])
def test_race_proves_its_winner_on_fresh_samples(gain, fewest, most):
    made = landscape_of(np.array([gain, 1.0, *np.full(6, 1.5 * gain)]), {"block": range(8)}, noise=0.03, default=0)
    result = tune.replay(made, "race", seed=1)
    fresh = [observation.index for observation in result.observations if observation.phase == "validation"]
    assert result.validated
    assert fewest <= len(fresh) <= most  # a small gain needs at least eight equal signs
    assert set(fresh) == {1}
    assert [i.phase for i in result.history] == sorted(i.phase for i in result.history)
    assert result.leader == result.best != result.default


def test_race_without_budget_for_a_proof_keeps_the_default():
    made = landscape()
    result = tune.replay(made, "race", seed=1, max_measurements=40)
    assert result.stopped in ("budget", "decided")
    assert result.measurements <= 40
    for most in range(1, 40):
        result = tune.replay(made, "race", seed=1, max_measurements=most)
        assert result.measurements <= most
        assert result.best == result.default or result.validated


def test_adaptive_needs_half_of_the_exhaustive_search():
    made = landscape(noise=0.01)
    adaptive, exhaustive = shares("adaptive", made), shares("exhaustive", made)
    assert adaptive.measurements_mean <= 0.5 * exhaustive.measurements_mean
    assert at_least(adaptive.within_2, 40, 0.95)


@pytest.mark.parametrize("parameters", [SMALL, {"x": range(6), "y": range(6), "z": range(6)}], ids=["32", "216"])
def test_genetic_is_better_than_chance(parameters):
    made = landscape(parameters, default=0.6)
    genetic, random = (shares(name, made, runs=80) for name in ("genetic", "random"))
    assert genetic.measurements_median == random.measurements_median == 54
    assert genetic.evaluations_median == random.evaluations_median == 18
    assert stats.mannwhitneyu(genetic.regrets, random.regrets, alternative="less").pvalue < 0.01
    assert genetic.regret_mean < random.regret_mean


def test_genetic_never_evaluates_twice():
    made = landscape(SMALL)
    for evaluations, first in ((5, 8), (18, 4), (32, 8), (50, 8)):
        result = tune.replay(made, tune.Genetic(evaluations=evaluations, first=first))
        assert result.evaluations == min(evaluations, 32)
        assert {c.measurements for c in result.candidates} <= {0, 3}
        assert result.observations[0].index == made.default


def test_halving_doubles_the_repeats():
    result = tune.replay(landscape_of(np.geomspace(1, 4, 8)), "halving")
    assert [i.measurements for i in result.history] == [8, 8, 8]
    assert [i.alive for i in result.history] == [4, 2, 1]


def test_grid_measures_everything_alike():
    result = tune.replay(landscape_of([1, 2, 3]), tune.Grid(repeats=4))
    assert {candidate.measurements for candidate in result.candidates} == {4}


def test_exhaustive_stops_when_the_leader_beats_all():
    result = tune.replay(landscape_of([1, 2, 3], noise=0.001, outliers=0), "exhaustive")
    assert result.stopped == "decided"
    assert result.measurements == 6
    assert tune.replay(landscape_of([1, 1.001, 3]), tune.Exhaustive(cap=5)).measurements == 15


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_the_order_of_the_candidates_does_not_matter_for_the_quality(strategy):
    made = landscape()
    turned = dataclasses.replace(
        made,
        configurations=made.configurations[::-1],
        times=made.times[:, ::-1],
        default=len(made.configurations) - 1 - made.default,
    )
    a, b = shares(strategy, made), shares(strategy, turned)
    assert abs(a.within_2 - b.within_2) <= 0.35


@pytest.mark.parametrize(
    ("strategy", "option"),
    [
        (tune.Grid, {"repeats": 0}),
        (tune.Random, {"evaluations": 0}),
        (tune.Exhaustive, {"cap": 1}),
        (tune.Adaptive, {"cap": 0}),
        (tune.Halving, {"repeats": 0}),
        (tune.Genetic, {"population": 0}),
        (tune.Race, {"mistake": 0.0}),
    ],
)
def test_options_out_of_range(strategy, option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"^{name}: expected at least .*, got {value}"):
        strategy(**option)


def test_race_at_its_cap():
    equal = landscape_of([1.0] * 6)
    result = tune.replay(equal, tune.Race(rounds=3, proofs=2))
    assert (result.stopped, result.validated) == ("cap", False)
    assert len(result.ties) > 2
    assert tune.replay(equal, tune.Race(rounds=3)).stopped == "decided"


@pytest.mark.parametrize("strategy", ["race", "adaptive"])
def test_a_measurement_that_is_far_too_fast_decides_nothing(strategy):
    """As where the default was disturbed before and after it."""
    made = landscape_of([1.0, 0.8, 2.0, 1.0], outliers=0, rounds=40)
    made.times[::20, 2] /= 20
    for seed in range(30):
        result = tune.replay(made, strategy, seed)
        assert result.best == made.configurations[1]


def test_race_out_of_budget_says_who_was_left():
    result = tune.replay(landscape_of([1.0] * 6), max_measurements=40)
    assert result.stopped == "budget"
    assert len(result.ties) > 2


@pytest.mark.parametrize("strategy", ["genetic", "random"])
def test_no_more_are_alive_than_there_are(strategy):
    result = tune.replay(landscape_of([1.0, 2.0, 3.0]), strategy)
    assert [iteration.alive for iteration in result.history] == [3, 2, 1]


@pytest.mark.parametrize("name", ["attention_prefill", "blocks_and_threads", "matmul_t_square"])
def test_recorded_landscapes(name):
    """What is published is of 100 runs; this many show whether something is broken."""
    default, race, halving = tune.compare([tune.simple.Default(), "race", "halving"], [name], runs=12)
    assert default.measurements_median == 0
    assert race.within_2 >= 0.6
    assert halving.within_2 >= 0.6
    assert race.regret_mean <= default.regret_mean + 1e-3
