"""What the machine can do at most, measured in the same rounds as the products."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from transfuse import _core

PROBE_SECONDS = 0.002
LEAST_FOOTPRINT = 4096
"""Bytes below which a bandwidth says nothing."""


@dataclass(frozen=True)
class Limit:
    """The limits at one moment.

    Attributes
    ----------
    region_seconds : float
        What an empty parallel region takes right after another one: more than 20 µs means that a foreign job is on one
        of the cores. Says nothing for one thread, which has no region.
    flops_per_second : float
        The FMA peak of the current tier in the dtype.
    bytes_per_second : float
        Bandwidth at the given footprint: as many bytes read and written as the operation must, in memory allocated like
        its arrays, with whichever stores (through or past the caches) are faster. 0 for less than 4 KiB.
    scores_per_second : float
        Of the softmax of attention, over rows of scores in L1. 0 where nobody asked for it.
    """

    region_seconds: float
    flops_per_second: float
    bytes_per_second: float
    scores_per_second: float


class Limits:
    """Measures the limits for a number of threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._read = self._write = np.empty(0, np.uint8)
        self._passes = 1
        self._rounds: dict[Callable[..., int], int] = {_core.fma_probe: 1000, _core.softmax_probe: 100}

    def measure(self, dtype: str, read: int, write: int, *, softmax: bool = False) -> Limit:
        """Measure for `dtype` and for as many bytes read and written; the softmax too if it is asked for."""
        region = sorted(_core.region_probe(self._threads) for _ in range(3))[1]
        scores = self._rate(_core.softmax_probe, dtype) if softmax else 0.0
        return Limit(region, self._rate(_core.fma_probe, dtype), self._bandwidth(read, write), scores)

    def _rate(self, probe: Callable[..., int], dtype: str) -> float:
        """What a probe of arithmetic does per second, on all threads together."""
        isa = _core.current_isa()
        probe(isa, dtype, self._threads, 100)
        while True:
            start = time.perf_counter()
            done = probe(isa, dtype, self._threads, self._rounds[probe])
            seconds = time.perf_counter() - start
            if seconds >= PROBE_SECONDS / 2:
                return done / seconds
            self._rounds[probe] *= 2

    def _bandwidth(self, read: int, write: int) -> float:
        if read + write < LEAST_FOOTPRINT:
            return 0.0
        if (self._read.size, self._write.size) != (read, write):
            self._read, self._write = np.ones(read, np.uint8), np.ones(write, np.uint8)
            self._passes = 1
        return max(self._move(stream) for stream in (False, True)) * (read + write)

    def _move(self, stream: bool) -> float:
        """Passes per second over the memory."""
        isa = _core.available_isas()[-1]
        _core.memory_probe(isa, self._read, self._write, self._threads, 1, stream)
        while True:
            start = time.perf_counter()
            _core.memory_probe(isa, self._read, self._write, self._threads, self._passes, stream)
            seconds = time.perf_counter() - start
            if seconds >= PROBE_SECONDS / 2:
                return self._passes / seconds
            self._passes *= 2
