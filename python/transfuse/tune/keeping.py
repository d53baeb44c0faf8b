"""What searches found, kept as wisdom: later calls use it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transfuse.tune.result import TuningResult
from transfuse.tune.space import Configuration
from transfuse.tune.targets import Attention, MatmulT
from transfuse.tune.wisdom import Wisdom


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    target : MatmulT or Attention
    best, default : dict
        Configurations, for as many threads as the target's.
    seconds, default_seconds : float or None
        Of a call with each.
    decided : bool
        No: the default stays because nothing is known; what was found before is better.
    """

    target: MatmulT | Attention
    best: Configuration
    default: Configuration
    seconds: float | None = None
    default_seconds: float | None = None
    decided: bool = True


def found_by(target: MatmulT | Attention, result: TuningResult) -> Found:
    """What a search found that later calls can use.

    Raises
    ------
    ValueError
        Nothing, and why.
    """
    if not result.validated:
        raise ValueError("nothing was confirmed by fresh measurements")
    if result.best["threads"] != target.threads:
        number = result.best["threads"]
        raise ValueError(f"calls take {target.threads} threads unless they say num_threads={number}")
    return Found(target, result.best, result.default, result.best_seconds, result.default_seconds)


def keep(found: Iterable[Found], path: str | os.PathLike[str] | None = None) -> Path:
    """Add configurations to the user's wisdom, or to a file.

    An entry holds what differs from the default: nothing where the default is the best, which says that the entries of
    other shapes are not for this one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        Wisdom is switched off.
    """
    wisdom = Wisdom()
    for one in found:
        wisdom.record(
            one.target.operation,
            isa=one.target.isa,
            dtype=one.target.dtype,
            sizes=one.target.sizes,
            threads=one.target.threads,
            parameters={name: value for name, value in one.best.items() if value != one.default[name]},
            seconds=one.seconds,
            default_seconds=one.default_seconds,
            decided=one.decided,
        )
    return wisdom.save(path)
