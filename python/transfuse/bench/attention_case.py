"""Attention as the benchmark sees it: its cases, what they cost, their inputs, and their results in float64."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfuse.bench import dtypes

Option = Literal["", "causal", "window", "padding", "ragged", "bias", "alibi", "softcap"]
OPTIONS: tuple[Option, ...] = ("", "causal", "window", "padding", "ragged", "bias", "alibi", "softcap")
ENDING = ("causal", "window", "ragged")
"""Options with which a query sees no key after its own position; the last query stands at the last key."""
SOFTCAP = 50.0
LONGEST_RAGGED = 82
"""The longest of ragged sequences over the shortest: from 100 to 8192."""
INT8_STEP = 3 / 127
"""Of keys and values that a cache quantises."""


@dataclass(frozen=True)
class Attention:
    """Attention of `batch` sequences: q (batch, heads, queries, depth), k and v (batch, kv_heads, keys, depth).

    Attributes
    ----------
    batch, heads, queries, depth : int
    keys : int
        0: as many as queries.
    kv_heads : int
        0: as many as heads.
    name : str
    option : {"", "causal", "window", "padding", "ragged", "bias", "alibi", "softcap"}
        "window": causal, each query sees `window` keys. "padding": sequences of different lengths, filled up. "ragged":
        caches of very different lengths, filled up; the queries are the last positions of each. "bias": a number for
        each score. "softcap": of 50.
    window : int
    """

    batch: int
    heads: int
    queries: int
    depth: int
    keys: int = 0
    kv_heads: int = 0
    name: str = ""
    option: Option = ""
    window: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", self.keys or self.queries)
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)

    @property
    def label(self) -> str:
        """The sizes in words: "1×12×512×64", "1×32(8)×1×2048×128, causal"."""
        heads = str(self.heads) if self.heads == self.kv_heads else f"{self.heads}({self.kv_heads})"
        lengths = [self.queries] if self.queries == self.keys else [self.queries, self.keys]
        sizes = "×".join(map(str, [self.batch, heads, *lengths, self.depth]))
        option = f"window {self.window}" if self.option == "window" else self.option
        return f"{sizes}, {option}" if option else sizes

    @property
    def sizes(self) -> tuple[int, ...]:
        """(batch, heads, queries, keys, depth)."""
        return self.batch, self.heads, self.queries, self.keys, self.depth

    @property
    def group(self) -> int:
        """Heads of queries that share one of keys and values."""
        return self.heads // self.kv_heads

    @property
    def lengths(self) -> list[int]:
        """Keys of each sequence: with padding from half of all to all, ragged ones in a geometric sequence."""
        if self.option == "padding":
            return [max(1, round(self.keys * (0.5 + 0.5 * (i + 1) / self.batch))) for i in range(self.batch)]
        if self.option == "ragged":
            shortest = max(self.queries, round(self.keys / LONGEST_RAGGED))
            return [round(length) for length in np.geomspace(shortest, self.keys, self.batch).tolist()]
        return [self.keys] * self.batch

    @property
    def distance(self) -> NDArray[np.int64]:
        """How far a query stands after a key, the last at the last: (queries, keys)."""
        return np.arange(self.queries)[:, None] + self.keys - self.queries - np.arange(self.keys)

    def seen(self, sequence: int = 0) -> NDArray[np.bool_]:
        """Which keys each query of a sequence sees: (queries, keys)."""
        length = self.lengths[sequence]
        if self.option not in ENDING:
            return np.broadcast_to(np.arange(self.keys) < length, (self.queries, self.keys))
        distance = self.distance + length - self.keys
        return (distance >= 0) & (distance < (self.window or self.keys))

    @property
    def flops(self) -> float:
        """Of the two products, for the pairs of a query and a key that it sees."""
        return 4.0 * self.scores * self.depth

    @property
    def scores(self) -> float:
        """Pairs of a query and a key that it sees, in all heads."""
        if self.option not in ENDING:
            return float(self.heads * self.queries * sum(self.lengths))
        longest = self.window or self.keys
        ends = (length - self.queries + i + 1 for length in self.lengths for i in range(self.queries))
        return float(self.heads * sum(min(end, longest) for end in ends))

    def traffic(self, dtype: str) -> tuple[int, int]:
        """Read q, k, v as they are stored (and the bias), write the result."""
        itemsize = dtypes.array_dtype(dtype).itemsize
        result = self.batch * self.heads * self.queries * self.depth * itemsize
        read = result + 2 * self.kv_heads * sum(self.lengths) * self.depth * dtypes.stored_bytes(dtype)
        if self.option == "bias":
            read += self.heads * self.queries * self.keys * itemsize
        return read, result


def parse(text: str) -> Attention:
    """A case from "1x12x512x64" (batch, heads, length, depth) or "1x12x1x2048x64" (queries and keys apart).

    "32/8" are 32 heads of queries on 8 of keys and values. ":causal", ":window256", ":padding", ":ragged", ":bias",
    ":alibi" or ":softcap" may follow.

    Raises
    ------
    ValueError
    """
    expected = "sizes: expected BxHxLxD or BxHxLqxLkxD, each at least 1, and perhaps an option such as :causal"
    found = re.fullmatch(r"(\d+)[x×](\d+)(?:/(\d+))?((?:[x×]\d+){2,3})(?::([a-z]+?)(\d+)?)?", text)
    if not found:
        raise ValueError(f"{expected}, got {text!r}")
    batch, heads, kv_heads = int(found[1]), int(found[2]), int(found[3] or found[2])
    queries, *keys, depth = (int(number) for number in re.findall(r"\d+", found[4]))
    option = next((known for known in OPTIONS if known == (found[5] or "")), None)
    window = int(found[6] or 0)
    smallest = min(batch, heads, kv_heads, queries, *keys, depth)
    if smallest < 1 or option is None or (option == "window") != (window > 0):
        raise ValueError(f"{expected}, got {text!r}")
    if heads % kv_heads:
        raise ValueError(f"sizes: expected a multiple of {kv_heads} heads, got {text!r}")
    if option in ENDING and keys and keys[0] < queries:
        raise ValueError(f"sizes: expected at least as many keys as queries with {option}, got {text!r}")
    return Attention(batch, heads, queries, depth, keys[0] if keys else 0, kv_heads, option=option, window=window)


def slopes(heads: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Those of the paper on ALiBi: a geometric sequence."""
    return np.asarray(2.0 ** (-8.0 * (np.arange(heads) + 1) / heads)).astype(dtype, copy=False)


