"""The measuring loop that all strategies share."""

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.candidates import Candidates
from transfuse.tune.result import Iteration, Observation, Phase
from transfuse.tune.sampling import Source
from transfuse.tune.space import Configuration


@dataclass(frozen=True)
class Progress:
    """Where a search stands, for a live view.

    Attributes
    ----------
    phase : {"checking", "search", "validation", "done"}
    strategy, target : str
    iteration : int
        Rounds of measurements done.
    measurements : int
    max_measurements : int or None
    seconds : float
        Since the search began.
    budget : float or None
        Seconds.
    best : dict
        The leader's configuration.
    best_seconds, default_seconds : float
        Medians so far; NaN before the first measurement.
    alive, candidates, failed : int
        Candidates that can still win, all, and those that failed or gave a wrong result.
    """

    phase: Phase
    strategy: str
    target: str
    iteration: int
    measurements: int
    max_measurements: int | None
    seconds: float
    budget: float | None
    best: Configuration
    best_seconds: float
    default_seconds: float
    alive: int
    candidates: int
    failed: int

    @property
    def done(self) -> float:
        """The share of the budget that is used, 0 to 1; NaN without a budget."""
        shares = [
            used / allowed
            for used, allowed in ((self.seconds, self.budget), (self.measurements, self.max_measurements))
            if allowed
        ]
        return min(1.0, max(shares)) if shares else math.nan


class BudgetSpent(Exception):
    """There is no time, or no measurement, left."""


class Strategy(Protocol):
    """A way to choose what is measured next.

    A strategy is a frozen dataclass of its options; what it learns in a search stays in the loop or in local variables.
    """

    @property
    def name(self) -> str:
        """The name under which :func:`~transfuse.tune.search` knows it."""
        ...

    def run(self, loop: "Loop") -> int:
        """Measure until there is a decision, and return the index of the best candidate.

        :meth:`Loop.report` is told of the leader from time to time, which is the answer if the search is ended early.
        """
        ...


@dataclass
class Loop:
    """What a strategy sees: candidates by their numbers, and a way to measure them.

    Attributes
    ----------
    candidates : Candidates
    source : Source
    rng : numpy.random.Generator
    confidence : float
    budget : float or None
        Seconds.
    max_measurements : int or None
    on_progress : callable
        Called with the phase after each measurement.
    samples : list of list of float
        Seconds by candidate, in the order in which they were measured.
    best : int
        The leader that was reported last.
    leader : int or None
        The leader of the search before its validation, where that is another than the answer.
    validated : bool
        Fresh samples confirm the answer.
    capped : bool
        The strategy stopped at its cap, without a decision.
    alive_count : int
        Candidates that can still win, as reported last.
    ties : list of int
        Candidates that may be as good as the leader.
    reserve : float
        The share of the budget that is kept for what comes later.
    """

    candidates: Candidates
    source: Source
    rng: np.random.Generator
    confidence: float = 0.95
    budget: float | None = None
    max_measurements: int | None = None
    on_progress: Callable[[Phase], None] = lambda phase: None
    samples: list[list[float]] = field(init=False)
    observations: list[Observation] = field(default_factory=list, init=False)
    history: list[Iteration] = field(default_factory=list, init=False)
    phase: Phase = field(default="search", init=False)
    best: int = field(init=False)
    leader: int | None = field(default=None, init=False)
    validated: bool = field(default=False, init=False)
    capped: bool = field(default=False, init=False)
    ties: list[int] = field(default_factory=list, init=False)
    reserve: float = field(default=0.0, init=False)
    rounds: int = field(default=0, init=False)
    alive_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.samples = [[] for _ in range(len(self.candidates))]
        self.best = self.candidates.default
        self.alive_count = len(self.candidates)
        self._reported = 0

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def default(self) -> int:
        """The default's index."""
        return self.candidates.default

    @property
    def alive(self) -> NDArray[np.intp]:
        """All candidates that have not failed."""
        failures = self.source.failures
        return np.array([index for index in range(len(self)) if index not in failures], np.intp)

    def measure(self, indices: Iterable[int]) -> NDArray[np.float64]:
        """Time each of these candidates once, in random order: a round.

        Returns
        -------
        (indices,)
            Natural logarithms of seconds; NaN for candidates that are out.

        Raises
        ------
        BudgetSpent
            What was measured until then is in `samples`.
        """
        asked = np.fromiter(indices, np.intp)
        order = self.rng.permutation(asked.size)
        logs = np.full(asked.size, math.nan)
        self.rounds += 1
        self._require_budget()
        for place, seconds in zip(order.tolist(), self.source.times(asked[order].tolist()), strict=True):
            if seconds == seconds:  # not NaN
                index = int(asked[place])
                self.samples[index].append(seconds)
                self.observations.append(Observation(index, seconds, self.rounds, self.phase))
                logs[place] = math.log(seconds)
                self.on_progress(self.phase)
                self._require_budget(exact=place != order[-1])
        return logs

    def report(self, best: int, alive: int) -> None:
        """Say who leads, and how many can still win."""
        self.best, self.alive_count = best, alive
        measurements = len(self.observations)
        self.history.append(
            Iteration(
                len(self.history) + 1,
                measurements - self._reported,
                best,
                median(self.samples[best]),
                alive,
                self.source.elapsed(),
                self.phase,
            )
        )
        self._reported = measurements

    def report_rest(self) -> None:
        """Report the measurements of an iteration that was cut short."""
        if len(self.observations) > self._reported:
            self.report(self.best, self.alive_count)

    def _require_budget(self, *, exact: bool = True) -> None:
        kept = 1 - self.reserve
        if exact and self.max_measurements is not None and len(self.observations) >= self.max_measurements * kept:
            raise BudgetSpent
        if exact and self.budget is not None and self.source.elapsed() >= self.budget * kept:
            raise BudgetSpent


def require_limits(confidence: float, budget: float | None, max_measurements: int | None, seed: int | None) -> None:
    """Raise ValueError, or TypeError, if an argument of a search is out of range."""
    require(0.5 < confidence < 1, "confidence", "a number between 0.5 and 1", confidence)
    require(budget is None or budget > 0, "budget", "seconds above 0", budget)
    require(max_measurements is None or max_measurements > 0, "max_measurements", "at least 1", max_measurements)
    require(seed is None or operator.index(seed) >= 0, "seed", "at least 0", seed)


def require(fulfilled: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError if a condition is not fulfilled."""
    if not fulfilled:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def require_at_least(strategy: Strategy, **least: float) -> None:
    """Raise ValueError if an option of a strategy is less than so much."""
    for name, value in least.items():
        if not getattr(strategy, name) >= value:
            raise ValueError(f"{name}: expected at least {value:g}, got {getattr(strategy, name)}")


def median(samples: list[float]) -> float:
    """Of samples; NaN if there are none."""
    ordered, half = sorted(samples), len(samples) // 2
    if not ordered:
        return math.nan
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
