"""The cases of ``transfuse bench plan``: published values, and how far our own plans may be from the best."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transfuse.plan.generators import random_graph, transformer
from transfuse.plan.graph import Graph, Operation
from transfuse.plan.readers import load
from transfuse.plan.result import Plan
from transfuse.plan.solver import solve

BERT_ACCELERATORS = tuple(range(2, 65))
LLM_LAYERS = (2, 4, 6, 8, 12, 16, 32)
LLM_ACCELERATORS = (8, 20, 32, 48, 64)
PATIENCE = 3600.0  # seconds for what must be exact
DIGITS = 5e-6  # relative: what the six digits of a published value leave open


@dataclass(frozen=True)
class Case:
    """A problem and what its plan should reach.

    Attributes
    ----------
    name : str
    solve : callable
        Makes the plan; gets the time limit, the effort and the seed.
    expected : float or None
        The period that must come out, to its digits.
    gap : float or None
        The largest gap.
    period : float or None
        The longest period.
    """

    name: str
    solve: Callable[[float, float | None, int], Plan]
    expected: float | None = None
    gap: float | None = None
    period: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A case, its verified plan and whether it reached its target."""

    case: Case
    plan: Plan

    @property
    def reached(self) -> bool:
        """Whether all that was expected is so."""
        case, plan = self.case, self.plan
        exact = case.expected is None or abs(plan.period - case.expected) <= DIGITS * case.expected
        close = case.gap is None or plan.gap <= case.gap + 1e-9
        return exact and close and (case.period is None or plan.period <= case.period)

    @property
    def target(self) -> str:
        """In words."""
        case = self.case
        parts = [f"{case.expected:.6g}"] if case.expected is not None else []
        parts += [f"gap ≤ {case.gap:.1%}"] if case.gap else ["optimal"] if case.gap == 0 else []
        parts += [f"≤ {case.period:.4g}"] if case.period is not None else []
        return ", ".join(parts) or "–"


def toy() -> Graph:
    """Five operations whose best plan on five accelerators wraps around the period."""
    return Graph([Operation(f"op{i}", {1: 3.0, **dict.fromkeys(range(2, 6), 1.0)}) for i in range(5)])


def cases(suite: str, data: Path | None = None) -> list[Case]:
    """The cases of a suite; `data` is the folder with the published planners' files, where they are needed.

    Raises
    ------
    ValueError
        There is no such suite, or it needs `data`.
    """
    suites: dict[str, Callable[[Path], Iterator[Case]]] = {
        "toy": lambda _: iter([Case("toy, 5 on 5", _shared(toy, 5), 2.5, 0.0)]),
        "published": _published,
        "bert32": _bert32,
        "llm": lambda _: _llm(),
        "large": lambda _: iter([Case("1000 operations on 64", _shared(lambda: random_graph(1000), 64), gap=0.01)]),
    }
    if suite not in suites:
        raise ValueError(f"suite must be one of {', '.join(suites)}, got {suite!r}")
    if suite in ("published", "bert32") and data is None:
        raise ValueError(f"suite {suite!r} needs the folder of the published planners' files (--data)")
    return list(suites[suite](data or Path()))


def run(chosen: list[Case], time_limit: float, effort: float | None = None, seed: int = 0) -> Iterator[Outcome]:
    """Solve and verify one case after the other."""
    for case in chosen:
        plan = case.solve(time_limit, effort, seed)
        plan.verify()
        yield Outcome(case, plan)


def _shared(make: Callable[[], Graph], accelerators: int) -> Callable[[float, float | None, int], Plan]:
    return lambda limit, effort, seed: solve(make(), accelerators, time_limit=limit, effort=effort, seed=seed)


def _stages(graph: Graph, accelerators: int, **options: Any) -> Callable[[float, float | None, int], Plan]:
    return lambda limit, effort, seed: solve(graph, accelerators, mode="stages", time_limit=PATIENCE, **options)


def _published(data: Path) -> Iterator[Case]:
    expected = json.loads((data / "EXPECTED.json").read_text(encoding="utf-8"))
    for name, _, best, *_ in expected["contiguous_max_load"]["rows"]:
        graph = load(data / f"dnn-partitioning/{name}.json")
        p, cpus = graph.rules["accelerators"], graph.rules["cpus"]
        yield Case(name, _stages(graph, p, cost_model="dnn-partitioning", cpus=cpus), best)
    for name, p, _, best, free in expected["contiguous_max_load_variants"]["rows"]:
        graph = load(data / f"dnn-partitioning/{name}.json")
        yield Case(f"{name}, no CPU", _stages(graph, p, cost_model="dnn-partitioning"), best)
        nothing = replace(graph, rules={**graph.rules, "transfer": dict.fromkeys(graph.rules["transfer"], 0.0)})
        yield Case(f"{name}, no CPU, no transfers", _stages(nothing, p, cost_model="dnn-partitioning"), free)
    graph = load(data / "piper/bert32a100.json")
    for p, free, best, _ in expected["moldable_stages_bert32"]["rows"]:
        for bandwidth, value in ((1e30, free), (25 * 2**30, best)):
            options = {"cost_model": "piper", "bandwidth": bandwidth, "memory": 1e18}
            yield Case(f"bert32 stages on {p}, {bandwidth:.3g} B/s", _stages(graph, p, **options), value)
    graph = load(data / "pipedream/vgg16_graph.txt")
    for name, p, _, best, *_ in expected["pipedream_optimizer"]["rows"]:
        options = {"cost_model": "pipedream", "replication": True, "bandwidth": 1e9}
        yield Case(f"{name} on {p}", _stages(graph, p, **options), best)


def _bert32(data: Path) -> Iterator[Case]:
    graph = load(data / "piper/bert32a100.json")
    for p in BERT_ACCELERATORS:
        limit = 0.0491 if p == 22 else None
        yield Case(f"bert32 on {p}", _shared(lambda: graph, p), gap=0.005, period=limit)


def _llm() -> Iterator[Case]:
    for layers in LLM_LAYERS:
        for p in LLM_ACCELERATORS:
            yield Case(f"{layers} blocks on {p}", _llm_solver(layers, p), gap=0.01 if layers >= 16 else 0.03)


def _llm_solver(layers: int, p: int) -> Callable[[float, float | None, int], Plan]:
    return _shared(lambda: transformer(layers, 4096, 32, 11008, 4096, max_width=p), p)
