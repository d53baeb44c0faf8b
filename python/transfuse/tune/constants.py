"""The constants of tuning that are no options: of measuring, of the statistics, of what is done within a budget.

The options of the strategies are the fields of their classes. Values were chosen on made landscapes of 20 to 250
configurations, and checked on others of the same kind. That noise has heavy tails on both sides was learnt from the
recorded landscapes; TAIL, and the race's `rounds` and `mistake`, were chosen on recordings of another day than those of
the package, by which docs/tuning.md judges.
"""

BLOCK_SECONDS = 0.005
"""The default's calls are repeated until a block of them takes about so long: drift within so short a time is small."""
GROUP_SECONDS = 50e-6
"""Shorter calls are timed in groups that take about so long, a thousand times what reading the clock takes."""
MOST_CALLS = 10_000
"""In a group, at most: calls of 5 ns, or a clock that makes no sense."""
SHORT_CALL = 0.01
"""Seconds up to which a call needs an untimed one before it: another number of threads costs tens of microseconds."""
REFERENCE_BLOCKS, REFERENCE_SECONDS = 5, 0.1
"""The reference is the median of so many blocks of the default; of fewer, where they take longer than that."""
SAME_SPEED = 1.2
"""Two measurements of the default that differ by a larger factor are not averaged: one of them was disturbed.
Neighbours differ by 7 % (one standard deviation) where it is worst, and a disturbance by half of a call or more."""
FLUSHED_CACHES = 2
"""A cold measurement writes so many times the largest cache before: lines are not replaced in strict order."""
UNKNOWN_CACHE = 32 << 20
"""Bytes, where the sizes of the caches are not known."""
ATTEMPTS = 3
"""Measurements that may come out zero, negative or not finite, one after another."""

MEDIAN_ERROR = 1.2533
"""The standard error of a median over that of a mean, of normal samples: the square root of pi / 2."""
TAIL = 30.0
"""The tails of timings are heavy: the standard error of n samples counts as wider by TAIL / n² times itself, so that a
candidate that is not far slower leaves after some five samples at the earliest."""
LEADER_SAMPLES = 5
"""Nobody leaves, and no search ends, because of a leader with fewer: single measurements are wrong by any factor where
the default was disturbed before and after."""
PRIOR_SCALE, PRIOR_WEIGHT = 0.03, 4.0
"""The standard deviation of a measurement before any was repeated, and how many differences that counts as."""

MODEL_ROUNDS = 5
"""Of reweighting."""
MODEL_RIDGE = 0.1
"""Measurements of its mean that each value of a parameter starts with: a value that was never measured is average."""

RACE_TIGHTEST, PROOF_TIGHTEST = 8, 16
"""Samples at which the bounds of a race and of its proof are tightest: when close candidates leave, and proofs end."""

SEARCH_SHARE = 0.8
"""Of the time for a shape of ``tune all``; the rest is for measuring what was found once more."""
FEWEST_ROUNDS, MOST_ROUNDS = 10, 100
"""Of these last measurements."""
SMALL_SIZE = 16
"""Sizes below stay as they are where a configuration is tried on another shape of its bucket."""
PASSES = 3
"""A search needs time for so many measurements of each candidate on average: checking one costs as much as one."""
