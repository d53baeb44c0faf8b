"""The race: our own strategy."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfuse.tune import statistics
from transfuse.tune.genetic import hypercube
from transfuse.tune.loop import BudgetSpent, Loop
from transfuse.tune.screening import effects, predict
from transfuse.tune.table import Table

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Race:
    """Screen, race, and prove on fresh samples.

    Screening measures the default and candidates in which all values are equally frequent, once each; a model of the
    times says which of the others may be fast, and those are measured too, the most promising first. Then come rounds:
    all survivors once, in random order. A candidate leaves when it cannot be better than the leader by `tie`, or than
    the default by `minimum_effect`; its bound holds at all rounds at once
    (:func:`~transfuse.tune.statistics.normal_mixture`), so one may look after each. Survivors at the end are ties.
    Last, the leader and the default are measured alternately, and the leader wins only if these fresh samples prove it.

    The variance is pooled over all candidates: so a candidate that is far slower leaves after a single sample.

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
    rounds : int
        At most.
    least, pairs : int
        Pairs of fresh samples at least and at most.
    reserve : float
        The share of the budget for fresh samples.
    """

    tie: float = 0.01
    minimum_effect: float = 0.02
    batch: float = 1.5
    far: float = 3.0
    scouts: int = 8
    rounds: int = 60
    pairs: int = 40
    least: int = 3
    reserve: float = 0.2
    name: ClassVar[str] = "race"

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
            done, means = np.flatnonzero(table.counts), table.means()
            predictions, scale = predict(places, done, means[done])
            plausible = predictions - self.far * scale < means.min()
            new = plausible & (table.tries == 0)
            loop.report(int(means.argmin()), done.size + int(new.sum()))
            left = np.flatnonzero(new)
            asked = left[np.argsort(predictions[left], kind="stable")][:size]
            if asked.size:  # two that are known, so that rounds can be compared
                asked = np.union1d(asked, [loop.default, *table.fastest(1)])
        outliers = plausible & (table.counts == 1) & (means - predictions > self.far * scale)
        return np.flatnonzero(table.counts), np.flatnonzero(outliers)

    def _race(self, loop: Loop, table: Table, alive: Indices, again: Indices) -> None:
        """Rounds among those who can still win, until one is left; several at the end are ties."""
        scouts = np.array(table.fastest(self.scouts))
        asked = np.union1d(scouts, again) if again.size else self._survivors(loop, table, scouts)
        for _ in range(self.rounds):
            table.add(asked, loop.measure(asked))
            alive = asked = self._survivors(loop, table, alive)
            challengers = np.setdiff1d(alive, [loop.default])
            best = table.fastest(1, challengers)[0] if challengers.size else loop.default
            loop.report(best, alive.size)
            if challengers.size < 2:
                break
        loop.ties = [int(index) for index in alive if index != loop.best]

    def _survivors(self, loop: Loop, table: Table, alive: Indices) -> Indices:
        """Those who may be better than the leader by `tie`, and by `minimum_effect` than the default if it is left."""
        default = loop.default
        alive = alive[table.counts[alive] > 0] if table.counts[alive].any() else np.array([default])
        best = table.fastest(1, alive)[0]
        ahead = self._bound(loop, table, alive, best) > math.log1p(self.tie)
        ahead |= alive == best
        if default in alive[ahead]:
            gains = self._bound(loop, table, alive, default) > math.log1p(self.minimum_effect)
            ahead &= gains | (alive == default)
        return alive[ahead]

    def _bound(self, loop: Loop, table: Table, alive: Indices, other: int) -> NDArray[np.float64]:
        """How much better than another each may be at most."""
        counts, means = 2 / (1 / table.counts[alive] + 1 / table.counts[other]), table.means()
        width = self._quantile(loop, counts, 8) * table.scale() * np.sqrt(2 / counts)
        return np.asarray(means[other] - means[alive] + width, float)

    def _quantile(self, loop: Loop, counts: ArrayLike, best_at: float) -> NDArray[np.float64]:
        """Standard deviations that are not exceeded on one side, at the search's confidence."""
        return statistics.normal_mixture(counts, 2 * (1 - loop.confidence), best_at=best_at)

    def _prove(self, loop: Loop, leader: int, scale: float) -> bool:
        """Whether fresh samples show that the leader gains enough."""
        loop.phase = "validation"
        gains: list[float] = []
        need = math.log1p(self.minimum_effect)
        while len(gains) < self.pairs:
            try:
                default, best = loop.measure([loop.default, leader])
            except BudgetSpent:
                loop.best = loop.default
                raise
            if not math.isfinite(best):  # the leader has failed
                return False
            gains.append(default - best)
            gain = statistics.clipped_mean(gains, math.sqrt(2) * scale)
            width = float(self._quantile(loop, len(gains), 5)) * scale * math.sqrt(2 / len(gains))
            loop.report(leader, 2)
            proven = gain - width > need
            loop.validated = len(gains) >= self.least and (proven or gain + width < need)
            if loop.validated:
                return proven
        return False
