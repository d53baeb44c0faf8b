"""Attention in the benchmark: the suites, and what they should reach."""

from transfuse.bench.attention_case import (
    OPTIONS,
    Attention,
    Option,
    inputs,
    output_shape,
    parse,
    reference,
)
from transfuse.bench.attention_forms import FORMS
from transfuse.bench.dtypes import HALF, PLAIN, QUANTISED
from transfuse.bench.goals import Goal
from transfuse.bench.operation import Operation

__all__ = ["GOALS", "OPERATION", "OPTIONS", "Attention", "parse"]

Cases = tuple[Attention, ...]


def _lengths(*lengths: int, heads: int, depth: int, option: Option = "", window: int = 0) -> Cases:
    return tuple(Attention(1, heads, length, depth, option=option, window=window) for length in lengths)


_TINY = _lengths(16, 64, 128, heads=1, depth=64)
_BERT = (
    Attention(1, 12, 128, 64, name="BERT base"),
    Attention(56, 12, 128, 64, name="BERT base, a batch"),
    Attention(20, 16, 384, 64, name="BERT large, a batch"),
)


def _long(depth: int, option: Option = "") -> Cases:
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

_MOST = 2**29
"""Bytes of keys and values in float32: each of the processes that are compared holds them, some of them twice."""


def _decode(heads: int, kv_heads: int, depth: int) -> Cases:
    """One query of each sequence on keys from 128 to 32768, as far as there is memory for them."""
    lengths = [(1, keys) for keys in (128, 512, 2048, 8192, 32768)] + [(8, keys) for keys in (128, 2048, 8192)]
    cases = (Attention(batch, heads, 1, depth, keys, kv_heads) for batch, keys in lengths)
    return tuple(case for case in cases if 8 * case.batch * case.keys * case.kv_heads * case.depth <= _MOST)


def _from(keys: int, cases: Cases) -> Cases:
    return tuple(case for case in cases if case.keys >= keys)


_GROUPED = _decode(32, 8, 128) + _decode(9, 3, 64)
_UNGROUPED = _decode(32, 32, 128)
_SINGLE = _GROUPED + _UNGROUPED
_SEVERAL = tuple(Attention(1, 32, queries, 128, 4096, 8, option="causal") for queries in (2, 4, 8, 16))
_RAGGED = (
    Attention(8, 32, 1, 128, 8192, 8, option="ragged"),
    Attention(8, 9, 64, 64, 8192, 3, option="ragged"),
)
_MODELS = (
    Attention(56, 8, 1024, 80, 77, name="cross attention"),
    Attention(4, 16, 32, 256, 33, name="GPT-J"),
    Attention(20, 48, 117, 128, kv_heads=1, name="multi-query"),
)

GOALS: dict[str, tuple[Goal[Attention], ...]] = {
    "full": (
        Goal("tiny", _TINY, each=2),
        Goal("models", _BERT, each=1.4, share=0.7),
        Goal("long", _long(64), each=1.3, share=0.78),
        Goal("long", _long(128), each=1.3, share=0.84),
        Goal("long", (*_long(64), *_long(128)), mean=1.5),
        Goal("long, 16 bits", (*_long(64), *_long(128)), gain=0.95, dtypes=HALF),
        Goal("causal", _long(64, "causal"), each=1.8, share=0.72),
        Goal("causal", _long(128, "causal"), each=1.8, share=0.78),
        Goal("options", _OPTIONS, mean=2),
    ),
    "decode": (
        Goal("grouped heads", _GROUPED, each=1, mean=1.8),
        Goal("as many heads", _UNGROUPED, each=1, mean=1.2),
        Goal("bandwidth", _from(2048, _SINGLE), limit="memory", share=0.85),
        Goal("16 bits", _SINGLE, gain=1.6, dtypes=HALF),
        Goal("16 bits", _from(2048, _SINGLE), limit="memory", share=0.8, dtypes=HALF),
        Goal("8 bits", _from(4096, _SINGLE), gain=2.2, dtypes=(QUANTISED,)),
        Goal("several queries", _SEVERAL, each=1.5),
        Goal("ragged", _RAGGED, each=1.5),
    ),
    "models": (Goal("models", _MODELS, each=1.3),),
}
"""What the suites should reach."""


def _cases_of(goals: tuple[Goal[Attention], ...]) -> Cases:
    return tuple(dict.fromkeys(case for goal in goals for case in goal.cases))


OPERATION = Operation(
    name="attention",
    title="Attention",
    sizes="batch×heads×length×depth",
    path=f"{__name__}:OPERATION",
    case=Attention,
    parse=parse,
    suites={
        "default": (*_TINY, *_BERT[:1], *_long(64), *_long(64, "causal")),
        "options": _OPTIONS,
        "demo": (_BERT[0], Attention(1, 12, 512, 64), Attention(1, 12, 512, 64, option="causal"), _OPTIONS[0]),
    }
    | {suite: _cases_of(goals) for suite, goals in GOALS.items()},
    goals=GOALS,
    inputs=inputs,
    output_shape=output_shape,
    reference=reference,
    forms=FORMS,
    dtypes=(*PLAIN, *HALF, QUANTISED),
)
