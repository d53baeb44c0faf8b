"""Recording landscapes, and the set that comes with the package."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transfuse.tune.landscape import Landscape
from transfuse.tune.space import Space


def record(
    target: Any,
    space: Space | None = None,
    *,
    rounds: int = 100,
    name: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Landscape:
    """Measure every configuration of a space, in rounds of random order."""
    raise NotImplementedError


def record_all(
    directory: str | Path | None = None,
    rounds: int = 100,
    names: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Record the standard landscapes, one file each."""
    raise NotImplementedError
