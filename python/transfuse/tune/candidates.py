"""The configurations that a search chooses from: the default first, and each that does something else once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.space import Configuration, Space


@dataclass(frozen=True)
class Candidates:
    """What a search chooses from.

    Attributes
    ----------
    parameters : dict
        The space's values.
    configurations : list of dict
        Complete ones: what the space does not say is the default's.
    default : int
        The index of the default configuration.
    places : (candidates, parameters)
        Where each stands in the list of each parameter's values; a default between two values stands between them.
    """

    parameters: Mapping[str, Sequence[Any]]
    configurations: list[Configuration]
    default: int
    places: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.configurations)

    @classmethod
    def of(
        cls, parameters: Mapping[str, Sequence[Any]], configurations: list[Configuration], default: int
    ) -> "Candidates":
        """With the places found."""
        places = [
            [_place(configuration.get(name), values) for name, values in parameters.items()]
            for configuration in configurations
        ]
        return cls(parameters, configurations, default, np.array(places, float).reshape(len(places), len(parameters)))


def choose(space: Space, default: Configuration, effective: Callable[[Configuration], Configuration]) -> Candidates:
    """The default, and the configurations of a space of which none is known to do the same as another.

    The default is a candidate even if the space lacks it.
    """
    found: dict[str, Configuration] = {}
    for configuration in (default, *(default | point for point in space.configurations())):
        found.setdefault(json.dumps(effective(configuration), sort_keys=True), configuration)
    return Candidates.of(space.parameters, list(found.values()), 0)


def _place(value: Any, values: Sequence[Any]) -> float:
    """The index of a value; of a number that is missing, that of where it would be."""
    if value in values:
        return float(list(values).index(value))
    if not all(isinstance(x, int | float) for x in (value, *values)):
        return 0.0
    numbers, indices = zip(*sorted((float(x), i) for i, x in enumerate(values)), strict=True)
    return float(np.interp(value, numbers, indices))
