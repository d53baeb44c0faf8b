"""Searching: targets that fail, are wrong, or are measured by strange clocks; arguments; progress."""

import dataclasses
import itertools
import json
import math
import sys

import numpy as np
import pytest
from tuning_machine import Machine

from transfuse import tune

SPACE = tune.Space({"size": [1, 2, 4, 8, 16, 32]})


def seconds(size):
    return 1e-4 * (1 + abs(math.log2(size) - 3))  # 8 is best, the default 1 the slowest but one


def search(target=None, space=SPACE, **options):
    target = target or Machine(seconds)
    return tune.search(target, space, **{"seed": 1, "clock": getattr(target, "clock", clock())} | options)


def clock():
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-3


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_the_best_is_found(strategy):
    result = search(strategy=strategy)
    assert result.best == {"size": 8}
    assert result.default == {"size": 1}
    assert result.strategy == strategy
    assert result.speedup.low < 4 < result.speedup.high * 1.1
    assert result.probability > (0.9 if strategy in ("race", "grid", "exhaustive") else 0.4)
    assert result.best_seconds == pytest.approx(1e-4, rel=0.1)
    assert result.break_even > 0
    assert result.measurements == len(result.observations) == sum(c.measurements for c in result.candidates)
    assert result.measurements == sum(i.measurements for i in result.history)
    assert result.evaluations == 6
    assert result.stopped in ("decided", "cap")


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_a_failing_candidate_and_a_wrong_one_are_out(strategy):
    machine = Machine(seconds)

    def target(size):
        if size == 8:
            raise ValueError("no such size")
        machine(size=size)
        return np.full(3, 1.0 + (size == 4))

    result = search(target, strategy=strategy, clock=machine.clock)
    assert result.best == {"size": 16}
    states = {c.configuration["size"]: (c.state, c.reason, c.measurements) for c in result.candidates}
    assert states[8] == ("failed", "ValueError: no such size", 0)
    assert states[4] == ("wrong", "its output is off by 1, more than 1.5e-08", 0)
    assert search(target, strategy=strategy, clock=machine.clock, check=False).best in ({"size": 4}, {"size": 16})


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_a_candidate_that_fails_later_is_out(strategy):
    machine, calls = Machine(seconds), itertools.count()

    def target(size):
        machine(size=size)
        if size == 8 and next(calls) >= 20:
            raise OSError("gone")
        return None

    result = search(target, strategy=strategy, clock=machine.clock)
    assert result.best in ({"size": 4}, {"size": 16})
    failed = next(c for c in result.candidates if c.configuration == {"size": 8})
    assert (failed.state, failed.reason) == ("failed", "OSError: gone")
    assert failed.measurements > 0


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_only_the_default_works(strategy):
    machine = Machine(seconds)

    def target(size):
        if size != 2:
            raise ValueError("no")
        return machine(size=size)

    result = search(target, strategy=strategy, default={"size": 2}, clock=machine.clock)
    assert result.best == {"size": 2}
    assert result.speedup.value == 1
    assert math.isinf(result.break_even)


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_a_default_that_fails_is_an_error(strategy):
    def target(size):
        raise ZeroDivisionError("oh")

    message = r"the default configuration {'size': 1} of .*target: ZeroDivisionError: oh"
    with pytest.raises(tune.DefaultFailed, match=message):
        search(target, strategy=strategy)


def test_a_parameter_that_the_target_lacks_is_an_error():
    with pytest.raises(tune.DefaultFailed, match="unexpected keyword argument 'size'"):
        search(lambda: None)


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_one_candidate(strategy):
    result = search(space=tune.Space({"size": [4]}), strategy=strategy)
    assert result.best == result.default == {"size": 4}
    assert result.stopped == "decided"


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_a_default_outside_of_the_space(strategy):
    result = search(strategy=strategy, default={"size": 64})
    assert result.default == {"size": 64}
    assert result.best == {"size": 8}
    result = search(space=tune.Space({"size": [64, 1]}), strategy=strategy, default={"size": 8})
    assert result.best == {"size": 8}


def test_progress():
    events = []
    result = search(progress=events.append, max_measurements=200)
    assert [events[0].phase, events[-1].phase] == ["checking", "done"]
    assert {event.phase for event in events[1:-1]} == {"search", "validation"}
    assert [event.measurements for event in events[1:-1]] == list(range(1, result.measurements + 1))
    last = events[-1]
    assert (last.best, last.failed, last.candidates, last.target) == ({"size": 8}, 0, 6, "Machine")
    assert 0 < last.done < 1
    assert math.isnan(events[0].best_seconds)
    assert last.default_seconds == pytest.approx(4e-4, rel=0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "best"}, ValueError, "strategy: expected one of grid, .*, got 'best'"),
        ({"confidence": 1}, ValueError, "confidence: expected a number between 0.5 and 1, got 1"),
        ({"budget": 0}, ValueError, "budget: expected seconds above 0, got 0"),
        ({"max_measurements": 0}, ValueError, "max_measurements: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "integer"),
        ({"cache": "hot"}, ValueError, "cache: expected 'warm' or 'cold', got 'hot'"),
        ({"space": None}, TypeError, "space: expected a Space for the callable Machine, got None"),
        ({"space": {"size": [1]}}, TypeError, "space: expected a Space, got dict"),
        ({"target": 3}, TypeError, "target: expected a target or a callable, got int"),
    ],
)
def test_arguments(options, error, message):
    with pytest.raises(error, match=message):
        search(**options)


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    machine = Machine(seconds)
    with pytest.raises(ImportError, match="tuning needs SciPy"):
        search(machine)
    assert machine.now == 0


def test_a_bad_seed_is_not_written_down(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        search(seed=-1, journal=tmp_path / "journal")
    assert list(tmp_path.iterdir()) == []
    result = search(seed=np.int64(3), journal=tmp_path / "journal")
    assert json.loads(result.to_json())["seed"] == 3


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_the_same_seed_gives_the_same_search(strategy):
    runs = [dataclasses.replace(search(strategy=strategy, seed=seed), machine={}) for seed in (3, 3, 4)]
    assert runs[0].observations == runs[1].observations
    assert runs[0] == runs[1]
    if strategy not in ("random", "genetic"):
        assert [o.index for o in runs[0].observations] != [o.index for o in runs[2].observations]


def test_operations_are_tuned():
    result = tune.search(tune.MatmulT(20, 600, 20, threads=2), max_measurements=30, seed=0)
    assert {c.state for c in result.candidates} <= {"measured", "unmeasured"}
    assert result.best["threads"] in (1, 2)
    assert result.description["operation"] == "matmul_t"
