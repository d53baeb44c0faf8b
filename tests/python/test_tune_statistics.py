"""The statistics of the search, against SciPy and by simulation."""

import numpy as np
import pytest
from scipy import stats

from transfuse.tune import statistics
from transfuse.tune.table import Table


def summary(x):
    return x.mean(axis=-1), x.var(axis=-1, ddof=1), x.shape[-1]


def test_welch_is_scipys(rng):
    a, b = rng.normal(1, 2, (40, 5)), rng.normal(1.5, 0.3, (40, 9))
    t, degrees = statistics.welch(*summary(a), summary(b))
    expected = stats.ttest_ind(a, b, axis=1, equal_var=False)
    np.testing.assert_allclose(t, expected.statistic)
    np.testing.assert_allclose(degrees, expected.df)
    np.testing.assert_allclose(statistics.two_sided_p(t, degrees), expected.pvalue)
    less = stats.ttest_ind(a, b, axis=1, equal_var=False, alternative="greater").pvalue
    np.testing.assert_allclose(statistics.probability_less(t, degrees), less)


def test_welch_without_variance():
    t, degrees = statistics.welch([1.0, 1.0, 2.0], 0.0, 3, (1.0, [0.0, 1.0, 0.0], 3))
    np.testing.assert_array_equal(t, [0, 0, np.inf])
    assert np.isfinite(degrees).all()
    np.testing.assert_array_equal(statistics.probability_less(t, degrees), [0.5, 0.5, 0])


def test_ratio_of_times_is_scipys(rng):
    b = np.exp(rng.normal(0, 0.02, 12))
    ratio, probability = statistics.ratio_of_times(1.1, b, 0.9)
    expected = stats.ttest_1samp(np.log(1.1) - np.log(b), 0)
    interval = expected.confidence_interval(0.9)
    np.testing.assert_allclose([ratio.low, ratio.high], np.exp([interval.low, interval.high]))
    np.testing.assert_allclose(ratio.value, 1.1 / stats.gmean(b))
    np.testing.assert_allclose(probability, 1 - expected.pvalue / 2)


def test_ratio_of_single_samples_is_unknown():
    ratio, probability = statistics.ratio_of_times(2.0, [1.0], 0.95)
    assert (ratio.value, ratio.low, ratio.high, probability) == (2.0, 0.0, np.inf, 0.5)


def test_ratio_of_equal_times():
    ratio, probability = statistics.ratio_of_times(2.0, [2.0, 2.0], 0.95)
    assert (ratio.value, ratio.low, ratio.high, probability) == (1, 1, 1, 0.5)
    assert statistics.ratio_of_times(4.0, [2.0, 2.0], 0.95)[1] == 1


def test_interval_covers(rng):
    covered = 0
    for times in np.exp(rng.normal(0, 0.1, (2000, 6))):
        ratio, _ = statistics.ratio_of_times(1.0, times, 0.95)
        covered += ratio.low <= 1 <= ratio.high
    assert stats.binomtest(covered, 2000, 0.95).pvalue > 1e-3


def test_interval_covers_whenever_one_stops(rng):
    """As the proof of the race does: when the samples look good."""
    covered = plain = 0
    for gains in rng.normal(0, 0.1, (1000, 150)):
        t = gains.cumsum() / np.arange(1, 151) / (0.1 / np.sqrt(np.arange(1, 151)))
        count = 8 + int((t[7:] > 2).argmax()) if (t[7:] > 2).any() else 150
        times = np.exp(-gains[:count])
        covered += statistics.ratio_of_times(1.0, times, 0.95, peeked_at=True)[0].low <= 1
        plain += statistics.ratio_of_times(1.0, times, 0.95)[0].low <= 1
    assert stats.binomtest(covered, 1000, 0.95, alternative="less").pvalue > 1e-3
    assert plain < 900  # which is why the plain interval would not do


def test_medians_against_numpy(rng):
    logs = rng.normal(0, 0.02, (9, 200))
    np.testing.assert_array_equal(statistics.medians(logs), np.median(logs, axis=0))


def test_the_lower_of_two_middle_samples_counts():
    logs = np.array([[1.0, 1.0, 4.0, 1.0], [np.nan, 1.02, 3.0, 9.0], [np.nan, np.nan, 2.0, 8.0], [np.nan] * 3 + [7.0]])
    np.testing.assert_array_equal(statistics.medians(logs), [1.0, 1.0, 3.0, 7.0])


def test_the_error_of_a_median(rng):
    table = Table(2)
    for sample in rng.normal(0, 0.02, (400, 2)):
        table.add([0, 1], sample)
    medians = np.median(rng.normal(0, 0.02, (400, 2000)), axis=0)
    np.testing.assert_allclose(table.errors(), medians.std(), rtol=0.1)
    assert np.isinf(Table(1).errors()).all()


def test_pooled_scale_finds_the_standard_deviation(rng):
    samples = rng.normal(5, 0.04, (3000, 2))
    samples[rng.random(samples.shape) < 0.03] += 1
    found = statistics.pooled_scale(np.diff(samples), prior=1.0, weight=0.0)
    np.testing.assert_allclose(found, 0.04, rtol=0.1)


def test_pooled_scale_begins_with_the_prior():
    assert statistics.pooled_scale([], prior=0.03, weight=4) == 0.03
    assert 0.015 < statistics.pooled_scale([0.0, 0.0], prior=0.03, weight=4) < 0.03


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_normal_mixture_holds_at_all_counts(rng, alpha):
    runs, longest = 3000, 1000
    sums = rng.standard_normal((runs, longest)).cumsum(axis=1)
    counts = np.arange(1, longest + 1)
    bound = statistics.normal_mixture(counts, alpha, best_at=20)
    crossed = int((np.abs(sums) / np.sqrt(counts) > bound).any(axis=1).sum())
    assert stats.binomtest(crossed, runs, alpha, alternative="greater").pvalue > 1e-3
    fixed = stats.norm.isf(alpha / 2)
    peeked = (np.abs(sums) / np.sqrt(counts) > fixed).any(axis=1).mean()
    assert peeked > 2 * alpha  # which is why the plain test would not do
    assert bound.min() < fixed + 1.3


def test_normal_mixture_is_tightest_where_asked():
    counts = np.arange(1, 400)
    bound = statistics.normal_mixture(counts, 0.05, best_at=40)
    assert 30 <= counts[bound.argmin()] <= 50
