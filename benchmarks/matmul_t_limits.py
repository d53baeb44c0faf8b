"""How close matmul_t comes to this machine's arithmetic limit, per tier, dtype and thread count; and what a call costs.

Each product is timed next to its limit, rounds of fused multiply-adds in registers. The rounds go over all lines of the
table again and again, so that a slow minute of the machine falls on all of them; medians are shown. Run it on an idle
machine.
"""

import argparse
import random
import statistics
import time
import timeit

import numpy as np
import rich.console
import rich.table

import transfuse
from transfuse import _core

ROUNDS = 15
SECONDS_PER_SAMPLE = 0.02


def seconds(function, calls):
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def calls_for(function):
    """How many calls fill a sample, after one call to warm up."""
    function()
    return max(1, round(SECONDS_PER_SAMPLE / seconds(function, 3)))


class Line:
    """A line of the table: samples of the product's GFLOP/s and of the limit's."""

    def __init__(self, isa, dtype, threads, size):
        self.key = (isa, dtype, threads, size)
        self.samples = []
        generator = np.random.default_rng(0)
        self._a, self._b = generator.standard_normal((2, size, size)).astype(dtype)
        self._out = np.empty((size, size), dtype)
        self._calls = calls_for(self._product)

    def _product(self):
        isa, _, threads, _ = self.key
        transfuse.matmul_t(self._a, self._b, out=self._out, num_threads=threads, config={"isa": isa})

    def sample(self):
        """Time the product, then the limit."""
        isa, dtype, threads, size = self.key
        product = 2e-9 * size**3 / seconds(self._product, self._calls)
        start = time.perf_counter()
        operations = _core.fma_probe(isa, dtype, threads, 200_000)
        self.samples.append((product, operations / (time.perf_counter() - start) / 1e9))


def call_nanoseconds(statement):
    """What a call on 4×4 arrays costs from Python, the loop around it excluded."""
    names = {"matmul_t": transfuse.matmul_t, "a": np.ones((4, 4), np.float32), "b": np.ones((4, 4), np.float32)}
    names["out"] = np.empty((4, 4), np.float32)
    calls = 20_000
    call, nothing = (timeit.Timer(code, globals=names) for code in (statement, "pass"))
    return 1e9 * statistics.median((call.timeit(calls) - nothing.timeit(calls)) / calls for _ in range(5 * ROUNDS))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()

    lines = [
        Line(isa, dtype, threads, size)
        for isa in transfuse.info()["isa"]["available"]
        for dtype in ("float32", "float64")
        for threads in arguments.threads
        for size in arguments.sizes
        if isa != "scalar" or size <= 512  # larger ones take minutes
    ]
    for _ in range(ROUNDS):
        for line in random.sample(lines, len(lines)):
            line.sample()

    table = rich.table.Table(title="matmul_t against the FMA peak")
    for column in ("tier", "dtype", "threads", "M = K = N", "GFLOP/s", "peak GFLOP/s", "share"):
        table.add_column(column, justify="left" if column in ("tier", "dtype") else "right")
    for line in lines:
        isa, dtype, threads, size = line.key
        product, limit = (statistics.median(column) for column in zip(*line.samples, strict=True))
        share = statistics.median(product / limit for product, limit in line.samples)
        table.add_row(isa, dtype, str(threads), f"{size}³", f"{product:.1f}", f"{limit:.1f}", f"{share:.0%}")
    console = rich.console.Console()
    console.print(table)
    console.print(f"call on 4×4, result allocated: {call_nanoseconds('matmul_t(a, b)'):.0f} ns")
    console.print(f"call on 4×4, out given:        {call_nanoseconds('matmul_t(a, b, out=out)'):.0f} ns")


if __name__ == "__main__":
    main()
