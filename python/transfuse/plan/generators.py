"""Graphs of language models, with times from a stated model of roofline and links."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from transfuse.plan.graph import Edge, Graph, Operation
from transfuse.plan.hardware import ACCELERATORS, Accelerator
from transfuse.plan.settings import integer


@dataclass(frozen=True)
class Model:
    """The sizes of a model; `transfuse.plan.transformer` has their meaning."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    block: str
    seq: int = 2048
    kv_heads: int | None = None


MODELS = {
    "llama2-7b": Model(32, 4096, 32, 11008, "llama", 4096),
    "llama2-13b": Model(40, 5120, 40, 13824, "llama", 4096),
    "llama3-8b": Model(32, 4096, 32, 14336, "llama", 8192, 8),
    "gpt2": Model(12, 768, 12, 3072, "gpt", 1024),
    "gpt2-xl": Model(48, 1600, 25, 6400, "gpt", 1024),
    "gpt3-175b": Model(96, 12288, 96, 49152, "gpt", 2048),
}
"""Published sizes: Touvron et al. 2023, Dubey et al. 2024, Radford et al. 2019, Brown et al. 2020."""


@dataclass(frozen=True)
class _Cost:
    """What an operation does for one micro-batch: products, bytes that pass memory, bytes of weights and of output.

    `split` is how many ways it can be cut (heads, columns, tokens).
    `exchanged` bytes pass the ring of a group `rounds` times at the end: once to gather an output, twice to sum it.
    """

    flops: float
    moved: float
    weights: float
    output: float
    split: int
    exchanged: float = 0.0
    rounds: int = 1


def transformer(
    layers: int,
    hidden: int,
    heads: int,
    ffn: int,
    seq: int,
    micro_batch: int = 1,
    *,
    accelerator: str | Accelerator = "A100-80GB",
    max_width: int = 8,
    block: str = "llama",
    kv_heads: int | None = None,
) -> Graph:
    """A stack of Transformer blocks as a graph of single operations, forward pass.

    Parameters
    ----------
    layers, hidden, heads, ffn, seq, micro_batch : int
        Blocks; width of the residual stream; attention heads; width of the feed-forward layer; tokens of a sequence;
        sequences in a micro-batch.
    accelerator : str or Accelerator
        A name in `ACCELERATORS`, or your own numbers.
    max_width : int
        Times are given for the widths 1, 2, 4, … up to this.
    block : {"llama", "gpt"}
        Llama: two RMS norms, q, k and v, rotary, attention, projection, two residual sums, gate, up, their product,
        down. GPT: two layer norms, q, k and v, attention, projection, two residual sums, up, GELU, down.
    kv_heads : int, optional
        Heads of k and v, if fewer (grouped queries).

    Returns
    -------
    Graph

    Notes
    -----
    On q accelerators an operation takes ``overhead + max(flops/(efficiency·peak), bytes/bandwidth)·share +
    communication``; the share is 1/q, or that of the fullest accelerator where heads do not divide evenly. Products are
    cut by columns (q, k, v, gate, up), heads (attention, rotary) or rows (projection, down), as in Megatron-LM (Shoeybi
    et al. 2019). Rows end with a ring all-reduce of the output, ``2(q−1)/q·bytes/link + 2(q−1)·latency``; norms and
    residual sums are cut by tokens, and gather their output, ``(q−1)/q·bytes/link + (q−1)·latency`` (sequence
    parallelism, Korthikanti et al. 2022).

    Examples
    --------
    >>> from transfuse.plan import transformer
    >>> graph = transformer(2, 4096, 32, 11008, 4096)
    >>> len(graph.operations), graph.operations[1].name, list(graph.operations[1].times)
    (28, 'block0.q', [1, 2, 4, 8])
    """
    chip = _accelerator(accelerator)
    kv_heads = heads if kv_heads is None else kv_heads
    for name, value in {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "ffn": ffn,
        "seq": seq,
        "micro_batch": micro_batch,
        "max_width": max_width,
    }.items():
        integer(name, value, 1)
    if hidden % heads:
        raise ValueError(f"hidden must be a multiple of heads, got {hidden} and {heads}")
    if heads % kv_heads:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}")
    if block not in _BLOCKS:
        raise ValueError(f"block must be one of {', '.join(_BLOCKS)}, got {block!r}")
    tokens = seq * micro_batch
    costs = _costs(hidden, heads, kv_heads, ffn, seq, tokens, chip.element, block)
    widths = [1 << k for k in range(max_width.bit_length())]
    times = {kind: {q: _seconds(cost, q, chip) for q in widths if q <= cost.split} for kind, cost in costs.items()}
    operations, edges = [], []
    stream: str | None = None
    for layer in range(layers):
        prefix = f"block{layer}."
        for kind, sources in _BLOCKS[block].items():
            cost = costs[kind]
            operations.append(Operation(prefix + kind, times[kind], kind, cost.output, cost.weights))
            for source in sources:
                before = stream if source == "in" else prefix + source
                if before is not None:
                    edges.append(Edge(before, prefix + kind, costs[source if source != "in" else "add_2"].output))
        stream = prefix + "add_2"
    return Graph(operations, edges)


