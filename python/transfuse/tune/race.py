"""The race: our own strategy."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transfuse.tune import statistics
from transfuse.tune.adaptive import Table
from transfuse.tune.loop import Loop


@dataclass(frozen=True)
class Race:
    tie: float = 0.01
    minimum_effect: float = 0.02
    scouts: int = 8
    cap: int = 40
    z: float = 2.5
    union: bool = False
    pairs: int = 20
    name: ClassVar[str] = "race"

    def run(self, loop: Loop) -> int:
        leader = self._search(loop)
        loop.leader = leader
        if leader == loop.default:
            loop.validated = True
            return leader
        return leader if self._validate(loop, leader) else loop.default

    def _search(self, loop: Loop) -> int:
        table = Table(len(loop))
        asked = np.arange(len(loop))
        table.add(asked, loop.measure(asked))
        alive = np.array(table.fastest(len(loop)))
        asked = alive[: self.scouts]
        for _ in range(self.cap):
            table.add(asked, loop.measure(asked))
            means, scale = table.means(), table.scale()
            best = int(means.argmin())
            counts = table.counts[alive]
            error = scale * np.sqrt(1 / counts + 1 / table.counts[best])
            z = self.z if not self.union else statistics.normal_mixture(counts, 0.05 / len(alive), best_at=4)
            stays = means[alive] - means[best] + self.tie < z * error
            stays |= alive == best
            alive = alive[stays]
            loop.report(best, len(alive))
            if len(alive) == 1:
                return best
            asked = alive
        loop.capped = True
        return best

    def _validate(self, loop: Loop, leader: int) -> bool:
        pairs = []
        loop.phase = "validation"
        for n in range(self.pairs):
            d, w = loop.measure([loop.default, leader])
            pairs.append(d - w)
            if n >= 3:
                m, se = np.mean(pairs), np.std(pairs, ddof=1) / np.sqrt(n + 1)
                if m - 2.5 * se > 0.02:
                    return True
                if m + 2.5 * se < 0.02:
                    return False
        return m - 1.7 * se > 0.02
