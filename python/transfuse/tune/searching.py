"""The search: a target, a space and a strategy give a configuration."""

import contextlib
import operator
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import transfuse
from transfuse.bench import machine
from transfuse.bench.statistics import Estimate, coefficient_of_variation
from transfuse.tune import statistics
from transfuse.tune.adaptive import Adaptive
from transfuse.tune.candidates import choose
from transfuse.tune.function import Function
from transfuse.tune.genetic import Genetic
from transfuse.tune.journal import Journal, seed_of
from transfuse.tune.loop import BudgetSpent, Loop, Progress, Strategy, median, require, require_limits
from transfuse.tune.race import Race
from transfuse.tune.result import Candidate, Phase, Stopped, TuningResult
from transfuse.tune.sampling import Cache, Clock, Source, TargetSource
from transfuse.tune.simple import Exhaustive, Grid, Halving, Random
from transfuse.tune.space import Configuration, Space
from transfuse.tune.targets import Target

STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "grid": Grid,
    "exhaustive": Exhaustive,
    "adaptive": Adaptive,
    "random": Random,
    "genetic": Genetic,
    "halving": Halving,
    "race": Race,
}


def search(
    target: Any,
    space: Space | None = None,
    *,
    strategy: Strategy | str = "race",
    budget: float | None = None,
    max_measurements: int | None = None,
    seed: int | None = None,
    confidence: float = 0.95,
    cache: Cache = "warm",
    default: Configuration | None = None,
    journal: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    check: bool = True,
    clock: Clock = time.perf_counter,
) -> TuningResult:
    """Find the configuration of a target that takes the least time.

    Parameters
    ----------
    target : MatmulT, Attention, Function or callable
        An operation with a shape, or anything that takes the space's parameters by name.
    space : Space, optional
        Default: the operation's own.
    strategy : str or Strategy
        One of "race", "adaptive", "halving", "genetic", "exhaustive", "grid" and "random", or an instance with options.
    budget : float, optional
        Seconds after which no measurement begins, those of the final validation included.
    max_measurements : int, optional
        Timings at most, likewise.
    seed : int, optional
        Of everything that is left to chance. Default: that of the journal, or one by chance.
    confidence : float
        Of the proof on fresh samples, of the tests of "exhaustive", and of intervals.
    cache : {"warm", "cold"}
        Whether a call's inputs are in the caches, from a call just before, or not.
    default : dict, optional
        Values of the default configuration that differ from the target's own.
    journal : path, optional
        A file to which each measurement is appended. If it is there already, the search goes on from it.
    progress : callable, optional
        Called with a :class:`Progress` before the first measurement, after each, and at the end.
    check : bool
        Compare each candidate's output with the default's before it is timed.
    clock : callable
        Seconds.

    Returns
    -------
    TuningResult
        Ctrl-C ends the search with the best so far.

    Raises
    ------
    DefaultFailed
        The default configuration does not work. (Others that fail, or whose output differs, are left out.)
    ValueError, TypeError
        An argument is out of range, or the journal is of another search.
    ImportError
        SciPy is not installed.

    Notes
    -----
    A candidate is a complete configuration: what the space leaves open is the default's value. So wisdom that is active
    in this process changes nothing while an operation is tuned.

    Examples
    --------
    >>> from transfuse import tune
    >>> def work(size):
    ...     return sum(range(64_000 // size * size)) * 0
    >>> result = tune.search(work, tune.Space({"size": [1, 2]}), max_measurements=20, seed=1)
    >>> result.best["size"] in (1, 2)
    True
    """
    require_limits(confidence, budget, max_measurements, seed)
    statistics.require_scipy()  # not when all is measured
    strategy, (target, space, default) = as_strategy(strategy), as_target(target, space, default)
    if seed is None:
        kept = seed_of(journal) if journal is not None else None
        seed = secrets.randbelow(2**32) if kept is None else kept
    seed = operator.index(seed)
    candidates = choose(space, default, target.effective)
    timed = TargetSource(target, candidates.configurations, candidates.default, cache=cache, clock=clock, check=check)
    source: Source = timed
    described = {
        "target": target.name,
        "description": target.describe(),
        "strategy": strategy.name,
        "seed": seed,
        "cache": cache,
    }
    require(journal is None or "<lambda>" not in target.name, "target", "a name where there is a journal", target.name)
    with contextlib.ExitStack() as stack:
        if journal is not None:
            header = described | {"strategy": repr(strategy), "confidence": confidence, "check": check}
            header |= {"configurations": candidates.configurations, "machine": _machine()}
            source = stack.enter_context(contextlib.closing(Journal(journal, header, timed)))
        loop = Loop(
            candidates,
            source,
            np.random.default_rng(seed),
            confidence=confidence,
            budget=budget,
            max_measurements=max_measurements,
        )
        if progress:
            loop.on_progress = lambda phase: progress(_event(loop, phase, strategy.name, target.name))
            loop.on_progress("checking")
        answer, stopped = conduct(strategy, loop)
        if progress:
            loop.on_progress("done")
        return summarize(loop, answer, stopped, machine=machine.describe(), **described)


