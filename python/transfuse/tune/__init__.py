"""Tuning: the configuration that takes the least time, found in few measurements.

>>> from transfuse import tune
>>> result = tune.search(tune.MatmulT(512, 512, 512), budget=10.0)  # doctest: +SKIP
>>> result.best, result.speedup  # doctest: +SKIP
"""

from transfuse.tune.comparison import ComparisonRow, compare, replay
from transfuse.tune.landscape import Landscape, landscapes
from transfuse.tune.loop import Progress
from transfuse.tune.recording import record, record_all
from transfuse.tune.result import Candidate, Iteration, Observation, TuningResult
from transfuse.tune.searching import search
from transfuse.tune.space import Space

__all__ = [
    "Candidate",
    "ComparisonRow",
    "Iteration",
    "Landscape",
    "Observation",
    "Progress",
    "Space",
    "TuningResult",
    "compare",
    "landscapes",
    "record",
    "record_all",
    "replay",
    "search",
]
