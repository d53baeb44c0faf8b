"""What a stage costs: the rules of each cost model, over many stages at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfuse.plan.contraction import colocated, singletons
from transfuse.plan.graph import Graph
from transfuse.plan.settings import Settings

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]


def product(rows: Rows, amounts: Floats) -> Floats:
    """rows @ amounts, all finite. BLAS may compute with what lies beside the arrays; NaN there must not warn."""
    with np.errstate(invalid="ignore"):
        return np.asarray(rows.astype(np.float64) @ amounts)


@dataclass(frozen=True)
class Option:
    """How a stage may run: `width` accelerators in each of `replicas` groups; or on a CPU."""

    width: int
    replicas: int = 1
    cpu: bool = False

    @property
    def accelerators(self) -> int:
        """How many it takes."""
        return 0 if self.cpu else self.width * self.replicas


class Rules:
    """Loads of stages without communication; the base of the other cost models.

    A stage is given by two ideals of units, as rows of booleans: what stands before it, and that together with it.

    Attributes
    ----------
    units : list of list of int
        Operations that stay together.
    before : list of list of int
        The units that each unit follows.
    options : list of Option
    exactly : bool
        Whether all accelerators must be used.
    """

    exactly = False

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self.graph = graph
        self.settings = settings
        self.units, self.before = self.make_units()
        self.options = self.make_options()
        self._times = {
            width: self.per_unit([operation.times.get(width, math.inf) for operation in graph.operations])
            for width in {option.width for option in self.options}
        }
        self._memory = self.per_unit([operation.memory for operation in graph.operations])
        self._parameters = self.per_unit([operation.parameters for operation in graph.operations])

    def make_units(self) -> tuple[list[list[int]], list[list[int]]]:
        """`units` and `before`."""
        return singletons(self.graph)

    def make_options(self) -> list[Option]:
        """Every width that some operation has, with as many replicas as there is room for."""
        p = self.settings.accelerators
        widths = sorted({width for operation in self.graph.operations for width in operation.times if width <= p})
        return [
            Option(width, replicas)
            for width in widths
            for replicas in range(1, (p // width if self.settings.replication else 1) + 1)
        ]

    def per_unit(self, values: Sequence[float]) -> Floats:
        """Sums over the operations of each unit."""
        return np.array([sum(values[i] for i in unit) for unit in self.units], np.float64)

    def total(self, stages: Rows, amounts: Floats) -> Floats:
        """Sums over the units of each stage; infinite amounts stay infinite."""
        finite = np.isfinite(amounts)
        sums = product(stages, np.where(finite, amounts, 0.0))
        if not finite.all():
            sums[stages[:, ~finite].any(axis=1)] = math.inf
        return sums

    def least_loads(self) -> Floats:
        """Seconds of each unit below which it adds to no stage, whatever the option."""
        return np.asarray(np.min([self._times[option.width] / option.replicas for option in self.options], axis=0))

    def loads(self, before: Rows, after: Rows) -> list[Floats]:
        """For each option: the period of each stage ``after[i] & ~before``."""
        stages = after & ~before
        return [self.total(stages, self._times[option.width]) / option.replicas for option in self.options]

    def fits(self, option: Option, stages: Rows, following: int) -> Rows:
        """Whether the memory suffices with so many replicas in the stages that follow.

        As in Piper: ⌈(replicas from this stage on)/replicas⌉ micro-batches are in flight.
        """
        assert self.settings.memory is not None
        in_flight = math.ceil((following + option.replicas) / option.replicas)
        need = self.total(stages, self._memory * in_flight + self._parameters) / option.width
        return np.asarray(need <= self.settings.memory)


class Boundary:
    """Which operations' outputs cross the border of a stage, for many stages at once."""

    def __init__(self, graph: Graph, units: list[list[int]]) -> None:
        unit_of = {i: number for number, unit in enumerate(units) for i in unit}
        consumers = [{unit_of[j] for j in after} - {unit_of[i]} for i, after in enumerate(graph.successors)]
        self.producers = [i for i, found in enumerate(consumers) if found]
        self._unit = np.array([unit_of[i] for i in self.producers], np.intp)
        self._reads = np.zeros((len(units), len(self.producers)))
        for column, i in enumerate(self.producers):
            self._reads[list(consumers[i]), column] = 1
        self._count = self._reads.sum(axis=0)

    def crossing(self, stages: Rows) -> Floats:
        """1 where an operation of the stage is read outside, or an outer one is read inside; stages × producers."""
        inside = product(stages, self._reads)
        own = stages[:, self._unit]
        return np.where(own, inside < self._count, inside > 0).astype(np.float64)


