"""The measuring loop that all strategies share."""

import math
from dataclasses import dataclass

from transfuse.tune.result import Phase
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
