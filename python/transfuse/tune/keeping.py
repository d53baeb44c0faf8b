"""What searches found, kept as wisdom: later calls use it."""

from collections.abc import Iterable
from pathlib import Path

from transfuse.tune.result import TuningResult
from transfuse.tune.space import Configuration
from transfuse.tune.targets import Attention, MatmulT
from transfuse.tune.wisdom import Wisdom

Found = tuple[MatmulT | Attention, Configuration, float, float]
"""A target, its configuration, and the seconds of a call with it and with the default."""


def keep(found: Iterable[Found]) -> Path:
    """Add configurations to the user's wisdom.

    The number of threads is no part of what a call looks up: a configuration holds for calls on as many threads as it
    was measured with.

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
    for target, configuration, seconds, default_seconds in found:
        parameters = dict(configuration)
        wisdom.record(
            target.operation,
            isa=target.isa,
            dtype=target.dtype,
            sizes=target.sizes,
            threads=parameters.pop("threads"),
            parameters=parameters,
            seconds=seconds,
            default_seconds=default_seconds,
        )
    path: Path = wisdom.save()
    return path


def found_by(target: MatmulT | Attention, result: TuningResult) -> Found:
    """What a search found for a target."""
    return target, result.best, result.best_seconds, result.default_seconds
