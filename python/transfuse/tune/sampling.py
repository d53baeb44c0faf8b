"""Timing candidates, after their output has been checked."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from transfuse import _core
from transfuse.tune.result import State
from transfuse.tune.space import Configuration
from transfuse.tune.targets import Target

Cache = Literal["warm", "cold"]
Clock = Callable[[], float]

SAMPLE_SECONDS = 0.002
"""Calls are repeated until a measurement takes about so long."""
MOST_CALLS = 10_000
LONG_CALL = 0.25
"""Seconds from which on a call needs no untimed one before it."""
FLUSHED_CACHES = 2
"""A cold measurement writes so many times the largest cache before."""
UNKNOWN_CACHE = 32 << 20
ATTEMPTS = 3
"""Measurements that may come out zero, negative or not finite, one after another."""


class Source(Protocol):
    """Where the seconds of a candidate come from: a target, or a recorded landscape."""

    failures: dict[int, tuple[State, str]]

    def elapsed(self) -> float:
        """Seconds since the search began."""
        ...

    def times(self, indices: Sequence[int]) -> Iterable[float]:
        """Of a call of each of these candidates, one after another; NaN for one that is out, see `failures`."""
        ...


class DefaultFailed(RuntimeError):
    """The default configuration does not work, so there is nothing to compare with."""


class TargetSource:
    """Times a target.

    Parameters
    ----------
    target : Target
    configurations : sequence of dict
    default : int
    cache : {"warm", "cold"}
        Whether an untimed call comes before each measurement, or the caches are emptied before each call.
    clock : callable
        Seconds.
    check : bool
        Compare each candidate's output with the default's before it is timed.

    Attributes
    ----------
    failures : dict
        By index, candidates that are out: the state and the reason.
    """

    def __init__(
        self,
        target: Target,
        configurations: Sequence[Configuration],
        default: int,
        *,
        cache: Cache,
        clock: Clock,
        check: bool = True,
    ) -> None:
        if cache not in ("warm", "cold"):
            raise ValueError(f"cache: expected 'warm' or 'cold', got {cache!r}")
        self.failures: dict[int, tuple[State, str]] = {}
        self._target, self._configurations, self._default = target, configurations, default
        self._check, self._clock = check, clock
        self._cold = _caches() if cache == "cold" else None
        self._prepared: dict[int, tuple[Callable[[], Any], int, bool]] = {}
        self._expected: Any = None
        self._start = clock()

    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return float(self._clock() - self._start)

    def times(self, indices: Sequence[int]) -> Iterator[float]:
        """Of a call of each of these candidates; NaN for one that is out.

        Raises
        ------
        DefaultFailed
        """
        for index in indices:
            yield math.nan if index in self.failures else self._time(index)

    def _time(self, index: int) -> float:
        try:
            for needed in (self._default, index):
                if needed not in self._prepared:
                    self._prepared[needed] = self._prepare(needed)
            return self._valid_sample(*self._prepared[index])
        except Exception as error:
            if self._default in (index, needed):
                configuration = self._configurations[self._default]
                text = f"the default configuration {configuration} of {self._target.name}: {_reason(error)}"
                raise DefaultFailed(text) from error
            self.failures[index] = ("wrong" if isinstance(error, WrongOutput) else "failed", _reason(error))
            return math.nan

    def _valid_sample(self, call: Callable[[], Any], calls: int, warm: bool) -> float:
        for _ in range(ATTEMPTS):
            seconds = self._sample(call, calls, warm)
            if math.isfinite(seconds) and seconds > 0:
                return seconds
        raise RuntimeError(f"the clock said {ATTEMPTS} times that a call takes no time, the last time {seconds} s")

    def _prepare(self, index: int) -> tuple[Callable[[], Any], int, bool]:
        """Call a candidate once, compare its output, and see how a measurement is to be made: (call, calls, warm)."""
        call = self._target.prepare(self._configurations[index])
        seconds, output = self._once(call)
        if index == self._default:
            self._expected = _copy(output)
        elif self._check:
            wrong = self._target.difference(output, self._expected)
            if wrong is not None:
                raise WrongOutput(wrong)
        if self._cold is not None:
            return call, 1, False
        warm = seconds < LONG_CALL
        if warm:  # the first call has paid for what the others find ready
            seconds, _ = self._once(call)
        return call, round(min(MOST_CALLS, max(1.0, SAMPLE_SECONDS / seconds))) if seconds > 0 else 1, warm

    def _once(self, call: Callable[[], Any]) -> tuple[float, Any]:
        start = self._clock()
        output = call()
        return self._clock() - start, output

    def _sample(self, call: Callable[[], Any], calls: int, warm: bool) -> float:
        if self._cold is not None:
            self._cold += 1
        elif warm:
            call()
        start = self._clock()
        for _ in range(calls):
            call()
        return float(self._clock() - start) / calls


class WrongOutput(Exception):
    """A candidate computes something else than the default."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, WrongOutput) else f"{type(error).__name__}: {error}"


def _caches() -> NDArray[np.uint8]:
    """Memory that fills the caches when it is written."""
    size = max(*_core.cache_sizes().values(), 0) or UNKNOWN_CACHE
    return np.ones(FLUSHED_CACHES * size, np.uint8)


def _copy(output: Any) -> Any:
    """So that later calls, which may write into the same memory, do not change it."""
    if isinstance(output, tuple | list):
        return tuple(map(_copy, output))
    return None if output is None else np.array(output)
