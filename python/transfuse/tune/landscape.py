"""Recorded landscapes: a space that was measured thoroughly once, so that any strategy can be run on it again."""

import functools
import json
import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.candidates import Candidates
from transfuse.tune.space import Configuration

SCHEMA = 1
DIGITS = 5
"""Significant digits of a time in a file: far below what a measurement is worth."""


@dataclass(frozen=True)
class Landscape:
    """The timings of every configuration of a space, in interleaved rounds.

    Attributes
    ----------
    name : str
    description : dict
        The target.
    parameters : dict
        The space's values.
    configurations : list of dict
    default : int
        Index of the default configuration.
    times : (rounds, configurations)
        Seconds at the speed of one moment: ratios to the default's around each measurement, times one reference. So the
        drift of the machine is not in them, and the default's own vary like the others'.
    machine : dict

    Raises
    ------
    ValueError
        There are no times, as many columns as configurations are missing, a time is not finite and above 0, or the
        default is none of the configurations.
    """

    name: str
    description: dict[str, Any]
    parameters: dict[str, list[Any]]
    configurations: list[Configuration]
    default: int
    times: NDArray[np.float64] = field(repr=False)
    machine: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        count = len(self.configurations)
        if self.times.ndim != 2 or self.times.shape[1] != count or self.times.size == 0:
            raise ValueError(f"times: expected the shape (rounds, {count}), got {self.times.shape}")
        if not (np.isfinite(self.times).all() and (self.times > 0).all()):
            raise ValueError("times: expected finite numbers above 0")
        if not 0 <= self.default < count:
            raise ValueError(f"default: expected 0...{count - 1}, got {self.default}")

    @functools.cached_property
    def medians(self) -> NDArray[np.float64]:
        """Of each configuration, in seconds."""
        return np.asarray(np.median(self.times, axis=0), float)

    @property
    def best(self) -> int:
        """Index of the configuration with the least median."""
        return int(np.argmin(self.medians))

    @functools.cached_property
    def candidates(self) -> Candidates:
        """What a search chooses from."""
        return Candidates.of(self.parameters, self.configurations, self.default)

    def regret(self, index: int) -> float:
        """How much slower a configuration is than the best: 0.01 for 1 %."""
        return float(self.medians[index] / self.medians[self.best] - 1)

    def index(self, configuration: Configuration) -> int:
        """Of a configuration.

        Raises
        ------
        ValueError
            It is none of them.
        """
        return self.configurations.index(configuration)

    @classmethod
    def load(cls, name: str | Path) -> "Landscape":
        """Read one of :func:`landscapes` by its name, or a file by its path.

        Raises
        ------
        ValueError
            There is no such landscape, or the file holds none.
        OSError
            The file cannot be read.
        """
        path = Path(name)
        if str(name) in landscapes():
            text = (_folder() / f"{name}.json").read_text(encoding="utf-8")
        elif path.suffix or path.exists():
            text = path.read_text(encoding="utf-8")
        else:
            raise ValueError(f"landscape: expected a file or one of {', '.join(landscapes())}, got {str(name)!r}")
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise ValueError(f"landscape: expected schema {SCHEMA} in {name}, got {content['schema']}")
            return cls(
                content["name"],
                content["target"],
                content["parameters"],
                content["configurations"],
                content["default"],
                np.array(content["microseconds"], float) / 1e6,
                content["machine"],
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"landscape: expected a recorded landscape in {name}: {error!r}") from error

    def save(self, path: str | Path) -> None:
        """Write it as JSON: one line for each field, configuration and round."""
        rows = [[_rounded(seconds * 1e6) for seconds in row] for row in self.times.tolist()]
        head = {
            "schema": SCHEMA,
            "name": self.name,
            "target": self.description,
            "machine": self.machine,
            "parameters": self.parameters,
            "default": self.default,
        }
        lines = [f'"{name}":{_json(value)}' for name, value in head.items()]
        for name, items in (("configurations", self.configurations), ("microseconds", rows)):
            lines.append(f'"{name}":[\n' + ",\n".join(map(_json, items)) + "\n]")
        Path(path).write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def landscapes() -> list[str]:
    """The names of the landscapes that come with the package."""
    if not _folder().is_dir():
        return []
    return sorted(entry.name.removesuffix(".json") for entry in _folder().iterdir() if entry.name.endswith(".json"))


def _folder() -> Any:
    return resources.files("transfuse.tune") / "landscapes"


def _rounded(number: float) -> float | int:
    """To DIGITS significant digits; whole numbers need no point."""
    rounded = round(number, DIGITS - 1 - math.floor(math.log10(number)))
    return int(rounded) if rounded == int(rounded) else rounded


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
