"""How close matmul_t comes to this machine's arithmetic limit, per tier, dtype and thread count; and what a call costs.

Each line's limit is measured next to it: rounds of fused multiply-adds in registers and rounds of the product
alternate, and the medians are compared. Run it on an idle machine.
"""

import argparse
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


def measure(size, dtype, isa, threads):
    """The product's GFLOP/s and the limit's, as medians over alternating rounds."""
    generator = np.random.default_rng(0)
    a = generator.standard_normal((size, size)).astype(dtype)
    b = generator.standard_normal((size, size)).astype(dtype)
    out = np.empty((size, size), dtype)
    config = {"isa": isa}

    def product():
        transfuse.matmul_t(a, b, out=out, num_threads=threads, config=config)

    def limit():
        start = time.perf_counter()
        operations = _core.fma_probe(isa, dtype, threads, 500_000)
        return operations / (time.perf_counter() - start) / 1e9

    calls = calls_for(product)
    pairs = [(2e-9 * size**3 / seconds(product, calls), limit()) for _ in range(ROUNDS)]
    return (statistics.median(column) for column in zip(*pairs, strict=True))


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

    table = rich.table.Table(title="matmul_t against the FMA peak")
    for column in ("tier", "dtype", "threads", "M = K = N", "GFLOP/s", "peak GFLOP/s", "share"):
        table.add_column(column, justify="left" if column in ("tier", "dtype") else "right")
    for isa in transfuse.info()["isa"]["available"]:
        for dtype in ("float32", "float64"):
            for threads in arguments.threads:
                for size in arguments.sizes:
                    if isa == "scalar" and size > 512:
                        continue  # minutes
                    product, limit = measure(size, dtype, isa, threads)
                    share = f"{product / limit:.0%}"
                    table.add_row(isa, dtype, str(threads), f"{size}³", f"{product:.1f}", f"{limit:.1f}", share)
    console = rich.console.Console()
    console.print(table)
    console.print(f"call on 4×4, result allocated: {call_nanoseconds('matmul_t(a, b)'):.0f} ns")
    console.print(f"call on 4×4, out given:        {call_nanoseconds('matmul_t(a, b, out=out)'):.0f} ns")


if __name__ == "__main__":
    main()
