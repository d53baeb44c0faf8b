"""The adaptive search of the reports: challengers that may be better than the current best are measured again."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transfuse.tune.constants import LEADER_SAMPLES
from transfuse.tune.loop import Loop, require_at_least
from transfuse.tune.table import Table


@dataclass(frozen=True)
class Adaptive:
    """Measure again who may be better than the current best, until nobody is plausible.

    Welch's test on so few samples needs help: medians of logarithms take the place of means, and the variance is pooled
    over all candidates, which gives it more degrees of freedom.

    Parameters
    ----------
    p_plausible : float
        A challenger whose probability of being better exceeds it is measured again.
    p_switch : float
        From this probability on it becomes the current best.
    extra_repeats_best : int
        Measurements of the current best beyond one in each iteration.
    scouts : int
        The fastest of the first iteration, measured twice at once to learn the noise.
    cap : int
        Iterations at most.
    """

    p_plausible: float = 0.05
    p_switch: float = 0.7
    extra_repeats_best: int = 2
    scouts: int = 8
    cap: int = 30
    name: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        require_at_least(self, p_plausible=0, p_switch=0, extra_repeats_best=0, scouts=1, cap=1)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        table = Table(len(loop))
        table.add(np.arange(len(loop)), loop.measure(range(len(loop))))
        best = table.fastest(1)[0]
        loop.report(best, loop.alive.size)
        asked = table.fastest(self.scouts)
        for _ in range(self.cap):
            table.add(asked, loop.measure(asked))
            for _ in range(self.extra_repeats_best):
                table.add([best], loop.measure([best]))
            if not table.counts[best]:  # it has failed
                best = table.fastest(1)[0]
            better = table.better_than(best)
            if better.max() > self.p_switch:
                best = int(better.argmax())
                better = table.better_than(best)
            plausible = np.flatnonzero(better > self.p_plausible).tolist()
            loop.report(best, 1 + len(plausible))
            if not plausible and table.counts[best] >= LEADER_SAMPLES:
                return best
            asked = [best, *plausible]
        loop.capped = True
        loop.ties = plausible
        return best
