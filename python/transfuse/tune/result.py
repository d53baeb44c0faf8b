"""What a search has found, and how."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transfuse.bench.statistics import Estimate
from transfuse.tune import plots, report
from transfuse.tune.space import Configuration

if TYPE_CHECKING:
    import rich.table
    from matplotlib.axes import Axes

Phase = Literal["checking", "search", "validation", "done"]
State = Literal["measured", "unmeasured", "failed", "wrong"]
Stopped = Literal["decided", "budget", "interrupted", "cap"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One measurement: the seconds of a call of a candidate, in a round of measurements."""

    index: int
    seconds: float
    round: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class Iteration:
    """What a strategy knew after an iteration.

    Attributes
    ----------
    iteration : int
        From 1.
    measurements : int
        In this iteration.
    best : int
        The leading candidate's index.
    seconds : float
        Its median so far; NaN if it has not been measured.
    alive : int
        Candidates that can still win.
    elapsed : float
        Seconds since the search began.
    phase : {"search", "validation"}
    """

    iteration: int
    measurements: int
    best: int
    seconds: float
    alive: int
    elapsed: float
    phase: Phase


@dataclass(frozen=True)
class Candidate:
    """A configuration and its timings.

    Attributes
    ----------
    configuration : dict
    seconds : float or None
        The median.
    measurements : int
    variation : float
        Coefficient of variation; 0 for fewer than two measurements.
    state : {"measured", "unmeasured", "failed", "wrong"}
    reason : str
        Why it is out.
    """

    configuration: Configuration
    seconds: float | None
    measurements: int
    variation: float
    state: State
    reason: str = ""


@dataclass(frozen=True)
class TuningResult:
    """What a search has found.

    Attributes
    ----------
    target : str
        Its name.
    description : dict
        The target, as JSON.
    space : dict
        The parameters' values.
    strategy, seed, confidence, cache
        As :func:`~transfuse.tune.search` was given them.
    machine : dict
    best, default, leader : dict
        Configurations; the leader is what would have been best by the search's own samples, before fresh ones.
    speedup : Estimate
        The default's time over the best's, with its interval; all 1 where the default is the best.
    probability : float
        That the best is faster than the default, by Student's t of its fresh samples, or of all if there are none.
    validated : bool
        Fresh samples confirm the answer; or it is the default, and all others were found not to gain enough.
    ties : list of dict
        Configurations that may be as good as the leader.
    evaluations, measurements : int
        Candidates that were timed, and timings.
    seconds : float
        Of the search.
    candidates : list of Candidate
    history : list of Iteration
    observations : list of Observation
    stopped : {"decided", "budget", "interrupted", "cap"}
    """

    target: str
    description: dict[str, Any] = field(repr=False)
    space: dict[str, list[Any]] = field(repr=False)
    strategy: str
    seed: int
    confidence: float
    cache: str
    machine: dict[str, Any] = field(repr=False)
    best: Configuration
    default: Configuration
    leader: Configuration
    speedup: Estimate
    probability: float
    validated: bool
    ties: list[Configuration]
    evaluations: int
    measurements: int
    seconds: float
    candidates: list[Candidate] = field(repr=False)
    history: list[Iteration] = field(repr=False)
    observations: list[Observation] = field(repr=False)
    stopped: Stopped

    @property
    def interrupted(self) -> bool:
        """Ctrl-C ended the search."""
        return self.stopped == "interrupted"

    @property
    def best_seconds(self) -> float:
        """The best's median; NaN if it was not measured."""
        return self._seconds(self.best)

    @property
    def default_seconds(self) -> float:
        """The default's median; NaN if it was not measured."""
        return self._seconds(self.default)

    @property
    def break_even(self) -> float:
        """After how many calls the search has paid for itself; infinite if nothing was gained."""
        gain = self.default_seconds * (1 - 1 / self.speedup.value)
        return self.seconds / gain if gain > 0 else math.inf

    def summary(self) -> "rich.table.Table":
        """What was found, by name and value; rich prints it, plainly where there is no terminal."""
        return report.summary(self)

    def table(self, limit: int = 20) -> "rich.table.Table":
        """The candidates, fastest first: at most `limit`, and the best and the default.

        Raises
        ------
        ValueError
            `limit` is below 1.
        """
        return report.table(self, limit)

    def markdown(self, limit: int = 20) -> str:
        """The same as a Markdown table."""
        return report.markdown(self, limit)

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON; also written to `path`, if there is one."""
        from transfuse.tune import serialization  # which builds results

        return serialization.to_json(self, path)

    @classmethod
    def from_json(cls, source: str | Path) -> "TuningResult":
        """Read a result from a file, or from the text that :meth:`to_json` returned.

        Raises
        ------
        ValueError
            It is none of a search, or of another version.
        """
        from transfuse.tune import serialization  # which builds results

        return serialization.from_json(source)

    def plot_measures(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the measurements of each iteration, and how many candidates could still win.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Where to draw; without it, in a figure of its own: ``result.plot_measures().figure.savefig("a.png")``.

        Raises
        ------
        ImportError
            Matplotlib is not installed.
        """
        return plots.plot_measures(self, axes)

    def plot_heatmap(self, x: str | None = None, y: str | None = None, axes: "Axes | None" = None) -> "Axes":
        """Draw the time of a call against two parameters, those with the most values if they are not named.

        A cell is the least time over all other parameters; grey cells were not measured. A frame marks the best, a
        dashed one the default. `axes` as in :meth:`plot_measures`.

        Raises
        ------
        ImportError
            Matplotlib is not installed.
        ValueError
            There is no such parameter, or both are the same.
        """
        return plots.plot_heatmap(self, x, y, axes)

    def plot_convergence(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the leader's time against the measurements made so far. `axes` as in :meth:`plot_measures`.

        Raises
        ------
        ImportError
            Matplotlib is not installed.
        """
        return plots.plot_convergence(self, axes)

    def _seconds(self, configuration: Configuration) -> float:
        for candidate in self.candidates:
            if candidate.configuration == configuration and candidate.seconds is not None:
                return candidate.seconds
        return math.nan
