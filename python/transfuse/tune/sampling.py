"""Timing candidates, after their output has been checked."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from transfuse import _core
from transfuse.tune.constants import (
    ATTEMPTS,
    BLOCK_SECONDS,
    FLUSHED_CACHES,
    GROUP_SECONDS,
    MOST_CALLS,
    REFERENCE_BLOCKS,
    REFERENCE_SECONDS,
    SAME_SPEED,
    SHORT_CALL,
    UNKNOWN_CACHE,
)
from transfuse.tune.result import State
from transfuse.tune.space import Configuration
from transfuse.tune.targets import Target

Cache = Literal["warm", "cold"]
Clock = Callable[[], float]


class Source(Protocol):
    """Where the seconds of a candidate come from: a target, or a recorded landscape."""

    failures: dict[int, tuple[State, str]]

    @property
    def reference(self) -> float | None:
        """Seconds of the default, to which all times are relative; None before the first measurement."""
        ...

    def elapsed(self) -> float:
        """Seconds since the search began."""
        ...

    def times(self, indices: Sequence[int]) -> Iterable[float]:
        """Of a call of each of these candidates, one after another; NaN for one that is out, see `failures`."""
        ...


class DefaultFailed(RuntimeError):
    """The default configuration does not work, so there is nothing to compare with."""


class TargetSource:
    """Times a target, each candidate between two measurements of the default.

    A machine's speed drifts, by more than what distinguishes good candidates, but little within some milliseconds. So
    what is measured is a ratio to the default just before and just after, which the drift hardly touches, times one
    fixed `reference`. Candidates that are asked for together share the default's measurements between them.

    A measurement is a block of calls, of which the least time counts: as many as the default makes in BLOCK_SECONDS, so
    that the least is of equally many, but none after twice that time.

    Parameters
    ----------
    target : Target
    configurations : sequence of dict
    default : int
    cache : {"warm", "cold"}
        Whether short calls follow an untimed one, or a block is one call after the caches have been emptied.
    clock : callable
        Seconds.
    check : bool
        Compare each candidate's output with the default's before it is timed.

    Attributes
    ----------
    failures : dict
        By index, candidates that are out: the state and the reason.
    reference : float or None
        Seconds of a call of the default, found with the first measurement. A search that goes on keeps that of its
        beginning.
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
        self.reference: float | None = None
        self._target, self._configurations, self._default = target, configurations, default
        self._check, self._clock = check, clock
        self._cold = _caches() if cache == "cold" else None
        self._calls: dict[int, Callable[[], Any]] = {}
        self._seconds: dict[int, float] = {}
        self._expected: Any = None
        self._start = clock()

    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return float(self._clock() - self._start)

    def times(self, indices: Sequence[int]) -> Iterator[float]:
        """Of a call of each of these candidates at the speed of the reference; NaN for one that is out.

        Raises
        ------
        DefaultFailed
        """
        before: float | None = None
        for index in indices:
            seconds = math.nan
            if index not in self.failures:
                reference = self._require_default()
                try:
                    if index not in self._calls:
                        self._prepare(index)
                        before = None  # that has taken its time
                    before = before or self._measure_default()
                    own = self._block(index)
                except DefaultFailed:
                    raise
                except Exception as error:
                    if index == self._default:
                        raise self._default_failed(error) from error
                    self.failures[index] = ("wrong" if isinstance(error, WrongOutput) else "failed", _reason(error))
                    before = None
                else:
                    after = self._measure_default()
                    seconds, before = reference * own / _middle(before, after), after
            yield seconds

    def _require_default(self) -> float:
        """The reference; the default is prepared, and measured by itself, before the first measurement."""
        try:
            if self._default not in self._calls:
                self._prepare(self._default)
            if self.reference is None:
                blocks = [self._block(self._default)]
                start = self._clock()
                while len(blocks) < REFERENCE_BLOCKS and self._clock() - start + blocks[0] < REFERENCE_SECONDS:
                    blocks.append(self._block(self._default))
                self.reference = statistics.median(blocks)
        except Exception as error:
            raise self._default_failed(error) from error
        return self.reference

    def _measure_default(self) -> float:
        try:
            return self._block(self._default)
        except Exception as error:
            raise self._default_failed(error) from error

    def _default_failed(self, error: Exception) -> DefaultFailed:
        configuration = self._configurations[self._default]
        return DefaultFailed(f"the default configuration {configuration} of {self._target.name}: {_reason(error)}")

    def _prepare(self, index: int) -> None:
        """Call a candidate once, and compare its output."""
        call = self._target.prepare(self._configurations[index])
        seconds, output = self._once(call)
        if index == self._default:
            self._expected = _copy(output)
        elif self._check:
            wrong = self._target.difference(output, self._expected)
            if wrong is not None:
                raise WrongOutput(wrong)
        if seconds < SHORT_CALL or index == self._default:  # the first call has paid for what the others find ready
            seconds, _ = self._once(call)
        self._calls[index], self._seconds[index] = call, seconds

    def _once(self, call: Callable[[], Any]) -> tuple[float, Any]:
        start = self._clock()
        output = call()
        return self._clock() - start, output

    def _block(self, index: int) -> float:
        """Seconds of a call: the least of a block."""
        for _ in range(ATTEMPTS):
            seconds = self._least_of_calls(index)
            if math.isfinite(seconds) and seconds > 0:
                self._seconds[index] = seconds
                return seconds
        raise RuntimeError(f"the clock said {ATTEMPTS} times that a call takes no time, the last time {seconds} s")

    def _least_of_calls(self, index: int) -> float:
        call, known, clock = self._calls[index], self._seconds[index], self._clock
        if self._cold is not None:
            self._cold += 1
            return self._once(call)[0]
        if known < SHORT_CALL:
            call()
        calls = _how_many(known, GROUP_SECONDS)
        least, end = math.inf, clock() + 2 * BLOCK_SECONDS
        for _ in range(_how_many(max(self._seconds[self._default], GROUP_SECONDS), BLOCK_SECONDS)):
            start = clock()
            for _ in range(calls):
                call()
            stop = clock()
            least = min(least, (stop - start) / calls)
            if stop > end:
                break
        return float(least)


class WrongOutput(Exception):
    """A candidate computes something else than the default."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, WrongOutput) else f"{type(error).__name__}: {error}"


def _how_many(each: float, together: float) -> int:
    """Calls or groups of calls that take so many seconds, about; one if the clock makes no sense."""
    return round(min(MOST_CALLS, max(1.0, together / each))) if each > 0 else 1


def _middle(before: float, after: float) -> float:
    """The geometric mean of two measurements of the default; the lesser one if the other was disturbed."""
    least, most = sorted((before, after))
    return math.sqrt(least * most) if most <= SAME_SPEED * least else least


def _caches() -> NDArray[np.uint8]:
    """Memory that fills the caches when it is written."""
    size = max(*_core.cache_sizes().values(), 0) or UNKNOWN_CACHE
    return np.ones(FLUSHED_CACHES * size, np.uint8)


def _copy(output: Any) -> Any:
    """So that later calls, which may write into the same memory, do not change it."""
    if isinstance(output, tuple | list):
        return tuple(map(_copy, output))
    return None if output is None else np.array(output)