def inputs(case: Attention, dtype: str, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Normal ones. Keys and values for a quantised cache are such that it stores them exactly."""
    stored = dtypes.array_dtype(dtype)

    def heads(count: int, length: int) -> NDArray[Any]:
        return rng.standard_normal((case.batch, count, length, case.depth), np.float32)

    made = {"q": heads(case.heads, case.queries)}
    made |= {name: heads(case.kv_heads, case.keys) for name in "kv"}
    if dtype == dtypes.QUANTISED:
        made |= {name: _on_grid(made[name]) for name in "kv"}
    if case.option == "bias":
        made["bias"] = rng.standard_normal((1, case.heads, case.queries, case.keys), np.float32)
    return {name: array.astype(stored, copy=False) for name, array in made.items()}


def _on_grid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """From -127 to 127 times INT8_STEP, with one of the two in each token.

    A quantisation by the largest element, be it of a token or of all of them, finds this step.
    """
    steps = np.clip(np.rint(x / np.float32(INT8_STEP)), -127, 127)
    steps[..., 0] = np.copysign(127, steps[..., 0])
    return np.asarray(steps * np.float32(INT8_STEP))


def output_shape(case: Attention) -> tuple[int, ...]:
    """The shape of the result, which is that of q."""
    return case.batch, case.heads, case.queries, case.depth


_ROWS = 512
"""Queries whose scores the reference holds at a time."""
_ROUNDINGS = 4
"""To 16 bits: of the result, and of scores and weights where a library keeps them so."""


def reference(case: Attention, inputs: dict[str, NDArray[Any]], dtype: str) -> tuple[NDArray[np.float64], float]:
    """By the formula, in float64, from the inputs as they are stored.

    A result may be off by (8 + √keys / 4 + largest logit) roundings of the arithmetic, twice; one of 16 bits by some
    roundings to these, besides.
    """
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    distance, slope = np.abs(case.distance), slopes(case.heads)
    result = np.empty(output_shape(case))
    largest = 0.0
    for batch in range(case.batch):
        seen = case.seen(batch)
        for head, first in np.ndindex(case.heads, -(-case.queries // _ROWS)):
            rows = slice(first * _ROWS, (first + 1) * _ROWS)
            scores = q[batch, head, rows] @ k[batch, head // case.group].T / math.sqrt(case.depth)
            if case.option == "softcap":
                scores = SOFTCAP * np.tanh(scores / SOFTCAP)
            elif case.option == "bias":
                scores = scores + inputs["bias"][0, head, rows]
            elif case.option == "alibi":
                scores = scores - slope[head] * distance[rows]
            largest = max(largest, float(np.abs(scores).max()))
            scores = np.where(seen[rows], scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            result[batch, head, rows] = weights @ v[batch, head // case.group] / weights.sum(axis=-1, keepdims=True)
    relative = 2 * (8 + math.sqrt(case.keys) / 4 + largest) * dtypes.epsilon(dtypes.arithmetic(dtype))
    if dtype in dtypes.HALF:
        relative += _ROUNDINGS * dtypes.epsilon(dtype)
    return result, relative * float(np.abs(result).max())


def dense_bias(case: Attention, dtype: str = "float32", *, fold: bool = False) -> NDArray[Any]:
    """What the options of a case (all but a bias) add to each score: a matrix that broadcasts to all scores.

    Hidden keys get -inf. With `fold` it is for queries as in :func:`folded_shape`.
    """
    if case.option == "alibi":
        matrix = (-slopes(case.heads)[:, None, None] * np.abs(case.distance))[None]
    else:
        sequences = range(case.batch) if case.option in ("padding", "ragged") else range(1)
        rows = 1 if case.option == "padding" else case.queries  # the same for all queries
        matrix = np.where(np.stack([case.seen(i)[:rows] for i in sequences]), 0, -np.inf)[:, None]
    if fold and case.option == "alibi":
        matrix = matrix.reshape(1, case.kv_heads, -1, case.keys)
    elif fold and matrix.shape[2] > 1:
        matrix = np.tile(matrix, (1, 1, case.group, 1))
    return np.asarray(matrix.astype(dtypes.array_dtype(dtype)))


def folded_shape(case: Attention) -> tuple[int, int, int, int]:
    """Of q with the queries of all heads that share keys and values as rows of one head."""
    return case.batch, case.kv_heads, case.group * case.queries, case.depth
