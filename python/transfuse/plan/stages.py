"""Contiguous stages, each with one width: exact dynamic programming over ideals."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfuse.plan.graph import Graph
from transfuse.plan.ideals import LIMIT, chain, ideals
from transfuse.plan.rules import RULES, Floats, Option, Rows, Rules, product
from transfuse.plan.settings import InfeasibleError, Settings

CELLS = 100_000_000  # of the table: ideals × CPUs × accelerators × replicas
ROUNDING = 1e-9  # of a load, by the order in which it is summed


@dataclass(frozen=True)
class Stage:
    """Operations, as positions in the graph in topological order, that run one after the other in one place."""

    operations: tuple[int, ...]
    option: Option
    load: float


@dataclass(frozen=True)
class Partition:
    """Stages in order, with the period of the slowest, and whether no other partition is faster."""

    stages: tuple[Stage, ...]
    period: float
    exact: bool


def partition(
    graph: Graph, settings: Settings, max_stages: int | None = None, stop: Callable[[], bool] = bool
) -> Partition:
    """The contiguous partition of least period.

    A graph of too many ideals is cut along one topological order only, and so is one whose ideals are not done when
    `stop` says so; `exact` is then False.

    Raises
    ------
    InfeasibleError
        No partition fits into the memory, or runs on so few accelerators.
    TimeoutError
        Not even one order was done when `stop` said so.
    """
    rules = RULES[settings.cost_model](graph, settings)
    order = chain(_unit_order(graph, rules))
    search = _Search(rules, order, max_stages, math.inf)
    found = search.run(stop)
    upper = math.inf if found is None else search.period * (1 + ROUNDING)
    exact = False
    with contextlib.suppress(TimeoutError):
        one = 1 in (settings.resources, max_stages)  # stage: whatever the order
        rows = order if one else ideals(rules.before, min(LIMIT, CELLS // search.cells), stop)
        if rows is not None:
            if len(rows) > len(order):
                found = _Search(rules, rows, max_stages, upper).run(stop)
            exact = True
    if found is None:
        raise InfeasibleError(_why_not(settings, max_stages, exact))
    position = {i: rank for rank, i in enumerate(graph.order)}
    stages = tuple(
        Stage(
            tuple(sorted((i for u in np.flatnonzero(row) for i in rules.units[u]), key=position.__getitem__)),
            option,
            load,
        )
        for row, option, load in found
    )
    return Partition(stages, max(stage.load for stage in stages), exact)


def _unit_order(graph: Graph, rules: Rules) -> list[int]:
    """Units in a topological order, those with early operations first."""
    missing = {unit: set(before) for unit, before in enumerate(rules.before)}
    order: list[int] = []
    while missing:
        unit = next(unit for unit, before in missing.items() if not before)
        del missing[unit]
        order.append(unit)
        for before in missing.values():
            before.discard(unit)
    return order


def _why_not(settings: Settings, max_stages: int | None, exact: bool) -> str:
    """What may be at fault if there is no partition."""
    limits = [f"{settings.accelerators} accelerators"]
    limits += [f"{settings.cpus} CPUs"] if settings.cpus else []
    limits += [f"{settings.memory:.6g} bytes of memory each"] if settings.memory is not None else []
    limits += [f"at most {max_stages} stages"] if max_stages is not None else []
    searched = "" if exact else " along the order that was searched"
    return f"no partition into stages fits {', '.join(limits)}{searched}"


class _Search:
    """best[J][c, k, s]: least period of what is outside the ideal J on c CPUs and at most k accelerators.

    s counts the replicas of its stages; only a memory limit (what is in flight depends on it) or a limit on the stages
    makes it needed. Stages of more than `upper` seconds are left out.
    """

    def __init__(self, rules: Rules, rows: Rows, max_stages: int | None, upper: float) -> None:
        self.rules = rules
        self.rows = rows
        self.upper = upper
        self.period = math.inf
        least = rules.least_loads()
        self.least = product(rows, np.where(np.isfinite(least), least, 0.0))
        settings = rules.settings
        self.limited = settings.memory is not None and self._may_overflow(settings.memory)
        self.counts = self.limited or max_stages is not None
        most = max_stages if max_stages is not None and not settings.replication else settings.accelerators
        batches = rules.graph.rules.get("micro_batches", math.inf) if settings.cost_model == "piper" else math.inf
        most = int(min(most + settings.cpus, batches)) if self.counts else 0
        accelerators = settings.accelerators
        if not rules.exactly:
            accelerators = min(accelerators, len(rules.units) * max(option.accelerators for option in rules.options))
        shape = (len(rows), settings.cpus + 1, accelerators + 1, most + 1)
        self.cells = math.prod(shape[1:])
        if math.prod(shape) > CELLS:
            raise ValueError(f"accelerators: {settings.accelerators} are too many for the search of stages")
        self.best = np.full(shape, math.inf)
        self.choice: NDArray[np.int32] = np.full((*shape, 2), -1, np.int32)
        self.best[-1, :, 0 if rules.exactly else slice(None), 0] = 0.0

    def _may_overflow(self, memory: float) -> bool:
        """Whether the memory limit can matter at all: everything in one stage, with the most in flight."""
        whole = np.ones((1, len(self.rules.units)), np.bool_)
        most = self.rules.settings.accelerators
        return not all(self.rules.fits(option, whole, most).all() for option in self.rules.options)

    def run(self, stop: Callable[[], bool]) -> list[tuple[Rows, Option, float]] | None:
        packed = np.packbits(self.rows, axis=1)
        for j in range(len(self.rows) - 2, -1, -1):
            if stop():
                raise TimeoutError("time_limit: no partition into stages was found in time")
            near = np.flatnonzero(self.least[j + 1 :] - self.least[j] <= self.upper) + j + 1
            larger = near[(packed[near] & packed[j] == packed[j]).all(axis=1)]
            if larger.size:
                self._extend(j, larger, stop)
        if self.rules.exactly:
            self.best[0, :, :-1] = math.inf
        whole = self.best[0].reshape(-1)
        if not np.isfinite(whole.min()):
            return None
        self.period = float(whole.min())
        c, k, s = np.unravel_index(int(whole.argmin()), self.best.shape[1:])
        return self._collect(int(c), int(k), int(s))

    def _extend(self, j: int, larger: NDArray[np.intp], stop: Callable[[], bool]) -> None:
        after = self.rows[larger]
        loads = self.rules.loads(self.rows[j], after)
        stages = after & ~self.rows[j]
        for number, (option, load) in enumerate(zip(self.rules.options, loads, strict=True)):
            if number % 64 == 63 and stop():
                raise TimeoutError
            possible = np.isfinite(load) & (load <= self.upper)
            for following in range(self.best.shape[3] - option.replicas if self.counts else 1):
                allowed = possible
                if self.limited:
                    allowed = possible & self.rules.fits(option, stages, following)
                if allowed.any():
                    self._improve(j, number, option, larger[allowed], load[allowed], following)

    def _improve(
        self, j: int, number: int, option: Option, larger: NDArray[np.intp], load: Floats, following: int
    ) -> None:
        cpus, accelerators = int(option.cpu), option.accelerators
        c_end, k_end = self.best.shape[1] - cpus, self.best.shape[2] - accelerators
        if c_end < 1 or k_end < 1:
            return
        rest = self.best[larger, :c_end, :k_end, following]
        periods = np.maximum(rest, load[:, None, None])
        which = periods.argmin(axis=0)
        least = np.take_along_axis(periods, which[None], axis=0)[0]
        s = following + option.replicas if self.counts else 0
        best = self.best[j, cpus:, accelerators:, s]
        better = least < best
        best[better] = least[better]
        choice = self.choice[j, cpus:, accelerators:, s]
        choice[better] = np.stack([larger[which], np.full_like(which, number)], axis=-1)[better]

    def _collect(self, c: int, k: int, s: int) -> list[tuple[Rows, Option, float]]:
        found = []
        j = 0
        while j < len(self.rows) - 1:
            following, number = self.choice[j, c, k, s]
            option = self.rules.options[number]
            load = float(self.rules.loads(self.rows[j], self.rows[following : following + 1])[number][0])
            found.append((self.rows[following] & ~self.rows[j], option, load))
            c, k = c - int(option.cpu), k - option.accelerators
            s -= option.replicas if self.counts else 0
            j = int(following)
        return found
