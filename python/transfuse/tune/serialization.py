"""Results of searches as JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from transfuse.bench.report import write_whole
from transfuse.bench.statistics import Estimate
from transfuse.tune.result import Candidate, Iteration, Observation, TuningResult

SCHEMA = 1
OBSERVATION = tuple(one.name for one in dataclasses.fields(Observation))
"""The columns of an observation: a result has thousands of them."""


def to_json(result: TuningResult, path: str | Path | None = None) -> str:
    """The text, which is also written to `path` if there is one. What is no number (yet) is null."""
    content = {"schema": SCHEMA} | {
        one.name: getattr(result, one.name) for one in dataclasses.fields(result) if one.name != "observations"
    }
    content |= {
        "best_seconds": result.best_seconds,
        "default_seconds": result.default_seconds,
        "break_even": result.break_even,
        "observations": {"columns": OBSERVATION, "rows": [_row(one) for one in result.observations]},
    }
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    if path is not None:
        write_whole(Path(path), text.encode() + b"\n")
    return text


def from_json(source: str | Path) -> TuningResult:
    """Read a file, or the text that :func:`to_json` returned.

    Raises
    ------
    ValueError
        It is none of a search, or of another version.
    """
    inside = isinstance(source, str) and source.lstrip().startswith("{")
    text = str(source) if inside else Path(source).read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA}")
        known = {one.name: content[one.name] for one in dataclasses.fields(TuningResult)}
        return TuningResult(
            **known
            | {
                "speedup": _estimate(known["speedup"]),
                "probability": _number(known["probability"]),
                "candidates": [Candidate(**one) for one in known["candidates"]],
                "history": [Iteration(**one | {"seconds": _number(one["seconds"])}) for one in known["history"]],
                "observations": [Observation(*row) for row in known["observations"]["rows"]],
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"not the JSON of a search: {reason}") from None


def _row(observation: Observation) -> list[Any]:
    return [getattr(observation, name) for name in OBSERVATION]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _estimate(known: dict[str, float | None]) -> Estimate:
    """A speed-up; of one that has a value, a bound that is no number is infinite."""
    value, low, high = (known[name] for name in ("value", "low", "high"))
    return Estimate(_number(value), _number(low), math.inf if high is None and value is not None else _number(high))


def _plain(value: Any) -> Any:
    """Values that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