class Transfer(Rules):
    """Our own model: each side of a transfer is busy for the link's latency and its share of the bytes.

    An output is sent once if anyone outside reads it, and received once by every stage that reads it. It has the size
    of the operation's largest edge; each of `width` accelerators moves its part of it over its own link.
    """

    def __init__(self, graph: Graph, settings: Settings) -> None:
        super().__init__(graph, settings)
        self._boundary = Boundary(graph, self.units)
        sizes = output_sizes(graph)
        self._bytes = np.array([sizes[i] for i in self._boundary.producers], np.float64)

    def loads(self, before: Rows, after: Rows) -> list[Floats]:
        """See `Rules.loads`."""
        crossing = self._boundary.crossing(after & ~before)
        messages, volume = crossing.sum(axis=1) * self.settings.link_latency, crossing @ self._bytes
        assert self.settings.bandwidth is not None
        return [
            load + (messages + volume / (self.settings.bandwidth * option.width)) / option.replicas
            for load, option in zip(super().loads(before, after), self.options, strict=True)
        ]


def output_sizes(graph: Graph) -> list[float]:
    """Bytes of each operation's output: its largest edge."""
    sizes = [0.0] * len(graph.operations)
    for edge in graph.edges:
        i = graph.index[edge.source]
        sizes[i] = max(sizes[i], edge.bytes)
    return sizes


class DnnPartitioning(Rules):
    """The rules of dnn-partitioning (Tarnawski et al. 2020), throughput-dp.

    Every crossing output costs its fixed time on the accelerators at both ends; a CPU pays nothing.
    """

    def make_units(self) -> tuple[list[list[int]], list[list[int]]]:
        """Colocated."""
        return colocated(self.graph)

    def make_options(self) -> list[Option]:
        """One accelerator or one CPU."""
        return [Option(1), *([Option(1, cpu=True)] if self.settings.cpus else [])]

    def __init__(self, graph: Graph, settings: Settings) -> None:
        super().__init__(graph, settings)
        rules = graph.rules
        unsupported = set(rules["unsupported"])
        names = [operation.name for operation in graph.operations]
        self._accelerator = self.per_unit([math.inf if o.name in unsupported else o.times[1] for o in graph.operations])
        self._cpu = self.per_unit([rules["cpu_times"][name] for name in names])
        self._boundary = Boundary(graph, self.units)
        self._costs = np.array([rules["transfer"][names[i]] for i in self._boundary.producers], np.float64)

    def loads(self, before: Rows, after: Rows) -> list[Floats]:
        """See `Rules.loads`."""
        stages = after & ~before
        communication = self._boundary.crossing(stages) @ self._costs
        found = [self.total(stages, self._accelerator) + communication]
        return found + ([self.total(stages, self._cpu)] if self.settings.cpus else [])

    def least_loads(self) -> Floats:
        """See `Rules.least_loads`."""
        return np.minimum(self._accelerator, self._cpu) if self.settings.cpus else self._accelerator

    def fits(self, option: Option, stages: Rows, following: int) -> Rows:
        """An accelerator holds everything of its stage at once."""
        assert self.settings.memory is not None
        return np.asarray(self.total(stages, self._memory) <= (math.inf if option.cpu else self.settings.memory))


