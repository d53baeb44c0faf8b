"""Attention as the benchmark sees it: every way in which NumPy, PyTorch and the others can compute it.

What a library can prepare once for many calls (masks and biases that it wants as a matrix, its own layout) is prepared
beforehand and not timed. No peer writes its result into a given array, so results are allocated on both sides.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfuse.bench.goals import Goal
from transfuse.bench.operation import Form, Operation

Option = Literal["", "causal", "window", "padding", "bias", "alibi", "softcap"]
OPTIONS: tuple[Option, ...] = ("", "causal", "window", "padding", "bias", "alibi", "softcap")
SOFTCAP = 50.0


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
    option : {"", "causal", "window", "padding", "bias", "alibi", "softcap"}
        "window": causal, each query sees `window` keys. "padding": sequences of different lengths, filled up. "bias": a
        number for each score. "softcap": of 50.
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
    def lengths(self) -> list[int]:
        """Keys of each sequence: with padding from half of all to all."""
        if self.option != "padding":
            return [self.keys] * self.batch
        return [max(1, round(self.keys * (0.5 + 0.5 * (i + 1) / self.batch))) for i in range(self.batch)]

    @property
    def distance(self) -> NDArray[np.int64]:
        """How far a query stands after a key, the last at the last: (queries, keys)."""
        return np.arange(self.queries)[:, None] + self.keys - self.queries - np.arange(self.keys)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which keys each query sees, padding aside: (queries, keys)."""
        if self.option not in ("causal", "window"):
            return np.ones((self.queries, self.keys), bool)
        distance = self.distance
        return (distance >= 0) & (distance < (self.window if self.option == "window" else self.keys))

    @property
    def flops(self) -> float:
        """Of the two products, for the pairs of a query and a key that it sees."""
        return 4.0 * self.scores * self.depth

    @property
    def scores(self) -> float:
        """Pairs of a query and a key that it sees, in all heads."""
        if self.option == "padding":
            pairs = self.queries * sum(self.lengths)
        elif self.option in ("causal", "window"):
            first = self.keys - self.queries
            longest = self.window if self.option == "window" else self.keys
            pairs = self.batch * sum(min(first + i + 1, longest) for i in range(self.queries))
        else:
            pairs = self.batch * self.queries * self.keys
        return float(self.heads * pairs)

    def traffic(self, itemsize: int) -> tuple[int, int]:
        """Read q, k, v (and the bias), write the result."""
        result = self.batch * self.heads * self.queries * self.depth
        read = result + 2 * self.batch * self.kv_heads * self.keys * self.depth
        if self.option == "bias":
            read += self.heads * self.queries * self.keys
        return read * itemsize, result * itemsize


def parse(text: str) -> Attention:
    """A case from "1x12x512x64" (batch, heads, length, depth) or "1x12x1x2048x64" (queries and keys apart); ":causal",
    ":window256", ":padding", ":bias", ":alibi" or ":softcap" may follow.

    Raises
    ------
    ValueError
    """
    expected = "sizes: expected BxHxLxD or BxHxLqxLkxD, each at least 1, and perhaps an option such as :causal"
    found = re.fullmatch(r"(\d+(?:[x×]\d+){3,4})(?::([a-z]+?)(\d+)?)?", text)
    if not found:
        raise ValueError(f"{expected}, got {text!r}")
    numbers = [int(number) for number in re.split("[x×]", found[1])]
    option = next((known for known in OPTIONS if known == (found[2] or "")), None)
    window = int(found[3] or 0)
    if min(numbers) < 1 or option is None or (option == "window") != (window > 0):
        raise ValueError(f"{expected}, got {text!r}")
    batch, heads, queries, *keys, depth = numbers
    if option in ("causal", "window") and keys and keys[0] < queries:
        raise ValueError(f"sizes: expected at least as many keys as queries with {option}, got {text!r}")
    return Attention(batch, heads, queries, depth, keys=keys[0] if keys else 0, option=option, window=window)


