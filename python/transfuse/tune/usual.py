"""Tuning of the usual shapes: those of the benchmark's suites."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import transfuse
from transfuse import bench
from transfuse.bench.matmul_t import MatmulT as MatmulTCase
from transfuse.bench.statistics import Estimate, ratio_interval
from transfuse.tune.candidates import choose
from transfuse.tune.constants import (
    BLOCK_SECONDS,
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    PASSES,
    SEARCH_SHARE,
    SHORT_CALL,
    SMALL_SIZE,
)
from transfuse.tune.keeping import Found
from transfuse.tune.loop import Progress
from transfuse.tune.recording import record
from transfuse.tune.result import TuningResult
from transfuse.tune.sampling import Clock
from transfuse.tune.searching import as_target, search
from transfuse.tune.space import Configuration, Space
from transfuse.tune.targets import Attention, MatmulT

Verdict = Literal["faster", "here only", "default stays", "undecided", "no choice", "no time"]

EVEN = Estimate(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Outcome:
    """What tuning has done to a shape.

    Attributes
    ----------
    target : MatmulT or Attention
    result : TuningResult or None
        Of the search; None if there was nothing to choose.
    best, default : dict
        Configurations. The best is the default unless fresh samples show that another is faster.
    before, after : float
        Seconds of a call; NaN if they were not measured.
    ratio : Estimate
        The former over the latter, of fresh samples, with its 95 % interval.
    verdict : {"faster", "here only", "default stays", "undecided", "no choice", "no time"}
        The default stays where the search proved that nothing is faster by enough. "here only": something is, but it
        is slower for another shape that would use it, so the default stays too.
    """

    target: MatmulT | Attention
    result: TuningResult | None
    best: Configuration
    default: Configuration
    before: float
    after: float
    ratio: Estimate
    verdict: Verdict

    def found(self) -> Found | None:
        """What later calls can use; None if every configuration of this shape is the same.

        That the default stays is kept whatever the reason, so that no call uses what was found for other shapes only.
        """
        if self.verdict == "no choice":
            return None
        after, before = (None if math.isnan(one) else one for one in (self.after, self.before))
        decided = self.verdict in ("faster", "here only", "default stays")
        return Found(self.target, self.best, self.default, after, before, decided)


def target_of(operation: str, shape: str, *, dtype: str = "float32", threads: int | None = None) -> MatmulT | Attention:
    """The target of a shape, in the words of the benchmark: ``target_of("attention", "1x12x512x64:causal")``.

    Raises
    ------
    ValueError
    """
    try:
        (case,) = bench.cases_of(operation, sizes=[shape])
    except ValueError as error:
        raise ValueError(str(error).replace("sizes:", "shape:", 1)) from None
    return _target(case, dtype, threads)


def _target(case: Any, dtype: str, threads: int | None) -> MatmulT | Attention:
    if isinstance(case, MatmulTCase):
        return MatmulT(case.m, case.k, case.n, batch=case.batch, dtype=dtype, threads=threads)
    if case.option not in ("", "causal"):
        raise ValueError(f"shape: expected no option but :causal, got :{case.option}")
    sizes = (case.batch, case.heads, case.queries, case.depth)
    causal = case.option == "causal"
    return Attention(*sizes, keys=case.keys, kv_heads=case.kv_heads, causal=causal, dtype=dtype, threads=threads)


def usual_targets(
    operations: Sequence[str] = ("matmul-t", "attention"),
    *,
    suite: str = "default",
    dtype: str = "float32",
    threads: int | None = None,
) -> list[MatmulT | Attention]:
    """The plain cases of the benchmark's suites, those with the least arithmetic first.

    Raises
    ------
    ValueError
    """
    cases = [case for operation in operations for case in bench.cases_of(operation, suite=suite) if _is_plain(case)]
    return [_target(case, dtype, threads) for case in sorted(cases, key=lambda case: case.flops)]


def _is_plain(case: Any) -> bool:
    """A case that a target can have."""
    if isinstance(case, MatmulTCase):
        return not (case.layout or case.shared or case.activation)
    return case.option in ("", "causal")


def tune_all(
    targets: Sequence[MatmulT | Attention],
    *,
    budget: float = 120.0,
    strategy: Any = "race",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[Outcome]:
    """Tune one target after another, at the number of threads that calls use.

    What remains of the budget is divided evenly among the targets that remain, so that what cheap ones leave goes to
    those after them. Where a share is too small for the whole space, only what differs from the default in one
    parameter is searched; where it is too small for that, nothing. What a search found must show itself faster in
    measurements that take turns with the default's, and must not prove to be slower for a shape at the other end of its
    bucket of sizes, whose calls would use it too; else the default stays.

    Parameters
    ----------
    targets : sequence of MatmulT or Attention
    budget : float
        Seconds for all of them.
    strategy
        As for :func:`~transfuse.tune.search`.
    seed : int
    progress : callable, optional
        As for :func:`~transfuse.tune.search`.
    clock : callable
        Seconds.

    Yields
    ------
    Outcome
        After one whose search was interrupted (Ctrl-C), no others come.

    Raises
    ------
    ValueError
        The budget is not positive, or an argument of the search is not as it should be.
    """
    if not budget > 0:
        raise ValueError(f"budget: expected seconds above 0, got {budget}")
    end = clock() + budget
    for number, target in enumerate(targets):
        share = (end - clock()) / (len(targets) - number)
        outcome = _tune(target, max(share, budget / 1000), strategy, seed, progress, clock)
        yield outcome
        if outcome.result is not None and outcome.result.interrupted:
            return


def _tune(
    target: MatmulT | Attention,
    seconds: float,
    strategy: Any,
    seed: int,
    progress: Callable[[Progress], None] | None,
    clock: Clock,
) -> Outcome:
    whole = Space(target.space().parameters | {"threads": [target.threads]})
    _, whole, default = as_target(target, whole, None)
    if len(choose(whole, default, target.effective)) == 1:
        return _unchanged(target, default, "no choice")
    cost = _cost(_seconds_of_call(target, default, clock))
    most = SEARCH_SHARE * seconds / (PASSES * cost)
    spaces = [space for space in (whole, _near(whole, default, target)) if len(space) <= most]
    if not spaces:
        return _unchanged(target, default, "no time")
    options = {"strategy": strategy, "seed": seed, "progress": progress, "clock": clock}
    result = search(target, spaces[0], budget=SEARCH_SHARE * seconds, **options)
    before = result.default_seconds
    if result.best == result.default or result.interrupted:
        verdict: Verdict = "default stays" if result.validated else "undecided"
        return Outcome(target, result, default, default, before, before, EVEN, verdict)
    rounds = int(np.clip((1 - SEARCH_SHARE) * seconds / (4 * cost), FEWEST_ROUNDS, MOST_ROUNDS))
    changes = {name: value for name, value in result.best.items() if value != default[name]}
    before, after, ratio = _measure_anew(target, changes, rounds, seed, clock)
    if ratio.low <= 1:
        return Outcome(target, result, default, default, before, before, EVEN, "undecided")
    if _measure_anew(_elsewhere(target), changes, rounds, seed, clock)[2].high < 1:
        return Outcome(target, result, default, default, before, before, EVEN, "here only")
    return Outcome(target, result, result.best, default, before, after, ratio, "faster")


def _unchanged(target: MatmulT | Attention, default: Configuration, verdict: Verdict) -> Outcome:
    """Nothing was measured."""
    return Outcome(target, None, default, default, math.nan, math.nan, EVEN, verdict)


def _seconds_of_call(target: MatmulT | Attention, configuration: Configuration, clock: Clock) -> float:
    call = target.prepare(configuration)
    call()
    start = clock()
    call()
    return clock() - start


def _cost(seconds: float) -> float:
    """Seconds of a measurement and that of the default, with the untimed calls before them."""
    return 2 * (max(seconds, BLOCK_SECONDS) + (seconds if seconds < SHORT_CALL else 0))


def _near(space: Space, default: Configuration, target: MatmulT | Attention) -> Space:
    """What differs from the default in one parameter at most."""
    middle = target.effective(default)

    def is_near(configuration: Configuration) -> bool:
        other = target.effective(default | configuration)
        return bool(sum(other[name] != middle[name] for name in middle) < 2)

    return Space(space.parameters, [is_near])


def _elsewhere(target: MatmulT | Attention) -> MatmulT | Attention:
    """A shape at the other end of the bucket: long sizes become a power of two, or half as much again."""

    def other(size: int) -> int:
        least = 1 << size.bit_length() >> 1
        return size if size < SMALL_SIZE else least if 4 * size > 5 * least else 3 * least // 2

    case = target.case
    names = ["m", "k", "n"]
    if isinstance(target, Attention):
        names = ["queries", "keys"] if case.queries == case.keys else ["keys"]
    changed = {name: other(getattr(case, name)) for name in names}
    if isinstance(target, Attention) and changed["keys"] < case.queries != case.keys:
        return target
    with transfuse.isa(target.isa):
        return _target(dataclasses.replace(case, **changed), target.dtype, target.threads)


def _measure_anew(
    target: MatmulT | Attention, changes: Configuration, rounds: int, seed: int, clock: Clock
) -> tuple[float, float, Estimate]:
    """Seconds of a call of the default and with these changes, which take turns, and their ratio; 0 if that fails."""
    default = target.default_in(target.space()) | {"threads": target.threads}
    best = default | changes
    if target.effective(best) == target.effective(default):
        return math.nan, math.nan, EVEN
    space = Space({name: [value] for name, value in best.items()})
    landscape = record(target, space, rounds=rounds, default=default, seed=seed + 1, clock=clock)
    if best not in landscape.configurations:  # it has failed
        return math.nan, math.nan, Estimate(0.0, 0.0, 0.0)
    before, after = (landscape.times[:, landscape.configurations.index(one)] for one in (default, best))
    return float(np.median(before)), float(np.median(after)), ratio_interval(after, before)
