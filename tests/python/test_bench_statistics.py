"""Statistics of timings on synthetic samples whose answers are known."""

import numpy as np
import pytest

from transfuse.bench import statistics
from transfuse.bench.statistics import Estimate


def test_constant_samples_leave_no_doubt():
    assert statistics.median_interval([3.0] * 7) == Estimate(3.0, 3.0, 3.0)
    assert statistics.ratio_interval([2.0] * 5, [[6.0] * 5, [5.0] * 5]) == Estimate(2.5, 2.5, 2.5)
    assert statistics.ratio_interval([[3.0] * 5, [2.0] * 5], [5.0] * 5) == Estimate(2.5, 2.5, 2.5)


def test_one_sample():
    assert statistics.median_interval([3.0]) == Estimate(3.0, 3.0, 3.0)
    assert statistics.coefficient_of_variation([3.0]) == 0


def test_median_ignores_a_few_slow_samples():
    estimate = statistics.median_interval([1.0] * 20 + [1000.0] * 3)
    assert estimate.value == 1.0
    assert estimate.high == 1.0


def test_median_of_repetitions_is_that_of_their_medians():
    assert statistics.median([1, 1, 1, 5, 9], groups=[0, 0, 0, 1, 1]) == 4
    assert statistics.median([1, 1, 1, 5, 9]) == 1
    with pytest.raises(ValueError, match="expected at least one"):
        statistics.median([])


def test_interval_of_a_median_is_that_of_order_statistics():
    # For 101 samples 1..101 the binomial 95 % interval of the median is from the 41st to the 61st.
    estimate = statistics.median_interval(np.arange(1, 102))
    assert estimate.value == 51
    assert estimate.low == pytest.approx(41, abs=2)
    assert estimate.high == pytest.approx(61, abs=2)


def test_coefficient_of_variation():
    assert statistics.coefficient_of_variation([1.0, 3.0]) == pytest.approx(np.sqrt(2) / 2)
    assert statistics.coefficient_of_variation([5.0] * 4) == 0


def test_noise_of_a_whole_round_cancels(rng):
    weather = np.exp(rng.normal(0, 0.5, 31))  # the machine is slower or faster in a round, for everyone
    estimate = statistics.ratio_interval(weather, [1.5 * weather])
    assert estimate.low == pytest.approx(1.5)
    assert estimate.high == pytest.approx(1.5)


def test_intervals_cover_the_truth(rng):
    # Right-skewed noise around a ratio of 1.2: the 95 % interval misses it about once in twenty times.
    covered, widths = 0, []
    for trial in range(200):
        ours, peer = np.exp(np.abs(rng.normal(0, 0.1, (2, 30))))
        estimate = statistics.ratio_interval(ours, [1.2 * peer], seed=trial)
        covered += estimate.low <= 1.2 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert covered >= 180
    assert np.mean(widths) < 0.12, "an interval that covers everything says nothing"


def test_the_fastest_peer_counts(rng):
    ours = np.ones(30)
    peers = [np.full(30, 4.0), np.full(30, 3.0), np.full(30, 9.0)]
    assert statistics.ratio_interval(ours, peers).value == 3.0


def test_choosing_among_equal_peers_favours_them(rng):
    # Ten peers as fast as we are: the best of their medians is below ours, on average, and the estimate says so.
    values = []
    for _ in range(20):
        ours, peers = np.exp(rng.normal(0, 0.1, 30)), np.exp(rng.normal(0, 0.1, (10, 30)))
        values.append(statistics.ratio_interval(ours, peers).value)
    assert np.mean(values) < 1


def test_alike_rounds_do_not_count_as_independent(rng):
    # Five repetitions of six rounds: all rounds of a repetition share its memory's luck.
    luck = np.exp(rng.normal(0, 0.1, 5)).repeat(6)
    groups = np.arange(5).repeat(6)
    ours, peer = luck * np.exp(rng.normal(0, 0.001, 30)), np.ones(30)
    independent = statistics.ratio_interval(ours, [peer])
    grouped = statistics.ratio_interval(ours, [peer], groups=groups)
    assert grouped.value == pytest.approx(1 / np.median(luck), rel=0.01)
    assert grouped.low <= grouped.value <= grouped.high
    assert grouped.high - grouped.low > independent.high - independent.low


def test_repetitions_count_alike_whatever_their_rounds():
    samples = [1.0] * 30 + [2.0] * 3 + [3.0] * 3
    groups = [0] * 30 + [1] * 3 + [2] * 3
    assert statistics.median_interval(samples, groups=groups).value == 2
    assert statistics.median_interval(samples).value == 1


def test_draws_stay_within_their_group():
    labels = np.array([0] * 3 + [1] * 9)
    rounds = statistics._draw(labels, 0)
    assert rounds.shape == (statistics.RESAMPLES, 2, 6)
    drawn = labels[rounds]
    assert (drawn == drawn[:, :, :1]).all()
    assert set(rounds.ravel()) == set(range(12))
    both = (drawn[:, 0, 0] != drawn[:, 1, 0]).mean()
    assert both == pytest.approx(0.5, abs=0.05), "groups are drawn with replacement"
    twice = rounds[(drawn[:, 0, 0] == 1) & (drawn[:, 1, 0] == 1)]
    assert (twice[:, 0] != twice[:, 1]).any(axis=1).mean() > 0.99, "a group drawn twice is drawn anew"


def test_grouped_intervals_cover_the_truth(rng):
    groups = np.arange(5).repeat(10)
    covered = 0
    for trial in range(100):
        luck = np.exp(rng.normal(0, 0.05, 5)).repeat(10)
        ours = luck * np.exp(np.abs(rng.normal(0, 0.02, 50)))
        estimate = statistics.ratio_interval(ours, [np.exp(np.abs(rng.normal(0, 0.02, 50)))], groups=groups, seed=trial)
        covered += estimate.low <= 1 <= estimate.high
    assert covered >= 85


def test_same_seed_same_interval(rng):
    samples = rng.normal(10, 1, 25)
    assert statistics.median_interval(samples, seed=3) == statistics.median_interval(samples, seed=3)
    assert statistics.median_interval(samples, seed=3) != statistics.median_interval(samples, seed=4)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.01, 2, "faster"), (0.5, 0.99, "slower"), (0.9, 1.1, "even"), (1.0, 1.2, "even"), (0.8, 1.0, "even")],
)
def test_verdicts_need_the_whole_interval(low, high, verdict):
    assert Estimate((low + high) / 2, low, high).verdict == verdict


def test_samples_that_cannot_be():
    with pytest.raises(ValueError, match="samples: expected at least one"):
        statistics.median_interval([])
    with pytest.raises(ValueError, match=r"got shapes \(1, 2\) and \(1, 3\)"):
        statistics.ratio_interval([1, 2], [[1, 2, 3]])
    with pytest.raises(ValueError, match="peers: expected"):
        statistics.ratio_interval([1, 2], np.empty((0, 2)))