def as_strategy(strategy: Strategy | str) -> Strategy:
    """A strategy, from its name or as it is.

    Raises
    ------
    ValueError
        There is none of this name.
    """
    if not isinstance(strategy, str):
        return strategy
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    return STRATEGIES[strategy]()


def conduct(strategy: Strategy, loop: Loop) -> tuple[int, Stopped]:
    """Let a strategy run: the answer, and what ended it."""
    try:
        answer = strategy.run(loop)
    except BudgetSpent:
        loop.report_rest()
        return loop.best, "budget"
    except KeyboardInterrupt:
        loop.report_rest()
        return loop.best, "interrupted"
    return answer, "cap" if loop.capped else "decided"


def as_target(target: Any, space: Space | None, default: Configuration | None) -> tuple[Target, Space, Configuration]:
    """A target, its space and its default configuration, from what the caller said.

    Raises
    ------
    TypeError
        `target` is neither a target nor callable, or `space` is no space.
    """
    if not hasattr(target, "prepare"):
        if not callable(target):
            raise TypeError(f"target: expected a target or a callable, got {type(target).__name__}")
        target = Function(target)
    if space is None:
        space = target.space()
    if not isinstance(space, Space):
        raise TypeError(f"space: expected a Space, got {type(space).__name__}")
    return target, space, target.default_in(space) | dict(default or {})


def summarize(loop: Loop, answer: int, stopped: Stopped, **described: Any) -> TuningResult:
    """The result of a search that has ended."""
    configurations, samples, default = loop.candidates.configurations, loop.samples, loop.default
    fresh = [one.seconds for one in loop.observations if (one.phase, one.index) == ("validation", answer)]
    speedup, probability = Estimate(1.0, 1.0, 1.0), 0.0
    if answer != default and loop.source.reference is not None:
        speedup, probability = statistics.ratio_of_times(
            loop.source.reference, fresh or samples[answer], loop.confidence, peeked_at=bool(fresh)
        )
    return TuningResult(
        **described,
        space={name: list(values) for name, values in loop.candidates.parameters.items()},
        confidence=loop.confidence,
        best=configurations[answer],
        default=configurations[default],
        leader=configurations[loop.leader if loop.leader is not None else answer],
        speedup=speedup,
        probability=probability,
        validated=loop.validated,
        ties=[configurations[index] for index in loop.ties],
        evaluations=sum(map(bool, samples)),
        measurements=len(loop.observations),
        seconds=loop.source.elapsed(),
        candidates=[_candidate(loop, index) for index in range(len(loop))],
        history=loop.history,
        observations=loop.observations,
        stopped=stopped,
    )


def _candidate(loop: Loop, index: int) -> Candidate:
    samples = loop.samples[index]
    seconds = median(samples) if samples else None
    if index == loop.default and loop.source.reference is not None:
        seconds = loop.source.reference  # all times are relative to it
    state, reason = loop.source.failures.get(index, ("unmeasured" if seconds is None else "measured", ""))
    return Candidate(
        loop.candidates.configurations[index],
        seconds,
        len(samples),
        coefficient_of_variation(samples) if samples else 0.0,
        state,
        reason,
    )


def _event(loop: Loop, phase: Phase, strategy: str, target: str) -> Progress:
    return Progress(
        phase=phase,
        strategy=strategy,
        target=target,
        iteration=len(loop.history),
        measurements=len(loop.observations),
        max_measurements=loop.max_measurements,
        seconds=loop.source.elapsed(),
        budget=loop.budget,
        best=loop.candidates.configurations[loop.best],
        best_seconds=median(loop.samples[loop.best]),
        default_seconds=median(loop.samples[loop.default]),
        alive=loop.alive_count,
        candidates=len(loop),
        failed=len(loop.source.failures),
    )


def _machine() -> dict[str, Any]:
    """What timings depend on."""
    info = transfuse.info()
    return {"cpu": info["cpu"]["model"], "isa": info["isa"]["current"], "cpus": len(os.sched_getaffinity(0))}
