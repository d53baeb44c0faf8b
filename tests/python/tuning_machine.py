"""A machine on which time passes only as a test says: nothing is slept, no clock is read."""

import numpy as np

from transfuse.tune import Landscape, Space


class Machine:
    """A callable to be tuned and the clock that it moves.

    `seconds(**configuration)` is what a call takes, but for `noise` (log-normal), outliers and drift.
    """

    def __init__(self, seconds, *, noise=0.02, outliers=0.02, drift=0.0, seed=0):
        self.now, self.calls = 0.0, 0
        self._seconds, self._noise, self._outliers, self._drift = seconds, noise, outliers, drift
        self._rng = np.random.default_rng(seed)

    def clock(self):
        return self.now

    def __call__(self, **configuration):
        self.calls += 1
        factor = np.exp(self._noise * self._rng.standard_normal() + self._drift * self.calls)
        if self._rng.random() < self._outliers:
            factor *= self._rng.uniform(1.5, 10)
        self.now += self._seconds(**configuration) * factor
        return 1.0


def landscape_of(medians, parameters=None, *, rounds=60, default=0, noise=0.02, outliers=0.02, drift=0.01, seed=0):
    """A landscape with known medians: skewed noise, slow outliers, and rounds that wander up and down."""
    rng = np.random.default_rng(seed)
    medians = np.asarray(medians, float)
    logs = np.log(medians) + noise * (rng.gamma(4, 0.5, (rounds, medians.size)) - 1.84)
    logs += drift * np.sin(np.arange(rounds) / 5)[:, None] + drift * rng.standard_normal((rounds, 1))
    logs += np.where(rng.random(logs.shape) < outliers, np.log(rng.uniform(1.5, 10, logs.shape)), 0)
    logs += np.log(medians) - np.median(logs, axis=0)  # exactly
    space = Space(parameters or {"candidate": range(medians.size)})
    return Landscape("made", {}, space.to_json(), space.configurations(), default, np.exp(logs))
