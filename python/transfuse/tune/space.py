"""Search spaces: named discrete parameters, and constraints on them."""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Configuration = dict[str, Any]
Constraint = Callable[[Configuration], bool]

LARGEST = 1_000_000
"""Combinations that a space may have: all of them are listed."""


class Space:
    """Named discrete parameters with constraints.

    Parameters
    ----------
    parameters : mapping of str to sequence
        The values of each parameter, in their natural order: neighbours in it are taken to behave alike. Values are
        numbers, strings, booleans or None.
    constraints : sequence of callable
        Each takes a configuration, a dict, and says whether it is allowed.

    Raises
    ------
    ValueError
        There is no parameter, a parameter has no value, one twice or one that is not finite, there are more than a
        million combinations, or none fulfils the constraints.
    TypeError
        A name is no string, or a value cannot be written as JSON.

    Examples
    --------
    >>> space = Space({"block": [16, 32, 64], "threads": [1, 2]}, [lambda c: c["block"] * c["threads"] <= 64])
    >>> len(space)
    5
    """

    def __init__(self, parameters: Mapping[str, Sequence[Any]], constraints: Sequence[Constraint] = ()) -> None:
        self.parameters = {name: _values(name, values) for name, values in parameters.items()}
        if not self.parameters:
            raise ValueError("space: expected at least one parameter, got none")
        combinations = 1
        for values in self.parameters.values():
            combinations *= len(values)
        if combinations > LARGEST:
            raise ValueError(f"space: expected at most {LARGEST} combinations, got {combinations}")
        self._levels = {}
        for levels in itertools.product(*(range(len(values)) for values in self.parameters.values())):
            configuration = self._configuration(levels)
            if all(constraint(configuration) for constraint in constraints):
                self._levels[levels] = configuration
        if not self._levels:
            raise ValueError(f"constraints: none of the {combinations} combinations fulfils them")

    def __len__(self) -> int:
        return len(self._levels)

    def configurations(self) -> list[Configuration]:
        """All that fulfil the constraints, the last parameter varying fastest."""
        return [dict(configuration) for configuration in self._levels.values()]

    def levels(self) -> list[tuple[int, ...]]:
        """Of all configurations in the same order: which value of each parameter they have."""
        return list(self._levels)

    def to_json(self) -> dict[str, list[Any]]:
        """The parameters' values."""
        return {name: list(values) for name, values in self.parameters.items()}

    def _configuration(self, levels: tuple[int, ...]) -> Configuration:
        return {name: values[level] for (name, values), level in zip(self.parameters.items(), levels, strict=True)}


def key(configuration: Configuration) -> str:
    """The same text for equal configurations, whatever the order of their parameters."""
    return json.dumps(configuration, sort_keys=True)


def _values(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(name, str):
        raise TypeError(f"space: expected names to be str, got {name!r}")
    if isinstance(values, str):
        raise TypeError(f"space: expected a sequence of values for {name!r}, got the str {values!r}")
    items = tuple(value.item() if hasattr(value, "item") else value for value in values)
    if not items:
        raise ValueError(f"space: expected at least one value for {name!r}, got none")
    for value in items:
        if not isinstance(value, int | float | str | bool | None):
            raise TypeError(f"space: expected numbers, strings, booleans or None for {name!r}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"space: expected finite numbers for {name!r}, got {value!r}")
    if len(set(map(repr, items))) < len(items):
        raise ValueError(f"space: expected different values for {name!r}, got {list(items)}")
    return items
