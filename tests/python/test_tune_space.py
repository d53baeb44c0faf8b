"""Search spaces and the candidates that are chosen from them."""

import numpy as np
import pytest

from transfuse.tune import Space
from transfuse.tune.candidates import choose


def test_configurations_in_order():
    space = Space({"b": [2, 1], "a": ["x", None]})
    assert space.configurations() == [
        {"b": 2, "a": "x"},
        {"b": 2, "a": None},
        {"b": 1, "a": "x"},
        {"b": 1, "a": None},
    ]
    assert len(space) == 4
    assert space.to_json() == {"b": [2, 1], "a": ["x", None]}


def test_constraints_are_all_fulfilled():
    space = Space({"a": range(5), "b": range(5)}, [lambda c: c["a"] < c["b"], lambda c: c["b"] != 2])
    assert all(c["a"] < c["b"] != 2 for c in space.configurations())
    assert len(space) == 8


def test_numpy_values_become_pythons():
    values = Space({"a": np.array([1, 2])}).parameters["a"]
    assert values == (1, 2)
    assert all(type(value) is int for value in values)


@pytest.mark.parametrize(
    ("parameters", "constraints", "error", "message"),
    [
        ({}, [], ValueError, "at least one parameter"),
        ({"a": []}, [], ValueError, "at least one value for 'a'"),
        ({"a": [1, 2, 1]}, [], ValueError, r"different values for 'a', got \[1, 2, 1\]"),
        ({"a": [1, 2]}, [lambda c: c["a"] > 2], ValueError, "constraints: none of the 2 combinations"),
        ({"a": range(2000), "b": range(2000)}, [], ValueError, "at most 1000000 combinations, got 4000000"),
        ({1: [1]}, [], TypeError, "names to be str, got 1"),
        ({"a": "xyz"}, [], TypeError, "sequence of values for 'a', got the str 'xyz'"),
        ({"a": [(1, 2)]}, [], TypeError, r"numbers, strings, booleans or None for 'a', got \(1, 2\)"),
    ],
)
def test_errors(parameters, constraints, error, message):
    with pytest.raises(error, match=message):
        Space(parameters, constraints)


def same(configuration):
    return configuration


def test_the_default_comes_first_and_once():
    candidates = choose(Space({"a": [1, 2, 3]}), {"a": 2}, same)
    assert candidates.configurations == [{"a": 2}, {"a": 1}, {"a": 3}]
    assert candidates.default == 0
    np.testing.assert_array_equal(candidates.places[:, 0], [1, 0, 2])


def test_a_default_outside_of_the_space_is_a_candidate():
    candidates = choose(Space({"a": [10, 20, 40], "c": ["x", "y"]}), {"a": 30, "c": "z", "b": 7}, same)
    assert len(candidates) == 7
    assert candidates.configurations[1] == {"a": 10, "c": "x", "b": 7}
    np.testing.assert_array_equal(candidates.places[0], [1.5, 0])


def test_what_does_the_same_is_measured_once():
    space = Space({"a": [10, 20, 30, 40]})
    candidates = choose(space, {"a": 40}, lambda c: {"a": min(c["a"], 20)})
    assert candidates.configurations == [{"a": 40}, {"a": 10}]
