"""Strategies on recorded landscapes: regret, measurements, agreement."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from transfuse.tune import landscape as recorded
from transfuse.tune.landscape import Landscape
from transfuse.tune.loop import Loop, Strategy, require, require_limits
from transfuse.tune.result import State, Stopped, TuningResult
from transfuse.tune.searching import STRATEGIES, as_strategy, conduct, summarize
from transfuse.tune.simple import Default

COMPARED = ("default", *STRATEGIES)
"""What is compared if nothing else is said."""


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


class LandscapeSource:
    """Times from a landscape: each request is answered from one recorded round, drawn with replacement.

    Candidates that are measured together so share what slowed that round.
    """

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self.failures: dict[int, tuple[State, str]] = {}
        self._times, self._rng = landscape.times, np.random.default_rng([seed, 1])
        self._elapsed = 0.0
        self.reference: float | None = float(landscape.medians[landscape.default])

    def elapsed(self) -> float:
        """The sum of the times that were asked for."""
        return self._elapsed

    def times(self, indices: Sequence[int]) -> list[float]:
        """Of each of these candidates."""
        times: list[float] = self._times[self._rng.integers(len(self._times)), indices].tolist()
        self._elapsed += sum(times)
        return times


def replay(
    landscape: Landscape | str,
    strategy: Strategy | str = "race",
    seed: int = 0,
    *,
    max_measurements: int | None = None,
    confidence: float = 0.95,
) -> TuningResult:
    """Run a strategy on recorded timings, whole rounds of which are drawn with replacement.

    Parameters
    ----------
    landscape : Landscape or str
        A name or path is loaded.
    strategy, max_measurements, confidence
        As for :func:`~transfuse.tune.search`.
    seed : int
        Of the strategy and of the drawing.

    Returns
    -------
    TuningResult
        ``landscape.regret(landscape.index(result.best))`` is its regret.
    """
    require_limits(confidence, None, max_measurements, seed)
    landscape, strategy = _loaded(landscape), as_strategy(strategy)
    loop = _loop(landscape, seed, max_measurements, confidence)
    answer, stopped = conduct(strategy, loop)
    return summarize(
        loop,
        answer,
        stopped,
        target=landscape.name,
        description=landscape.description,
        strategy=strategy.name,
        seed=seed,
        cache="warm",
        machine=landscape.machine,
    )


def compare(
    strategies: Sequence[Strategy | str] | None = None,
    landscapes: Sequence[Landscape | str] | None = None,
    *,
    runs: int = 100,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[str], None] | None = None,
) -> list[ComparisonRow]:
    """All strategies on all landscapes, each with the same seeds.

    Parameters
    ----------
    strategies : sequence, optional
        Names or instances; "default" is the default configuration, for which nothing is measured. Default: all.
    landscapes : sequence, optional
        Names, paths or landscapes. Default: all that come with the package.
    runs : int
        Seeds, from `seed` on.
    seed : int
    confidence : float
    progress : callable, optional
        Called with a text before each row.

    Returns
    -------
    list of ComparisonRow
        Landscape by landscape.

    Raises
    ------
    ValueError
        `runs` is less than 1, `confidence` or `seed` is out of range, or a name is unknown.
    """
    require(runs >= 1, "runs", "at least 1", runs)
    require_limits(confidence, None, None, seed)
    chosen = [as_compared(strategy) for strategy in (COMPARED if strategies is None else strategies)]
    rows = []
    for landscape in map(_loaded, recorded.landscapes() if landscapes is None else landscapes):
        for strategy in chosen:
            if progress:
                progress(f"{landscape.name}: {strategy.name}")
            rows.append(_row(landscape, strategy, range(seed, seed + runs), confidence))
    return rows


def as_compared(strategy: Strategy | str) -> Strategy:
    """A strategy, from its name or as it is; "default" is one too."""
    return Default() if strategy == COMPARED[0] else as_strategy(strategy)


def _row(landscape: Landscape, strategy: Strategy, seeds: range, confidence: float) -> ComparisonRow:
    answers, leader_regrets, measurements, evaluations = [], [], [], []
    stops: Counter[Stopped] = Counter()
    for seed in seeds:
        loop = _loop(landscape, seed, None, confidence)
        answer, stopped = conduct(strategy, loop)
        if stopped == "interrupted":  # the run's answer is of no use, and the user wants no others
            raise KeyboardInterrupt
        answers.append(answer)
        leader_regrets.append(landscape.regret(answer if loop.leader is None else loop.leader))
        measurements.append(len(loop.observations))
        evaluations.append(sum(map(bool, loop.samples)))
        stops[stopped] += 1
    regrets = np.array([landscape.regret(answer) for answer in answers])
    return ComparisonRow(
        strategy.name,
        landscape.name,
        len(landscape.configurations),
        len(seeds),
        regret_mean=float(regrets.mean()),
        regret_median=float(np.median(regrets)),
        regret_95=float(np.quantile(regrets, 0.95)),
        leader_regret_mean=float(np.mean(leader_regrets)),
        within_1=float((regrets <= 0.01).mean()),
        within_2=float((regrets <= 0.02).mean()),
        measurements_median=float(np.median(measurements)),
        measurements_mean=float(np.mean(measurements)),
        evaluations_median=float(np.median(evaluations)),
        agreement=Counter(answers).most_common(1)[0][1] / len(seeds),
        false_winners=float(np.mean([answer != landscape.default for answer in answers])),
        finished=stops["decided"] / len(seeds),
        regrets=regrets.tolist(),
        measurements=measurements,
    )


def _loaded(landscape: Landscape | str) -> Landscape:
    return landscape if isinstance(landscape, Landscape) else Landscape.load(landscape)


def _loop(landscape: Landscape, seed: int, max_measurements: int | None, confidence: float) -> Loop:
    return Loop(
        landscape.candidates,
        LandscapeSource(landscape, seed),
        np.random.default_rng(seed),
        confidence=confidence,
        max_measurements=max_measurements,
    )
