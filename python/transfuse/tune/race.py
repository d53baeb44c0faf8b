"""The race: our own strategy."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from transfuse.tune import statistics
from transfuse.tune.constants import LEADER_SAMPLES, PROOF_TIGHTEST, RACE_TIGHTEST
from transfuse.tune.genetic import hypercube
from transfuse.tune.loop import BudgetSpent, Loop, require_at_least
from transfuse.tune.screening import effects, predict
from transfuse.tune.table import Table, median_errors

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Race:
    """Screen, race, and prove on fresh samples.

    Screening measures the default and candidates in which all values are equally frequent, once each; a model of the
    times says which of the others may be fast, and those are measured too, the most promising first. Then come rounds:
    all survivors once, in random order. A candidate leaves when it cannot be better than the leader by `tie`, or than
    the default by `minimum_effect`; its bound holds at all rounds at once
    (:func:`~transfuse.tune.statistics.normal_mixture`), so one may look after each. Survivors at the end are ties.
    Last, the leader is measured anew, and wins only if these fresh samples prove a gain of `minimum_effect`, or if a
    sign test of them proves a gain and most of them show `minimum_effect` or more. A default that leads needs no proof.

    All measurements are relative to the default, so its own time is known and need not be measured again. The variance
    is pooled over all candidates.

    Parameters
    ----------
    tie : float
        A difference of times that does not matter.
    minimum_effect : float
        What a winner must gain over the default.
    batch : float
        Candidates that are screened at a time, in numbers of the model.
    far : float
        Standard deviations of the model's error by which a candidate that is not measured is predicted to be slower.
    scouts : int
        The fastest of the screening, measured first to learn the noise.
    mistake : float
        The probability that a bound by which a candidate leaves is exceeded at any time.
    rounds : int
        At most.
    proofs : int
        Fresh samples at most.
    reserve : float
        The share of the budget for fresh samples.
    """

    tie: float = 0.01
    minimum_effect: float = 0.02
    batch: float = 1.5
    far: float = 3.5
    scouts: int = 8
    mistake: float = 0.05
    rounds: int = 120
    proofs: int = 150
    reserve: float = 0.2
    name: ClassVar[str] = "race"

    def __post_init__(self) -> None:
        require_at_least(self, tie=0, minimum_effect=0, batch=0, far=0, scouts=1, mistake=1e-12, rounds=1, proofs=1)
        require_at_least(self, reserve=0)
        if not (self.mistake < 0.5 and self.reserve < 1):
            raise ValueError(f"mistake, reserve: expected less than 0.5 and 1, got {self.mistake} and {self.reserve}")

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        table, in_time = Table(len(loop)), True
        loop.reserve = self.reserve
        try:
            self._race(loop, table, *self._screen(loop, table))
        except BudgetSpent:
            in_time = False
        loop.reserve, loop.leader = 0.0, loop.best
        if loop.leader == loop.default:
            loop.validated = in_time
        elif not self._prove(loop, loop.leader, table.scale()):
            loop.best = loop.default
        if not in_time:
            raise BudgetSpent
        loop.capped = not loop.validated
        return loop.best

    def _screen(self, loop: Loop, table: Table) -> tuple[Indices, Indices]:
        """Measure every candidate that may be fast once: these, and those of them that the model takes for outliers."""
        places = loop.candidates.places
        size = math.ceil(self.batch * effects(places))
        asked = np.arange(len(loop))
        if size < len(loop):
            asked = np.array(hypercube(places, loop.default, size, loop.rng))
        while len(asked):
            table.add(asked, loop.measure(asked))
            done, medians = np.flatnonzero(table.counts), table.medians()
            predictions, scale = predict(places, done, medians[done])
            plausible = predictions - self.far * scale < medians.min()
            new = plausible & (table.tries == 0)
            loop.report(int(medians.argmin()), done.size + int(new.sum()))
            left = np.flatnonzero(new)
            asked = left[np.argsort(predictions[left], kind="stable")][:size]
        outliers = plausible & (table.counts == 1) & (medians - predictions > self.far * scale)
        return np.flatnonzero(table.counts), np.flatnonzero(outliers)

    def _race(self, loop: Loop, table: Table, alive: Indices, again: Indices) -> None:
        """Rounds among those who can still win, until one is left; several at the end are ties."""
        alive = alive[alive != loop.default]
        scouts = np.array(table.fastest(self.scouts, alive))
        asked = np.union1d(scouts, again).astype(np.intp)
        for _ in range(self.rounds):
            if asked.size:
                table.add(asked, loop.measure(asked))
            alive = asked = self._survivors(loop, table, alive)
            loop.report(table.fastest(1, alive)[0] if alive.size else loop.default, alive.size)
            loop.ties = [int(index) for index in alive if index != loop.best]
            if alive.size < 2:
                break

    def _survivors(self, loop: Loop, table: Table, alive: Indices) -> Indices:
        """Those who may be better than the leader by `tie`, and than the default by `minimum_effect`."""
        while (leaders := table.fastest(1, alive)) and table.counts[leaders[0]] < LEADER_SAMPLES:
            table.add(leaders, loop.measure(leaders))
        alive = alive[table.counts[alive] > 0]
        if not alive.size:
            return alive
        medians, errors, counts = table.medians()[alive], table.errors()[alive], table.counts[alive]
        best = medians.argmin()
        both = 2 / (1 / counts + 1 / counts[best])
        width = self._bound(both) * np.hypot(errors, errors[best])
        ahead = medians[best] - medians + width > math.log1p(self.tie)
        ahead[best] = True
        width = self._bound(counts) * errors
        return np.asarray(alive[ahead & (_default(loop) - medians + width > math.log1p(self.minimum_effect))])

    def _bound(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Standard errors that a median of so many samples is not off by, on one side."""
        return statistics.normal_mixture(counts, 2 * self.mistake, best_at=RACE_TIGHTEST)

    def _prove(self, loop: Loop, leader: int, scale: float) -> bool:
        """Whether fresh samples show that the leader gains something, and more than half of them enough.

        A gain that is large against the noise of the whole search shows in few samples, by the bounds of the race. A
        smaller one needs a sign test: it assumes no more of the noise, whose tails are heavy on both sides, than that a
        candidate that gains nothing looks slower at least as often as faster. A sign has a standard deviation of 1/2
        at most, so the bound holds for any number of samples. Each of the two may err half as often as the confidence
        allows.
        """
        loop.phase = "validation"
        gains: list[float] = []
        need = math.log1p(self.minimum_effect)
        while len(gains) < self.proofs:
            try:
                (best,) = loop.measure([leader])
            except BudgetSpent:
                loop.best = loop.default
                raise
            if not math.isfinite(best):  # the leader has failed
                return False
            gains.append(_default(loop) - float(best))
            faster, enough = (sum(gain > least for gain in gains) - len(gains) / 2 for least in (0.0, need))
            bound = statistics.normal_mixture(len(gains), 1 - loop.confidence, best_at=PROOF_TIGHTEST)
            margin = float(bound) * math.sqrt(len(gains)) / 2
            loop.report(leader, 2)
            large = np.median(gains) - bound * median_errors(scale, len(gains)) > need
            proven = bool(large) or (faster > margin and enough > 0)
            loop.validated = proven or -enough > margin
            if loop.validated:
                return proven
        return False


def _default(loop: Loop) -> float:
    """The logarithm of the default's time, to which all measurements are relative."""
    return math.log(loop.source.reference or math.nan)
