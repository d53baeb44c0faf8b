"""Measurements: between two of the default, so that a machine whose speed drifts does not matter."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats
from tuning_machine import Machine

from transfuse import tune

SPACE = tune.Space({"size": [1, 2, 4, 8, 16, 32]})


class Scripted:
    """A callable whose calls take `seconds[size] * factor(time, number of the call)`, and its clock."""

    def __init__(self, seconds, factor=lambda now, number: 1.0):
        self.now, self.sizes, self._seconds, self._factor = 0.0, [], seconds, factor

    def clock(self):
        return self.now

    def __call__(self, size=1):
        self.sizes.append(size)
        self.now += self._seconds[size] * self._factor(self.now, len(self.sizes))


def seconds(scale):
    """Of six sizes, within 1:2; the default takes `scale`."""
    return {
        size: scale * factor for size, factor in zip(SPACE.parameters["size"], (1, 0.9, 0.8, 1.1, 1.5, 2), strict=True)
    }


def grid(target, repeats=20, *, clock=None, **options):
    return tune.search(target, SPACE, strategy=tune.Grid(repeats), seed=1, clock=clock or target.clock, **options)


def ratios(result, seconds):
    """Of every measurement to what a call takes on a machine without drift."""
    sizes = [candidate.configuration["size"] for candidate in result.candidates]
    return np.array([o.seconds / seconds[sizes[o.index]] for o in result.observations])


@pytest.mark.parametrize("scale", [2e-6, 3e-4, 0.02])
def test_a_slope_does_not_matter(scale):
    """Within the search the machine gets many times slower."""
    true = seconds(scale)
    machine = Scripted(true, lambda now, number: math.exp(now / max(scale, 0.005) / 500))
    result = grid(machine)
    assert machine._factor(machine.now, 0) > 1.5
    found = ratios(result, true)
    np.testing.assert_allclose(found, found[0], rtol=0.01)


@pytest.mark.parametrize("scale", [3e-4, 0.02])
@pytest.mark.parametrize("height", [1.15, 1.5])
def test_steps_touch_single_measurements_only(scale, height):
    true = seconds(scale)
    length = 37 * max(scale, 0.005)
    machine = Scripted(true, lambda now, number: height if now % (2 * length) > length else 1.0)
    result = grid(machine)
    found = ratios(result, true) / np.median(ratios(result, true))
    assert (abs(found - 1) > 0.01).mean() < 0.1
    assert found.min() > 1 / math.sqrt(1.2) - 0.01  # none looks much faster than it is


@pytest.mark.parametrize("every", [7, 11])
def test_single_slow_calls_in_a_block_vanish(every):
    true = seconds(5e-4)
    machine = Scripted(true, lambda now, number: 10.0 if number % every == 0 else 1.0)
    np.testing.assert_allclose(ratios(grid(machine), true), 1)


@pytest.mark.parametrize("scale", [2e-4, 0.02])  # many calls in a block, and one
def test_no_winner_among_equals(scale):
    """With noise that only ever slows calls down, by 5 % on average."""
    winners = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        machine = Scripted(dict.fromkeys(seconds(scale), scale), lambda now, number, rng=rng: 1 + rng.exponential(0.05))
        result = tune.search(machine, SPACE, seed=seed, clock=machine.clock)
        winners += result.best != result.default
    assert stats.binomtest(winners, 60, 0.05, alternative="greater").pvalue > 1e-3


def test_a_slow_call_of_the_default_makes_nobody_look_fast():
    true = seconds(0.02)  # one call a block
    machine = Scripted(true, lambda now, number: 3.0 if number % 17 == 0 else 1.0)
    found = ratios(grid(machine), true)
    assert found.min() > 0.999
    assert np.median(found) == pytest.approx(1)


def test_calls_of_a_tenth_of_a_microsecond_are_not_the_clock():
    true = seconds(1e-7)
    machine = Scripted(true)

    def clock():
        machine.now += 1e-7
        return machine.now

    np.testing.assert_allclose(ratios(grid(machine, repeats=1, clock=clock), true), 1, rtol=0.01)


def test_candidates_of_a_round_share_the_measurements_of_the_default():
    machine = Scripted(seconds(1.0))
    grid(machine, repeats=2)
    first, second = machine.sizes[:-13], machine.sizes[-13:]
    assert second[::2] == [1] * 7
    assert Counter(second[1::2]) == Counter(SPACE.parameters["size"])
    checks, reference, defaults = Counter([1, *SPACE.parameters["size"]]), 1, 1 + 5 * 2  # anew after each check
    assert Counter(first) == checks + Counter(SPACE.parameters["size"]) + Counter({1: reference + defaults})


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_short_calls_are_repeated_unless_caches_are_cold(cache):
    machine = Scripted(dict.fromkeys(SPACE.parameters["size"], 1e-5))
    result = grid(machine, repeats=1, cache=cache)
    assert result.best_seconds == pytest.approx(1e-5)
    block = 1 if cache == "cold" else 1 + 100 * 5  # an untimed one and 5 ms in groups of 50 µs
    reference, defaults = 5, 1 + 5 * 2
    assert len(machine.sizes) == 6 * 2 + (reference + defaults + 6) * block


def test_blocks_have_as_many_calls_as_those_of_the_default_but_end():
    machine = Scripted({1: 1e-3, 2: 1e-4, 4: 1.9e-3, 8: 2.6e-3, 16: 0.02, 32: 1.0})
    grid(machine, repeats=1)
    calls = Counter(machine.sizes)
    assert [calls[size] for size in (2, 4, 8, 16, 32)] == [8, 8, 2 + 1 + 4, 2, 2]


def test_all_seconds_count():
    machine = Scripted(seconds(1e-3))
    result = grid(machine, budget=0.5)
    assert result.stopped == "budget"
    assert result.seconds == machine.now == pytest.approx(0.5, abs=0.03)
    assert 15 < result.measurements < 50  # each with one of the default


def test_a_search_that_goes_on_keeps_its_reference(tmp_path):
    true, path = seconds(1e-3), tmp_path / "journal"
    grid(Scripted(true), journal=path, max_measurements=50)
    result = grid(Scripted(true, lambda now, number: 1.7), journal=path)
    assert result.measurements == 120
    np.testing.assert_allclose(ratios(result, true), 1)


def test_a_journal_changes_no_measurement(tmp_path):
    machines = [Scripted(seconds(1.0)) for _ in range(2)]
    grid(machines[0], repeats=3)
    grid(machines[1], repeats=3, journal=tmp_path / "journal")
    assert machines[0].sizes == machines[1].sizes


def test_a_default_that_fails_later_ends_the_search():
    machine = Scripted(seconds(1e-3))

    def target(size=1):
        machine(size)
        if size == 1 and len(machine.sizes) > 200:
            raise OSError("gone")

    message = r"the default configuration {'size': 1} of .*target: OSError: gone"
    with pytest.raises(tune.DefaultFailed, match=message):
        grid(target, clock=machine.clock)


@pytest.mark.parametrize("interrupted", [1, 4])
def test_ctrl_c_within_a_block(interrupted):
    machine = Scripted(seconds(1e-3))

    def target(size=1):
        machine(size)
        if size == interrupted and len(machine.sizes) > 200:
            raise KeyboardInterrupt

    result = grid(target, clock=machine.clock)
    assert result.stopped == "interrupted"
    assert 8 < result.measurements < 20


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_invalid_times_take_a_candidate_out(bad):
    machine = Scripted(seconds(1e-3) | {8: bad})
    result = grid(machine)
    failed = next(c for c in result.candidates if c.configuration == {"size": 8})
    assert failed.state == "failed"
    assert "takes no time" in failed.reason


@pytest.mark.parametrize("now", [1.0, math.nan, math.inf])
def test_a_clock_that_stands_still_is_an_error(now):
    with pytest.raises(tune.DefaultFailed, match="takes no time"):
        grid(Scripted(seconds(1.0)), clock=lambda: now)


def test_measurements_vary_less_than_the_machine():
    machine = Machine(lambda size: 1e-3, noise=0.02, outliers=0.02)
    steps = itertools.accumulate(np.random.default_rng(0).normal(0, 0.002, 10**6))

    def wandering(size=1):
        before = machine.now
        machine(size=size)
        machine.now = before + (machine.now - before) * math.exp(next(steps))

    result = grid(wandering, clock=machine.clock)
    assert max(candidate.variation for candidate in result.candidates) < 0.03
