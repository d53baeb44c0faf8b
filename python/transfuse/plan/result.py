"""A plan: an explicit schedule that repeats every period, with its certificate."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.plan import readers
from transfuse.plan.graph import Graph, GraphError
from transfuse.plan.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from transfuse.plan.simulation import Simulation

SCHEMA = 1


@dataclass(frozen=True)
class Assignment:
    """Where and when an operation runs.

    Attributes
    ----------
    accelerators : tuple of int
        Numbers from 0 on; CPUs follow the accelerators. With r replicas there are r groups of `width` accelerators, and
        micro-batch m runs on group m mod r.
    offset : float
        Start within the period, in [0, period).
    shift : int
        Micro-batch m starts at ``offset + (shift + m)·period``.
    width : int
    duration : float
        Seconds, with the transfers that the cost model charges to the operation.
    """

    accelerators: tuple[int, ...]
    offset: float
    shift: int
    width: int
    duration: float

    @property
    def replicas(self) -> int:
        """Number of groups."""
        return len(self.accelerators) // self.width


@dataclass(frozen=True)
class Plan:
    """A schedule of a graph that takes in a micro-batch every `period`; made by `transfuse.plan.solve`.

    Attributes
    ----------
    graph : Graph
    settings : Settings
        What was asked.
    period : float
    lower_bound : float
        No plan of this mode has a smaller period.
    bound : str
        Where the bound comes from.
    assignments : mapping of str to Assignment
        By operation.
    seconds : float
        How long solving took.
    method : str
        What found the plan.

    Examples
    --------
    >>> from transfuse.plan import Graph, Operation, solve
    >>> graph = Graph([Operation(f"op{i}", {1: 3.0, 2: 1.0}) for i in range(5)])
    >>> plan = solve(graph, 5, effort=1)
    >>> plan.period, plan.lower_bound, plan.verify()
    (2.5, 2.5, True)
    """

    graph: Graph
    settings: Settings
    period: float
    lower_bound: float
    bound: str
    assignments: Mapping[str, Assignment]
    seconds: float = 0.0
    method: str = ""
    seed: int = field(default=0, compare=False)

    @property
    def mode(self) -> str:
        """The mode that was asked for."""
        return self.settings.mode

    @property
    def accelerators(self) -> int:
        """Number of accelerators that were given."""
        return self.settings.accelerators

    @property
    def gap(self) -> float:
        """``period/lower_bound − 1``: by how much a better plan could be better at most."""
        if self.period <= self.lower_bound:
            return 0.0
        return self.period / self.lower_bound - 1 if self.lower_bound > 0 else math.inf

    @property
    def optimal(self) -> bool:
        """Whether the bound proves that no plan is better, but for rounding."""
        return self.gap <= 1e-9

    def start(self, name: str) -> float:
        """When the operation starts on micro-batch 0."""
        assignment = self.assignments[name]
        return assignment.offset + assignment.shift * self.period

    def end(self, name: str) -> float:
        """When the operation ends on micro-batch 0."""
        return self.start(name) + self.assignments[name].duration

    @cached_property
    def latency(self) -> float:
        """Seconds from the first start to the last end of one micro-batch."""
        return max(map(self.end, self.assignments)) - min(map(self.start, self.assignments))

    @property
    def in_flight(self) -> int:
        """The most micro-batches that have started and not ended at any time."""
        return max(1, math.ceil(self.latency / self.period - 1e-9)) if self.period > 0 else 1

    @cached_property
    def peak_memory(self) -> list[float]:
        """Bytes on each accelerator at its fullest: weights, and outputs that a reader still needs."""
        from transfuse.plan.memory import peaks

        return peaks(self)

    @cached_property
    def busy(self) -> list[float]:
        """Share of the time in which each accelerator is held."""
        found = [0.0] * self.settings.resources
        for assignment in self.assignments.values():
            for accelerator in assignment.accelerators:
                found[accelerator] += assignment.duration / assignment.replicas
        return [seconds / self.period if self.period > 0 else 0.0 for seconds in found]

    def repeated(self, copies: int) -> "Plan":
        """The plan of `copies` disjoint copies of the graph that does one copy after the other, in as many periods."""
        if any(found.replicas > 1 for found in self.assignments.values()):
            raise ValueError("a plan with replicas cannot be repeated")
        period = self.period * copies
        graph = self.graph.repeated(copies)
        found = {}
        for number, operation in enumerate(graph.operations):
            name = self.graph.operations[number % len(self.graph.operations)].name
            turn = self.assignments[name].shift + number // len(self.graph.operations)
            offset = self.assignments[name].offset + turn % copies * self.period
            found[operation.name] = replace(self.assignments[name], offset=offset, shift=turn // copies)
        return replace(self, graph=graph, period=period, lower_bound=0.0, bound="none", assignments=found)

    def verify(self) -> bool:
        """Check everything about the plan anew, with code that shares nothing with the solvers.

        Returns
        -------
        bool
            True.

        Raises
        ------
        PlanError
            With the first thing that is wrong.
        """
        from transfuse.plan.verification import verify

        verify(self)
        return True

    def simulate(self, n: int, *, jitter: float = 0.0, seed: int = 0) -> "Simulation":
        """Execute `n` micro-batches, one released every period; see `transfuse.plan.simulation.simulate`."""
        from transfuse.plan.simulation import simulate

        return simulate(self, n, jitter=jitter, seed=seed)

    def gantt(self, path: str | Path, *, periods: int = 3, title: str | None = None) -> None:
        """Draw the schedule (SVG, PNG or PDF, by the path's ending); see `transfuse.plan.drawing.gantt`."""
        from transfuse.plan.drawing import gantt

        gantt(self, path, periods=periods, title=title)

    def to_perfetto(self, path: str | Path, *, micro_batches: int = 8) -> None:
        """Write a trace that the Perfetto viewer (ui.perfetto.dev) and chrome://tracing open."""
        from transfuse.plan.drawing import perfetto

        perfetto(self, path, micro_batches=micro_batches)

    def summary(self) -> "RenderableType":
        """A table for `rich.print`."""
        from transfuse.plan.report import summary

        return summary(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan, with its graph, as JSON holds it."""
        return {
            "schema": SCHEMA,
            "settings": asdict(self.settings),
            "period": self.period,
            "lower_bound": self.lower_bound,
            "bound": self.bound,
            "method": self.method,
            "seconds": self.seconds,
            "seed": self.seed,
            "gap": self.gap if math.isfinite(self.gap) else None,
            "latency": self.latency,
            "in_flight": self.in_flight,
            "peak_memory": self.peak_memory,
            "assignments": {name: asdict(found) for name, found in self.assignments.items()},
            "graph": self.graph.to_dict(),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The plan as JSON; also written to `path`, if there is one."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """A plan from what `to_dict` gives; ValueError if something is missing or of a wrong type."""

        def number(value: Any, what: str) -> float:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"not a plan: {what} must be a number, got {value!r}")
            return float(value)

        def whole(value: Any, what: str) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"not a plan: {what} must be an integer, got {value!r}")
            return value

        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"a plan of schema {data['schema']!r}, expected {SCHEMA}")
            assignments = {
                name: Assignment(
                    tuple(whole(one, f"an accelerator of {name!r}") for one in found["accelerators"]),
                    number(found["offset"], f"the offset of {name!r}"),
                    whole(found["shift"], f"the shift of {name!r}"),
                    whole(found["width"], f"the width of {name!r}"),
                    number(found["duration"], f"the duration of {name!r}"),
                )
                for name, found in data["assignments"].items()
            }
            graph = readers.from_dict(data["graph"])
            return cls(
                graph,
                Settings(**data["settings"]).checked(graph),
                number(data["period"], "the period"),
                number(data["lower_bound"], "the lower bound"),
                str(data["bound"]),
                assignments,
                number(data.get("seconds", 0.0), "seconds"),
                str(data.get("method", "")),
                whole(data.get("seed", 0), "the seed"),
            )
        except GraphError:
            raise
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan: {error!r}") from None

    @classmethod
    def from_json(cls, source: str | Path) -> "Plan":
        """Read a plan from a file, or from the text that `to_json` returned."""
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else None
        if text is None:
            text = Path(source).read_text(encoding="utf-8")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a plan: {error}") from None
        return cls.from_dict(data)


def assignments_of(
    graph: Graph, places: "list[Any]", starts: list[float], times: list[float], period: float
) -> dict[str, Assignment]:
    """Assignments from absolute starts; the first operation starts in period 0."""
    earliest = math.floor(min(starts) / period) if period > 0 else 0
    found = {}
    for operation, place, start, seconds in zip(graph.operations, places, starts, times, strict=True):
        shift = math.floor(start / period) if period > 0 else 0
        offset = start - shift * period
        if offset >= period > 0:
            shift, offset = shift + 1, 0.0
        found[operation.name] = Assignment(place.accelerators, max(0.0, offset), shift - earliest, place.width, seconds)
    return found
