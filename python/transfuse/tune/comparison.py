"""Strategies on recorded landscapes: regret, measurements, agreement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfuse.tune.landscape import Landscape
from transfuse.tune.result import TuningResult


@dataclass(frozen=True)
class ComparisonRow:
    """A strategy on a landscape, over many seeds.

    Attributes
    ----------
    strategy, landscape : str
    candidates, runs : int
    regret_mean, regret_median, regret_95 : float
        How much slower the answer is than the true best (0.01 for 1 %): mean, median, 95th percentile.
    leader_regret_mean : float
        The same before the rule that a winner must beat the default on fresh samples.
    within_1, within_2 : float
        The share of runs with a regret of at most 1 % and 2 %.
    measurements_median, measurements_mean, evaluations_median : float
    agreement : float
        The share of runs that gave the most frequent answer.
    false_winners : float
        The share of runs whose answer is not the default; to be read where all configurations are equal.
    finished : float
        The share of runs that came to a decision.
    regrets, measurements : list
        Of each run.
    """

    strategy: str
    landscape: str
    candidates: int
    runs: int
    regret_mean: float
    regret_median: float
    regret_95: float
    leader_regret_mean: float
    within_1: float
    within_2: float
    measurements_median: float
    measurements_mean: float
    evaluations_median: float
    agreement: float
    false_winners: float
    finished: float
    regrets: list[float] = field(repr=False)
    measurements: list[int] = field(repr=False)


def replay(
    landscape: Landscape,
    strategy: Any = "race",
    seed: int = 0,
    *,
    max_measurements: int | None = None,
    confidence: float = 0.95,
) -> TuningResult:
    """Run a strategy on recorded timings, whole rounds of which are drawn with replacement."""
    raise NotImplementedError


def compare(
    strategies: Sequence[Any] | None = None,
    landscapes: Sequence[Landscape | str] | None = None,
    *,
    runs: int = 100,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[str], None] | None = None,
) -> list[ComparisonRow]:
    """All strategies on all landscapes, each with the same seeds."""
    raise NotImplementedError
