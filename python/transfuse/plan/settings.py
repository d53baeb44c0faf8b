"""What is asked of a solver, and what its assignments look like."""

import math
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from transfuse.plan.graph import Graph

MODES = ("shared", "stages", "dedicated")
COST_MODELS = ("none", "transfer", "piper", "dnn-partitioning", "pipedream")
PUBLISHED = COST_MODELS[2:]


class InfeasibleError(ValueError):
    """No plan satisfies what was asked."""


def is_finite(value: object) -> bool:
    """Whether it is a number, neither infinite nor NaN."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def positive(name: str, value: object) -> float:
    """The value of an argument that must be a positive number."""
    if not is_finite(value) or value <= 0:  # type: ignore[operator]
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def integer(name: str, value: object, least: int) -> int:
    """The value of an argument that must be an integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer from {least} on, got {value!r}")
    return int(value)


@dataclass(frozen=True)
class Settings:
    """The question, without the graph; see `transfuse.plan.solve`."""

    accelerators: int
    mode: str = "shared"
    replication: bool = False
    cost_model: str = "none"
    cpus: int = 0
    bandwidth: float | None = None
    link_latency: float = 0.0
    memory: float | None = None

    def checked(self, graph: Graph) -> "Settings":
        """The same with the file's values filled in; ValueError if the question makes no sense."""
        accelerators = integer("accelerators", self.accelerators, 1)
        cpus = integer("cpus", self.cpus, 0)
        if not isinstance(self.replication, bool):
            raise ValueError(f"replication must be True or False, got {self.replication!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.cost_model not in COST_MODELS:
            raise ValueError(f"cost_model must be one of {', '.join(COST_MODELS)}, got {self.cost_model!r}")
        for name in ("bandwidth", "memory"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if not is_finite(self.link_latency) or self.link_latency < 0:
            raise ValueError(f"link_latency must be a finite number from 0 on, got {self.link_latency!r}")
        if self.cost_model in PUBLISHED:
            self._require_published(graph)
        elif self.cpus:
            raise ValueError("only the cost model dnn-partitioning knows CPUs")
        for operation in graph.operations:
            if min(operation.times) > accelerators:
                raise InfeasibleError(
                    f"operation {operation.name!r} needs {min(operation.times)} accelerators at least, there are "
                    f"{accelerators}"
                )
        bandwidth = self.bandwidth if self.bandwidth is not None else graph.rules.get("bandwidth")
        if bandwidth is None and self.cost_model == "transfer":
            raise ValueError("cost_model 'transfer' needs a bandwidth: the graph has none")
        memory = self.memory
        if memory is None and self.cost_model in ("dnn-partitioning", "piper"):
            memory = graph.rules["memory"]
        return Settings(
            accelerators,
            self.mode,
            self.replication,
            self.cost_model,
            cpus,
            None if bandwidth is None else float(bandwidth),
            float(self.link_latency),
            None if memory is None else float(memory),
        )

    def _require_published(self, graph: Graph) -> None:
        if self.mode != "stages":
            raise ValueError(f"cost_model {self.cost_model!r} is that of a planner of stages: mode must be 'stages'")
        if graph.rules.get("format") != self.cost_model:
            raise ValueError(f"cost_model {self.cost_model!r} needs a graph that was read from that planner's file")
        if self.cpus and self.cost_model != "dnn-partitioning":
            raise ValueError("only the cost model dnn-partitioning knows CPUs")
        if self.replication and self.cost_model == "dnn-partitioning":
            raise ValueError("dnn-partitioning has no replication")

    @property
    def resources(self) -> int:
        """Accelerators and CPUs; the CPUs have the last numbers."""
        return self.accelerators + self.cpus


@dataclass(frozen=True)
class Place:
    """Where an operation runs: `width` accelerators for a micro-batch, and as many again for each further replica."""

    accelerators: tuple[int, ...]
    width: int

    @property
    def replicas(self) -> int:
        """Among how many groups of accelerators the micro-batches go round."""
        return len(self.accelerators) // self.width


@dataclass
class Budget:
    """When to stop, and whom to tell.

    Attributes
    ----------
    seconds : float
        Time limit.
    effort : float or None
        Instead of the clock: how many units of search; the same seed then gives the same plan.
    progress : callable or None
        Gets the period and the bound whenever one of them improves.
    """

    seconds: float = 60.0
    effort: float | None = None
    progress: Callable[[float, float], None] | None = None
    started: float = field(default_factory=time.monotonic)
    interrupted: bool = False

    def left(self) -> float:
        """Seconds."""
        return 0.0 if self.interrupted else self.started + self.seconds - time.monotonic()

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.started