def model(
    name: str, *, accelerator: str | Accelerator = "A100-80GB", max_width: int = 8, micro_batch: int = 1
) -> Graph:
    """The graph of a published model; see `MODELS` and `transformer`."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    found = MODELS[name]
    return transformer(
        found.layers,
        found.hidden,
        found.heads,
        found.ffn,
        found.seq,
        micro_batch,
        accelerator=accelerator,
        max_width=max_width,
        block=found.block,
        kv_heads=found.kv_heads,
    )


def random_graph(operations: int, *, max_width: int = 8, seed: int = 0) -> Graph:
    """A random graph whose operations speed up by Amdahl's law, each with a fraction of its own.

    Each operation reads one to three of the ten before it. Times at width 1 are lognormal with median 1 ms.
    """
    rng = random.Random(seed)
    widths = [1 << k for k in range(integer("max_width", max_width, 1).bit_length())]
    made, edges = [], []
    for i in range(integer("operations", operations, 1)):
        seconds, serial = 1e-3 * rng.lognormvariate(0, 1), rng.uniform(0.02, 0.5)
        times = {q: seconds * (serial + (1 - serial) / q) for q in widths}
        made.append(Operation(f"op{i}", times, f"kind{i % 7}", 1e6 * rng.random(), 1e7 * rng.random()))
        sources = rng.sample(range(max(0, i - 10), i), min(i, rng.randint(1, 3)))
        edges += [Edge(f"op{j}", f"op{i}", made[j].memory) for j in sorted(sources)]
    return Graph(made, edges)


_BLOCKS: dict[str, dict[str, Sequence[str]]] = {
    "llama": {
        "norm_1": ("in",),
        "q": ("norm_1",),
        "k": ("norm_1",),
        "v": ("norm_1",),
        "rotary": ("q", "k"),
        "attention": ("rotary", "v"),
        "projection": ("attention",),
        "add_1": ("in", "projection"),
        "norm_2": ("add_1",),
        "gate": ("norm_2",),
        "up": ("norm_2",),
        "multiply": ("gate", "up"),
        "down": ("multiply",),
        "add_2": ("add_1", "down"),
    },
    "gpt": {
        "norm_1": ("in",),
        "q": ("norm_1",),
        "k": ("norm_1",),
        "v": ("norm_1",),
        "attention": ("q", "k", "v"),
        "projection": ("attention",),
        "add_1": ("in", "projection"),
        "norm_2": ("add_1",),
        "up": ("norm_2",),
        "gelu": ("up",),
        "down": ("gelu",),
        "add_2": ("add_1", "down"),
    },
}


def _accelerator(given: str | Accelerator) -> Accelerator:
    if isinstance(given, Accelerator):
        return given
    if given not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}, got {given!r}")
    return ACCELERATORS[given]


def _costs(
    hidden: int, heads: int, kv_heads: int, ffn: int, seq: int, tokens: int, element: int, block: str
) -> dict[str, _Cost]:
    stream, inner = tokens * hidden * element, tokens * ffn * element
    narrow = hidden // heads * kv_heads
    kv = tokens * narrow * element

    def product(rows: int, columns: int, split: int, summed: float = 0.0) -> _Cost:
        weights, output = rows * columns * element, tokens * columns * element
        moved = weights + output + tokens * rows * element
        return _Cost(2.0 * tokens * rows * columns, moved, weights, output, split, summed, 2)

    norm = _Cost(5.0 * tokens * hidden, 2.0 * stream, hidden * element, stream, tokens, stream)
    add = _Cost(1.0 * tokens * hidden, 3.0 * stream, 0.0, stream, tokens, stream)
    # Causal: half of the pairs. A fused kernel passes only q, k, v and the output through memory.
    attention = _Cost(2.0 * tokens * seq * hidden, 2.0 * stream + 2 * kv, 0.0, stream, heads)
    found = {
        "norm_1": norm,
        "q": product(hidden, hidden, heads),
        "k": product(hidden, narrow, kv_heads),
        "v": product(hidden, narrow, kv_heads),
        "attention": attention,
        "projection": product(hidden, hidden, heads, stream),
        "add_1": add,
        "norm_2": norm,
        "up": product(hidden, ffn, ffn),
        "down": product(ffn, hidden, ffn, stream),
        "add_2": add,
    }
    if block == "gpt":
        return found | {"gelu": _Cost(10.0 * tokens * ffn, 2.0 * inner, 0.0, inner, ffn)}
    return found | {
        "rotary": _Cost(6.0 * tokens * (hidden + narrow), 2.0 * (stream + kv), 0.0, stream + kv, kv_heads),
        "gate": product(hidden, ffn, ffn),
        "multiply": _Cost(6.0 * tokens * ffn, 3.0 * inner, 0.0, inner, ffn),
    }


def _seconds(cost: _Cost, width: int, chip: Accelerator) -> float:
    largest = math.ceil(cost.split / width) / cost.split  # 25 heads on 8 accelerators: one of them has 4
    work = max(cost.flops / (chip.efficiency * chip.flops), cost.moved / chip.memory_bandwidth) * largest
    if width == 1 or not cost.exchanged:
        return chip.overhead + work
    round_ = (width - 1) / width * cost.exchanged / chip.link_bandwidth + (width - 1) * chip.link_latency
    return chip.overhead + work + cost.rounds * round_