class Piper(Rules):
    """The rules of Piper (Tarnawski et al. 2021), without its recomputation of activations."""

    def make_options(self) -> list[Option]:
        """Replicas must divide the number of micro-batches in a batch."""
        batches = self.graph.rules["micro_batches"]
        return [option for option in super().make_options() if batches % option.replicas == 0]

    def __init__(self, graph: Graph, settings: Settings) -> None:
        super().__init__(graph, settings)
        details = graph.rules["details"]
        names = [operation.name for operation in graph.operations]
        self._ends = np.array([(graph.index[e.source], graph.index[e.target]) for e in graph.edges], np.intp)
        self._ends = self._ends.reshape(-1, 2)
        self._sent: dict[int, Floats] = {}
        self._received: dict[int, Floats] = {}
        self._per_width: dict[int, dict[str, Floats]] = {}
        for width in self._times:
            at = {name: details[name].get(str(width), {}) for name in names}
            self._sent[width] = np.array(
                [2 * (e.bytes + at[e.source].get("sync_out", {}).get(e.target, 0.0)) for e in graph.edges]
            )
            self._received[width] = np.array(
                [2 * (e.bytes + at[e.target].get("sync_in", {}).get(e.source, 0.0)) for e in graph.edges]
            )
            self._per_width[width] = {
                key: self.per_unit([at[name].get(key, 0.0) for name in names])
                for key in ("memory", "fixed", "parameters")
            }

    def loads(self, before: Rows, after: Rows) -> list[Floats]:
        """See `Rules.loads`."""
        stages = after & ~before
        sources, targets = stages[:, self._ends[:, 0]], stages[:, self._ends[:, 1]]
        out, into = (sources & ~targets).astype(np.float64), (targets & ~sources).astype(np.float64)
        assert self.settings.bandwidth is not None
        found = []
        for load, option in zip(super().loads(before, after), self.options, strict=True):
            r = option.replicas
            moved = (out @ self._sent[option.width] + into @ self._received[option.width]) / r
            weights = self.total(stages, self._per_width[option.width]["parameters"])
            moved = moved + 4 * (r - 1) * weights / r / self.graph.rules["micro_batches"]
            found.append(load + moved / self.settings.bandwidth)
        return found

    def fits(self, option: Option, stages: Rows, following: int) -> Rows:
        """See `Rules.fits`; the file says what each width keeps."""
        assert self.settings.memory is not None
        in_flight = math.ceil((following + option.replicas) / option.replicas)
        kept = self._per_width[option.width]
        return np.asarray(self.total(stages, kept["memory"] * in_flight + kept["fixed"]) <= self.settings.memory)


class PipeDream(Rules):
    """The rules of PipeDream's hierarchical optimizer (Narayanan et al. 2019) on one level of machines.

    Transfers overlap with computation, so that the slower of them decides; replicas exchange gradients; all machines
    are used.
    """

    exactly = True

    def make_options(self) -> list[Option]:
        """Whole machines only."""
        return [Option(1, r) for r in range(1, (self.settings.accelerators if self.settings.replication else 1) + 1)]

    def loads(self, before: Rows, after: Rows) -> list[Floats]:
        """See `Rules.loads`."""
        stages = after & ~before
        weights = self.total(stages, self._parameters)
        entering = self.activations(before) if before.any() else 0.0
        leaving = np.array([0.0 if row.all() else self.activations(row) for row in after])
        first = not before.any()
        bandwidth = self.settings.bandwidth
        assert bandwidth is not None
        found = []
        for load, option in zip(super().loads(before, after), self.options, strict=True):
            r = option.replicas
            compute = load + 4 * (r - 1) * weights / (bandwidth * r) / r
            moved = 0.0 if first else 2 * np.maximum(entering, leaving) / (bandwidth * r)
            found.append(np.maximum(compute, moved))
        return found

    def fits(self, option: Option, stages: Rows, following: int) -> Rows:
        """As many versions are stashed as there are rounds of replicas to come."""
        assert self.settings.memory is not None
        versions = max(1, math.ceil(following / option.replicas))
        return np.asarray(self.total(stages, self._memory + self._parameters) * versions <= self.settings.memory)

    def activations(self, ideal: Rows) -> float:
        """Bytes that leave an ideal: its last operations, and what PipeDream's augmented antichain adds to them."""
        inside = set(np.flatnonzero(ideal).tolist())
        graph = self.graph
        found: set[int] = set()
        for last in inside:
            if inside.intersection(graph.successors[last]):
                continue
            before = self._all_before(last)
            found.add(last)
            found.update(u for u in before for w in graph.successors[u] if w not in before and w != last)
        return sum(graph.operations[i].memory for i in found)

    def _all_before(self, i: int) -> set[int]:
        found: set[int] = set()
        waiting = [i]
        while waiting:
            for j in self.graph.predecessors[waiting.pop()]:
                if j not in found:
                    found.add(j)
                    waiting.append(j)
        return found


RULES: dict[str, type[Rules]] = {
    "none": Rules,
    "transfer": Transfer,
    "piper": Piper,
    "dnn-partitioning": DnnPartitioning,
    "pipedream": PipeDream,
}
