"""Recorded landscapes, replays on them, and the comparison of strategies."""

import dataclasses
import json

import numpy as np
import pytest
from tuning_machine import Machine, landscape_of

from transfuse import tune
from transfuse.tune import landscape as landscape_module
from transfuse.tune import recording

SPACE = tune.Space({"a": [1, 2, 3], "b": ["x", "y"]})


def seconds(a, b):
    return 0.01 * a * (2 if b == "x" else 1)


def test_record_measures_every_configuration_in_each_round():
    machine = Machine(seconds, noise=0, outliers=0)
    found = tune.record(machine, SPACE, rounds=3, name="made", clock=machine.clock)
    assert found.configurations == SPACE.configurations()
    expected = [seconds(**configuration) for configuration in SPACE.configurations()]
    np.testing.assert_allclose(found.times, [expected] * 3)
    assert found.configurations[found.best] == {"a": 1, "b": "y"}
    assert found.regret(found.default) == pytest.approx(1)
    assert found.machine["cpus"] >= 1


def test_record_takes_another_order_in_each_round():
    order = []

    def target(a, b):
        order.append((a, b))
        machine(a=a, b=b)

    machine = Machine(lambda a, b: 1.0, noise=0, outliers=0)  # one call a measurement
    tune.record(target, SPACE, rounds=4, clock=machine.clock)
    calls = 7 + 6  # of the default, which is measured before and after each
    rounds = [tuple(order[len(order) - calls * i :][1:calls:2]) for i in (1, 2, 3)]
    assert len(set(rounds)) == 3
    assert all(set(one) == {tuple(c.values()) for c in SPACE.configurations()} for one in rounds)


def test_record_leaves_out_what_fails():
    machine = Machine(seconds)

    def target(a, b):
        if (a, b) == (1, "y"):
            raise ValueError
        machine(a=a, b=b)

    found = tune.record(target, SPACE, rounds=2, default={"a": 3}, clock=machine.clock)
    assert {"a": 1, "b": "y"} not in found.configurations
    assert found.configurations[found.default] == {"a": 3, "b": "x"}
    assert found.times.shape == (2, 5)


def test_record_refuses_no_rounds():
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        tune.record(Machine(seconds), SPACE, rounds=0)


def test_a_landscape_comes_back_from_its_file(tmp_path):
    made = landscape_of([1e-7, 2.5, 3e-3], rounds=7)
    path = tmp_path / "made.json"
    made.save(path)
    back = tune.Landscape.load(path)
    np.testing.assert_allclose(back.times, made.times, rtol=1e-4)
    assert dataclasses.replace(back, times=made.times) == dataclasses.replace(made, times=made.times) or (
        back.configurations == made.configurations and back.parameters == made.parameters
    )
    assert (back.name, back.default, back.machine) == (made.name, made.default, made.machine)
    assert max(map(len, path.read_text().splitlines())) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "expected schema 1 in .*, got 9"),
        ({"parameters": None, "microseconds": "x"}, "expected|could not convert"),
        ({"configurations": None}, "expected a recorded landscape"),
        ({"microseconds": [[1, 2]]}, r"times: expected the shape \(rounds, 3\), got \(1, 2\)"),
        ({"microseconds": []}, r"times: expected the shape"),
        ({"microseconds": [[1, 0, 2]]}, "times: expected finite numbers above 0"),
        ({"microseconds": [[1, -1, 2]]}, "times: expected finite numbers above 0"),
        ({"microseconds": [[1, float("nan"), 2]]}, "times: expected finite numbers above 0"),
        ({"default": 3}, r"default: expected 0\.\.\.2, got 3"),
    ],
)
def test_files_that_are_no_landscapes(tmp_path, change, message):
    path = tmp_path / "made.json"
    landscape_of([1, 2, 3]).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        tune.Landscape.load(path)


def test_names_of_landscapes(tmp_path):
    with pytest.raises(ValueError, match=r"landscape: expected a file or one of .*, got 'nowhere'"):
        tune.Landscape.load("nowhere")
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(ValueError, match="expected a recorded landscape"):
        tune.Landscape.load(tmp_path / "x.json")


def test_landscapes_of_the_package():
    for name in tune.landscapes():
        found = tune.Landscape.load(name)
        assert found.name == name
        assert len(found.times) >= 20
        assert found.regret(found.best) == 0


