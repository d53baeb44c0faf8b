"""Recorded landscapes: a space that was measured thoroughly once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.space import Configuration


@dataclass(frozen=True)
class Landscape:
    """The timings of every configuration of a space, in interleaved rounds.

    Attributes
    ----------
    name : str
    description : dict
        The target.
    parameters : dict
        The space.
    configurations : list of dict
    default : int
        Index of the default configuration.
    times : (rounds, configurations)
        Seconds; NaN for a configuration that failed.
    machine : dict
    """

    name: str
    description: dict[str, Any]
    parameters: dict[str, list[Any]]
    configurations: list[Configuration]
    default: int
    times: NDArray[np.float64]
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def medians(self) -> NDArray[np.float64]:
        """Of each configuration."""
        return np.asarray(np.median(self.times, axis=0), float)

    @property
    def best(self) -> int:
        """Index of the configuration with the least median."""
        return int(np.nanargmin(self.medians))

    def regret(self, index: int) -> float:
        """How much slower a configuration is than the best: 0.01 for 1 %."""
        medians = self.medians
        return float(medians[index] / medians[self.best] - 1)

    @classmethod
    def load(cls, name: str | Path) -> "Landscape":
        """Read a landscape: one of :func:`landscapes`, or a file."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        raise NotImplementedError


def landscapes() -> list[str]:
    """The names of the landscapes that come with the package."""
    raise NotImplementedError
