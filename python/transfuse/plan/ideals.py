"""Ideals of a directed acyclic graph: the sets that contain every predecessor of what they contain."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LIMIT = 6000  # ideals; their pairs are what takes time


def ideals(
    predecessors: Sequence[Sequence[int]], limit: int = LIMIT, stop: Callable[[], bool] = bool
) -> NDArray[np.bool_] | None:
    """All ideals, one a row, from the empty one to the whole graph, by size; None if there are more than `limit`.

    >>> ideals([[], [0], [0]]).astype(int).tolist()
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]]
    """
    n = len(predecessors)
    needs = [sum(1 << j for j in before) for before in predecessors]
    level = {0: None}
    found = [0]
    while level:
        following: dict[int, None] = {}
        for ideal in level:
            if stop():
                raise TimeoutError
            for i in range(n):
                if not ideal >> i & 1 and ideal & needs[i] == needs[i]:
                    following[ideal | 1 << i] = None
            if len(found) + len(following) > limit:
                return None
        found += following
        level = following
    rows = np.zeros((len(found), n), np.bool_)
    for row, ideal in zip(rows, found, strict=True):
        row[:] = [ideal >> i & 1 for i in range(n)]
    return rows


def chain(order: Sequence[int]) -> NDArray[np.bool_]:
    """The ideals of a linear order of the nodes."""
    rows = np.zeros((len(order) + 1, len(order)), np.bool_)
    for size, i in enumerate(order, 1):
        rows[size] = rows[size - 1]
        rows[size, i] = True
    return rows