def slopes(heads: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Those of the paper on ALiBi: a geometric sequence."""
    return np.asarray(2.0 ** (-8.0 * (np.arange(heads) + 1) / heads)).astype(dtype, copy=False)


def _inputs(case: Attention, dtype: np.dtype[Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    def heads(count: int, length: int) -> NDArray[Any]:
        return rng.standard_normal((case.batch, count, length, case.depth), np.float32).astype(dtype)

    inputs = {"q": heads(case.heads, case.queries)}
    inputs |= {name: heads(case.kv_heads, case.keys) for name in "kv"}
    if case.option == "bias":
        shape = (1, case.heads, case.queries, case.keys)
        inputs["bias"] = rng.standard_normal(shape, np.float32).astype(dtype)
    return inputs


def _output_shape(case: Attention) -> tuple[int, ...]:
    return case.batch, case.heads, case.queries, case.depth


_ROWS = 512
"""Queries whose scores the reference holds at a time."""


def _reference(
    case: Attention, inputs: dict[str, NDArray[Any]], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], float]:
    """By the formula, in float64. A result may be off by (8 + √keys / 4 + largest logit) roundings, twice."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    group = case.heads // case.kv_heads
    seen, distance, slope = case.seen, np.abs(case.distance), slopes(case.heads)
    result = np.empty(_output_shape(case))
    largest = 0.0
    for batch, head, first in np.ndindex(case.batch, case.heads, -(-case.queries // _ROWS)):
        rows = slice(first * _ROWS, (first + 1) * _ROWS)
        scores = q[batch, head, rows] @ k[batch, head // group].T / math.sqrt(case.depth)
        if case.option == "softcap":
            scores = SOFTCAP * np.tanh(scores / SOFTCAP)
        elif case.option == "bias":
            scores = scores + inputs["bias"][0, head, rows]
        elif case.option == "alibi":
            scores = scores - slope[head] * distance[rows]
        largest = max(largest, float(np.abs(scores).max()))
        hidden = ~seen[rows] | (np.arange(case.keys) >= case.lengths[batch])
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result[batch, head, rows] = weights @ v[batch, head // group] / weights.sum(axis=-1, keepdims=True)
    tolerance = 2 * (8 + math.sqrt(case.keys) / 4 + largest) * float(np.finfo(dtype).eps) * float(np.abs(result).max())
    return result, tolerance


def _transfuse(case: Attention) -> list[Form]:
    setup, options = "", ""
    match case.option:
        case "causal":
            options = ", causal='lower_right'"
        case "window":
            options = f", causal='lower_right', window=({case.window - 1}, 0)"
        case "padding":
            setup, options = f"lengths = {case.lengths}", ", kv_lengths=lengths"
        case "bias":
            options = ", bias=bias"
        case "alibi":
            setup = f"slopes = attention.slopes({case.heads}, q.dtype)"
            options = ", alibi_slopes=slopes"
        case "softcap":
            options = f", softcap={SOFTCAP}"
    setup = "\n".join(filter(None, ["from transfuse.bench import attention", setup]))
    return [Form(f"transfuse.attention(q, k, v{options})", False, setup)]


def dense_bias(case: Attention, dtype: Any) -> NDArray[Any]:
    """What the options of a case add to each score, as a matrix that broadcasts to all scores; -inf for hidden keys."""
    if case.option == "alibi":
        matrix = (-slopes(case.heads)[:, None, None] * np.abs(case.distance))[None]
    elif case.option == "padding":
        matrix = np.where(np.arange(case.keys) < np.asarray(case.lengths)[:, None, None, None], 0, -np.inf)
    else:
        matrix = np.where(case.seen, 0, -np.inf)[None, None]
    return np.asarray(matrix.astype(dtype))


def _prepare(case: Attention, *, boolean: bool = False) -> str:
    """A setup that names the bias that a library without the case's option needs."""
    build = f"from transfuse.bench import attention\ncase = attention.{case!r}\n"
    if case.option == "bias":
        return "matrix = bias"
    matrix = "attention.dense_bias(case, np_dtype)"
    return build + (f"matrix = own({matrix} == 0)" if boolean else f"matrix = own({matrix})")


def _numpy(case: Attention) -> list[Form]:
    lines = ["scores = np.matmul(q, k_t)", f"scores *= {1 / math.sqrt(case.depth)!r}"]
    if case.option == "softcap":
        lines += [f"scores /= {SOFTCAP}", "np.tanh(scores, out=scores)", f"scores *= {SOFTCAP}"]
    elif case.option:
        lines += ["scores += matrix"]
    lines += [
        "scores -= scores.max(axis=-1, keepdims=True)",
        "np.exp(scores, out=scores)",
        "result = np.matmul(scores, v)",
        "result /= scores.sum(axis=-1, keepdims=True)",
        "return result",
    ]
    setup = ["own, np_dtype = np.asarray, q.dtype"]
    if case.option not in ("", "softcap"):
        setup.append(_prepare(case))
    group = case.heads // case.kv_heads
    if group > 1:
        setup.append(f"k, v = (np.repeat(x, {group}, axis=1) for x in (k, v))")
    setup += ["k_t = k.swapaxes(-1, -2)", "def f():", *(f"    {line}" for line in lines)]
    return [Form("f()", False, "\n".join(setup))]


def _torch(case: Attention) -> list[Form]:
    grouped = ", enable_gqa=True" if case.heads != case.kv_heads else ""
    sdpa = "torch.nn.functional.scaled_dot_product_attention"
    setup = ["import numpy as np", "own, np_dtype = torch.from_numpy, q.numpy().dtype"]
    if case.option == "":
        return [Form(f"{sdpa}(q, k, v{grouped})", False)]
    if case.option == "causal" and case.queries == case.keys:
        return [Form(f"{sdpa}(q, k, v, is_causal=True{grouped})", False)]
    if case.option == "softcap":
        body = [
            f"scores = torch.matmul(q, k_t).mul_({1 / math.sqrt(case.depth) / SOFTCAP!r}).tanh_().mul_({SOFTCAP})",
            "return torch.matmul(torch.softmax(scores, -1), v)",
        ]
        group = case.heads // case.kv_heads
        repeat = [f"k, v = (x.repeat_interleave({group}, 1) for x in (k, v))"] if group > 1 else []
        lines = [*repeat, "k_t = k.transpose(-1, -2)", "def f():", *(f"    {line}" for line in body)]
        return [Form("f()", False, "\n".join(lines))]
    forms = [Form(f"{sdpa}(q, k, v, attn_mask=matrix{grouped})", False, "\n".join([*setup, _prepare(case)]))]
    if case.option in ("causal", "window", "padding"):
        boolean = "\n".join([*setup, _prepare(case, boolean=True)])
        forms.append(Form(f"{sdpa}(q, k, v, attn_mask=matrix{grouped})", False, boolean))
    return forms


def _stacks(case: Attention, function: str, imports: str = "") -> list[Form]:
    """A compiled kernel for stacks of heads, without options but the causal one."""
    if case.option not in ("", "causal") or (case.option and case.queries != case.keys):
        return []
    causal = case.option == "causal"
    setup = [
        imports,
        "q3, k3, v3 = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))",
        f"f = lambda: np.asarray({function}(q3, k3, v3, {causal}, np.empty_like(q3))).reshape(q.shape)",
        "f()",
    ]
    return [Form("f()", False, "\n".join(filter(None, setup)))]


def _numba(case: Attention) -> list[Form]:
    return _stacks(case, "numba_attention.attention", "from transfuse.bench.peers import numba_attention")


def _cython(case: Attention) -> list[Form]:
    return _stacks(case, "kernels.attention_blocked")


def _onnxruntime(case: Attention) -> list[Form]:
    """MultiHeadAttention, whose operands are (batch, length, heads · depth)."""
    if case.option == "softcap" or case.heads != case.kv_heads:
        return []
    setup = ["own, np_dtype = np.asarray, q.dtype"]
    causal = case.option == "causal" and case.queries == case.keys
    if case.option and not causal:
        setup.append(_prepare(case))
    bias = "matrix" if case.option and not causal else "None"
    setup.append(f"f = onnx_attention.attention(q, k, v, {bias}, causal={causal}, threads=threads)")
    return [Form("f()", False, "\n".join(setup))]


def _jax(case: Attention) -> list[Form]:
    options = {
        "": "",
        "causal": "is_causal=True",
        "window": f"is_causal=True, local_window_size=({case.window - 1}, 0)",
        "padding": "key_value_seq_lengths=lengths",
        "bias": "bias=bias",
        "alibi": "bias=matrix",
    }
    if case.option not in options or (case.queries != case.keys and case.option in ("causal", "window")):
        return []
    setup = ["import numpy as np", "own, np_dtype = jax.device_put, np.dtype(q.dtype)"]
    if case.option == "alibi":
        setup.append(_prepare(case))
    if case.option == "padding":
        setup.append(f"lengths = jnp.asarray({case.lengths}, jnp.int32)")
    setup += [
        "qt, kt, vt = (jax.block_until_ready(jnp.swapaxes(x, 1, 2)) for x in (q, k, v))",
        f"f = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, {options[case.option]}))",
        "g = lambda: np.asarray(f(qt, kt, vt)).swapaxes(1, 2)",
        "g()",
    ]
    return [Form("g()", False, "\n".join(setup))]


def _lengths(*lengths: int, heads: int, depth: int, option: Option = "", window: int = 0) -> tuple[Attention, ...]:
    return tuple(Attention(1, heads, length, depth, option=option, window=window) for length in lengths)


_TINY = _lengths(16, 64, 128, heads=1, depth=64)
_MODELS = (
    Attention(1, 12, 128, 64, name="BERT base"),
    Attention(56, 12, 128, 64, name="BERT base, a batch"),
    Attention(20, 16, 384, 64, name="BERT large, a batch"),
)


def _long(depth: int, option: Option = "") -> tuple[Attention, ...]:
    """From one short head to twelve long ones."""
    heads = ((512, 12), (1024, 4), (2048, 2), (4096, 1))
    return tuple(Attention(1, count, length, depth, option=option) for length, count in heads)


_OPTIONS = (
    Attention(1, 2, 4096, 64, option="window", window=256),
    Attention(8, 12, 512, 64, option="padding"),
    Attention(1, 12, 512, 64, option="bias"),
    Attention(1, 12, 512, 64, option="alibi"),
    Attention(1, 12, 512, 64, option="softcap"),
)

GOALS: tuple[Goal[Attention], ...] = (
    Goal("tiny", _TINY, each=2),
    Goal("models", _MODELS, each=1.4, share=0.7),
    Goal("long", _long(64), each=1.3, share=0.78),
    Goal("long", _long(128), each=1.3, share=0.84),
    Goal("long", (*_long(64), *_long(128)), mean=1.5),
    Goal("causal", _long(64, "causal"), each=1.8, share=0.72),
    Goal("causal", _long(128, "causal"), each=1.8, share=0.78),
    Goal("options", _OPTIONS, mean=2),
)
"""What the suite "full" should reach in float32."""

OPERATION = Operation(
    name="attention",
    title="Attention",
    sizes="batch×heads×length×depth",
    path=f"{__name__}:OPERATION",
    case=Attention,
    parse=parse,
    suites={
        "default": (*_TINY, *_MODELS[:1], *_long(64), *_long(64, "causal")),
        "options": _OPTIONS,
        "full": tuple(dict.fromkeys(case for goal in GOALS for case in goal.cases)),
        "demo": (_MODELS[0], Attention(1, 12, 512, 64), Attention(1, 12, 512, 64, option="causal"), _OPTIONS[0]),
    },
    goals={"full": GOALS},
    inputs=_inputs,
    output_shape=_output_shape,
    reference=_reference,
    forms={
        "transfuse": _transfuse,
        "numpy": _numpy,
        "torch": _torch,
        "numba": _numba,
        "onnxruntime": _onnxruntime,
        "jax": _jax,
        "cython": _cython,
    },
)