def test_the_standard_set_can_be_recorded(tmp_path, monkeypatch):
    paths = tune.record_all(tmp_path, 2, ["matmul_t_skinny", "flat"])
    assert [path.name for path in paths] == ["matmul_t_skinny.json", "flat.json"]
    flat = tune.Landscape.load(paths[1])
    assert len(flat.configurations) == 32
    np.testing.assert_allclose(flat.medians, flat.medians[0], rtol=1e-4)
    with pytest.raises(ValueError, match=r"names: expected some of attention_prefill, .*got 'hills'"):
        tune.record_all(tmp_path, 2, ["hills"])


def test_an_interrupted_recording_keeps_what_is_done(tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune.record_all(tmp_path, 2, ["flat", "matmul_t_skinny"])
    assert [path.name for path in tmp_path.iterdir()] == ["flat.json"]


def test_the_standard_set_is_as_large_as_it_should_be():
    sizes = {}
    for name, make in recording.STANDARD.items():
        target, space = make()
        sizes[name] = len(space or target.space())
    assert sizes["blocks_and_threads"] == 32
    assert max(sizes.values()) >= 200
    assert sum(name.startswith("attention") for name in sizes) >= 2
    assert sum(name.startswith("matmul_t") for name in sizes) >= 3


def test_replay_draws_whole_rounds():
    medians = np.array([1.0, 2.0, 4.0])
    times = np.outer([1.0, 10.0, 100.0], medians)  # a round is fast or slow as a whole
    made = dataclasses.replace(landscape_of(medians), times=times)
    result = tune.replay(made, tune.Grid(repeats=20), seed=3)
    rounds = {}
    for observation in result.observations:
        rounds.setdefault(observation.round, set()).add(observation.seconds / medians[observation.index])
    assert len(rounds) == 20
    assert all(len(factors) == 1 for factors in rounds.values())
    assert set.union(*rounds.values()) == {1.0, 10.0, 100.0}


def test_replay_is_determined_by_its_seed():
    made = landscape_of(np.geomspace(1, 3, 20))
    runs = [tune.replay(made, "race", seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].observations != runs[2].observations
    assert runs[0].target == "made"


def test_replay_keeps_to_the_measurements():
    assert tune.replay(landscape_of(np.geomspace(1, 3, 20)), "grid", max_measurements=33).measurements == 33


def test_compare():
    made = [landscape_of(np.geomspace(3, 1, 12)), landscape_of(np.ones(10), seed=1)]
    rows = tune.compare(["grid", tune.Random(evaluations=3)], made, runs=10, seed=4)
    assert [(row.strategy, row.candidates) for row in rows] == [
        ("grid", 12),
        ("random", 12),
        ("grid", 10),
        ("random", 10),
    ]
    grid, random = rows[:2]
    assert grid.measurements == [120] * 10
    assert random.measurements_median == 9
    assert random.evaluations_median == 3
    assert grid.regret_mean == np.mean(grid.regrets) < random.regret_mean
    assert (grid.within_1, grid.agreement, grid.finished) == (1, 1, 1)
    assert rows[2].regret_mean < 1e-4
    assert rows[2].false_winners > 0.5  # it believes the luckiest
    assert rows == tune.compare(["grid", tune.Random(evaluations=3)], made, runs=10, seed=4)


@pytest.mark.parametrize("confidence", [0, 0.5, 1, 5, float("nan")])
def test_confidence_is_checked(confidence):
    with pytest.raises(ValueError, match=r"confidence: expected a number between 0\.5 and 1"):
        tune.compare(["race"], ["flat"], runs=1, confidence=confidence)
    with pytest.raises(ValueError, match=r"confidence: expected a number between 0\.5 and 1"):
        tune.replay("flat", "race", confidence=confidence)


def test_the_default_is_compared_by_its_name():
    [row] = tune.compare(["default"], ["flat"], runs=2)
    assert (row.strategy, row.measurements) == ("default", [0, 0])


def test_compare_refuses():
    with pytest.raises(ValueError, match="runs: expected at least 1, got 0"):
        tune.compare(["grid"], [], runs=0)
    with pytest.raises(ValueError, match="strategy: expected one of"):
        tune.compare(["luck"], [landscape_of([1, 2])], runs=1)


def test_an_installation_without_landscapes(monkeypatch, tmp_path):
    monkeypatch.setattr(landscape_module, "_folder", lambda: tmp_path / "none")
    assert tune.landscapes() == []
