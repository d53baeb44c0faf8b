"""Operations with the same times are one kind: few kinds, many copies."""

from collections.abc import Sequence
from dataclasses import dataclass

from transfuse.plan.graph import Graph


@dataclass(frozen=True)
class Kind:
    """Operations that no solver need tell apart.

    Attributes
    ----------
    times : dict of int to float
        Seconds by width, for widths that are worth it: no narrower one is as fast.
    members : list of int
        Positions of the operations.
    """

    times: dict[int, float]
    members: Sequence[int]

    @property
    def count(self) -> int:
        """How many operations there are."""
        return len(self.members)

    @property
    def work(self) -> float:
        """Least accelerator-seconds of one operation."""
        return min(width * time for width, time in self.times.items())


def kinds_of(graph: Graph, accelerators: int) -> list[Kind]:
    """The kinds of the operations that take time."""
    found: dict[tuple[tuple[int, float], ...], list[int]] = {}
    for i, operation in enumerate(graph.operations):
        useful: list[tuple[int, float]] = []
        for width, time in operation.times.items():
            if width <= accelerators and (not useful or time < useful[-1][1]):
                useful.append((width, time))
        if useful[-1][1] > 0:
            found.setdefault(tuple(useful), []).append(i)
    return [Kind(dict(times), members) for times, members in found.items()]
