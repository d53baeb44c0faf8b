"""Pipelined execution of graphs of moldable operations: plans of least period, with proof.

>>> from transfuse import plan
>>> graph = plan.Graph([plan.Operation(f"op{i}", {1: 3.0, 2: 1.0}) for i in range(5)])
>>> found = plan.solve(graph, 5, effort=1)
>>> found.period, found.lower_bound
(2.5, 2.5)
"""

from transfuse.plan.generators import MODELS, model, random_graph, transformer
from transfuse.plan.graph import Edge, Graph, GraphError, Operation
from transfuse.plan.hardware import ACCELERATORS, Accelerator
from transfuse.plan.profiling import SCALINGS, amdahl, profile
from transfuse.plan.readers import load
from transfuse.plan.result import Assignment, Plan
from transfuse.plan.settings import InfeasibleError, Settings
from transfuse.plan.solver import solve
from transfuse.plan.tradeoff import frontier, pareto
from transfuse.plan.verification import PlanError

__all__ = [
    "ACCELERATORS",
    "MODELS",
    "SCALINGS",
    "Accelerator",
    "Assignment",
    "Edge",
    "Graph",
    "GraphError",
    "InfeasibleError",
    "Operation",
    "Plan",
    "PlanError",
    "Settings",
    "amdahl",
    "frontier",
    "load",
    "model",
    "pareto",
    "profile",
    "random_graph",
    "solve",
    "transformer",
]
