"""The search: a target, a space and a strategy give a configuration."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transfuse.tune.function import Function
from transfuse.tune.loop import Progress
from transfuse.tune.result import TuningResult
from transfuse.tune.space import Configuration, Space
from transfuse.tune.targets import Target


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


def as_target(target: Any, space: Space | None, default: Configuration | None) -> tuple[Target, Space, Configuration]:
    """A target, its space and its default configuration, from what the caller said.

    Raises
    ------
    TypeError
        `target` is neither a target nor callable, or `space` is no space.
    """
    if not hasattr(target, "prepare"):
        if not callable(target):
            raise TypeError(f"target: expected a target or a callable, got {type(target).__name__}")
        target = Function(target)
    if space is None:
        space = target.space()
    if not isinstance(space, Space):
        raise TypeError(f"space: expected a Space, got {type(space).__name__}")
    return target, space, target.default_in(space) | dict(default or {})
