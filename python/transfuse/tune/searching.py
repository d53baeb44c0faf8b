"""The search: a target, a space and a strategy give a configuration."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transfuse.tune.loop import Progress
from transfuse.tune.result import TuningResult
from transfuse.tune.space import Configuration, Space


def search(
    target: Any,
    space: Space | None = None,
    *,
    strategy: Any = "race",
    budget: float | None = None,
    max_measurements: int | None = None,
    seed: int | None = None,
    confidence: float = 0.95,
    cache: Literal["warm", "cold"] = "warm",
    default: Configuration | None = None,
    journal: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    check: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> TuningResult:
    """Find the configuration of a target that takes the least time."""
    raise NotImplementedError
