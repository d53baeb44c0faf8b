"""Tuning: the configuration that takes the least time, found in few measurements, and kept.

>>> from transfuse import tune
>>> result = tune.search(tune.MatmulT(512, 512, 512), budget=10.0)  # doctest: +SKIP
>>> result.best, result.speedup  # doctest: +SKIP
"""

from transfuse.tune.adaptive import Adaptive
from transfuse.tune.comparison import ComparisonRow, compare, replay
from transfuse.tune.function import Function
from transfuse.tune.genetic import Genetic
from transfuse.tune.landscape import Landscape, landscapes
from transfuse.tune.loop import Loop, Progress, Strategy
from transfuse.tune.race import Race
from transfuse.tune.recording import record, record_all
from transfuse.tune.result import Candidate, Iteration, Observation, TuningResult
from transfuse.tune.sampling import DefaultFailed
from transfuse.tune.searching import STRATEGIES, search
from transfuse.tune.simple import Exhaustive, Grid, Halving, Random
from transfuse.tune.space import Space
from transfuse.tune.targets import Attention, MatmulT
from transfuse.tune.wisdom import Wisdom

__all__ = [
    "STRATEGIES",
    "Adaptive",
    "Attention",
    "Candidate",
    "ComparisonRow",
    "DefaultFailed",
    "Exhaustive",
    "Function",
    "Genetic",
    "Grid",
    "Halving",
    "Iteration",
    "Landscape",
    "Loop",
    "MatmulT",
    "Observation",
    "Progress",
    "Race",
    "Random",
    "Space",
    "Strategy",
    "TuningResult",
    "Wisdom",
    "compare",
    "landscapes",
    "record",
    "record_all",
    "replay",
    "search",
]
