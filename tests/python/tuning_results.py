"""Results of searches, made by hand."""

import itertools
import math

from transfuse.bench.statistics import Estimate
from transfuse.tune import Candidate, ComparisonRow, Iteration, Observation, TuningResult

SPACE = {"block_q": [64, 128, 256], "block_kv": [64, 128, 256, 512], "threads": [1, 2]}


def result_of(**changes):
    """Two threads halve the time, every 64 keys in a block add 1 %, and 64 queries with 512 keys fail."""
    configurations = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
    default = {"block_q": 64, "block_kv": 256, "threads": 1}
    best = {"block_q": 64, "block_kv": 64, "threads": 2}
    fields = {
        "target": "attention 1×8×512×64, float32",
        "description": {"operation": "attention"},
        "space": SPACE,
        "strategy": "race",
        "seed": 3,
        "confidence": 0.95,
        "cache": "warm",
        "machine": {"cpus": 2},
        "best": best,
        "default": default,
        "leader": best,
        "speedup": Estimate(2.06, 2.0, 2.1),
        "probability": 0.999,
        "validated": True,
        "ties": [best, {"block_q": 64, "block_kv": 128, "threads": 2}],
        "evaluations": 22,
        "measurements": 93,
        "seconds": 0.5,
        "candidates": [candidate_of(configuration) for configuration in configurations],
        "history": history_of([24, 22, 20, 10, 6, 5], changes=2),
        "observations": [Observation(0, 0.002, 0, "search"), Observation(1, 0.001, 1, "validation")],
        "stopped": "decided",
    }
    return TuningResult(**(fields | changes))


def candidate_of(configuration):
    """Its time, or its failure."""
    if (configuration["block_q"], configuration["block_kv"]) == (64, 512):
        return Candidate(configuration, None, 0, 0.0, "failed", "MemoryError: too large")
    return Candidate(configuration, seconds_of(configuration), 5, 0.03, "measured")


def seconds_of(configuration):
    """Of a call."""
    base = 0.002 * configuration["block_q"] / 64 * (1 + configuration["block_kv"] / 6400)
    return base / configuration["threads"]


def history_of(measurements, *, changes):
    """Iterations with so many measurements each; the lead changes before one of them, the last one is a validation."""
    return [
        Iteration(
            number + 1,
            count,
            0 if number < changes else 1,
            math.nan if number == 0 else 0.002 - 0.0002 * number,
            count,
            0.1 * number,
            "validation" if number + 1 == len(measurements) else "search",
        )
        for number, count in enumerate(measurements)
    ]


def row_of(strategy, landscape, measurements, regrets, **changes):
    """A row of a comparison."""
    runs = len(regrets)
    fields = {
        "candidates": 32,
        "runs": runs,
        "regret_mean": sum(regrets) / runs,
        "regret_median": sorted(regrets)[runs // 2],
        "regret_95": max(regrets),
        "leader_regret_mean": sum(regrets) / runs,
        "within_1": sum(regret <= 0.01 for regret in regrets) / runs,
        "within_2": sum(regret <= 0.02 for regret in regrets) / runs,
        "measurements_median": sorted(measurements)[runs // 2],
        "measurements_mean": sum(measurements) / runs,
        "evaluations_median": 32.0,
        "agreement": 0.9,
        "false_winners": 0.25,
        "finished": 1.0,
        "regrets": regrets,
        "measurements": measurements,
    }
    return ComparisonRow(strategy=strategy, landscape=landscape, **(fields | changes))
