"""What a suite should reach, and which of its lines do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

import numpy as np
import rich.box
import rich.table
import rich.text

from transfuse.bench.dtypes import PLAIN
from transfuse.bench.operation import C
from transfuse.bench.report import Line, Report
from transfuse.bench.table import duration

MET = "met"
SHORT = "falls short"
COLORS = {MET: "green", SHORT: "red"}


@dataclass(frozen=True)
class Goal(Generic[C]):
    """What a group of cases should reach; None where nothing is asked.

    Attributes
    ----------
    name : str
    cases : tuple of Case
    each : float
        Ratio of every line; the upper end of its interval counts.
    mean : float
        Geometric mean of the ratios, for each dtype and thread count.
    limit : {"FMA", "memory"}
    share : float
        Part of `limit` that every line should reach.
    share_from : float
        Floating-point operations from which on `share` is asked.
    call : float
        Seconds of a call that allocates its result.
    like : Case
        Another case, whose time (of the same dtype and threads) no line should exceed by more than `within`.
    within : float
    gain : float
        How many times as fast as in float32 the same case should be in each of `dtypes`, both times ours.
    threads : {"one", "many"}
        Lines that it speaks of.
    dtypes : tuple of str
        The same.
    """

    name: str
    cases: tuple[C, ...]
    each: float | None = None
    mean: float | None = None
    limit: Literal["FMA", "memory"] = "FMA"
    share: float | None = None
    share_from: float = 0.0
    call: float | None = None
    like: C | None = None
    within: float = 0.10
    gain: float | None = None
    threads: Literal["one", "many"] | None = None
    dtypes: tuple[str, ...] = PLAIN

    def speaks_of(self, line: Line) -> bool:
        """The line is one of its cases, with a dtype and a number of threads that it is about."""
        wanted = self.threads is None or (line.threads == 1) == (self.threads == "one")
        return (
            wanted
            and line.dtype in self.dtypes
            and any(line.label == case.label and line.name == case.name for case in self.cases)
        )


@dataclass(frozen=True)
class Judgement:
    """A goal, a line (or the lines of one dtype and thread count), and whether it is met."""

    goal: str
    case: str
    dtype: str
    threads: int
    asked: str
    found: str
    verdict: str


def judge(report: Report, goals: tuple[Goal[Any], ...]) -> list[Judgement]:
    """Every demand on every line. A ratio meets its goal if the upper end of its interval does."""
    found = []
    for goal in goals:
        lines = [line for line in report.lines if goal.speaks_of(line)]
        for line in lines:
            found += [Judgement(goal.name, line.label, line.dtype, line.threads, *one) for one in _of_line(goal, line)]
            found += [
                Judgement(goal.name, line.label, line.dtype, line.threads, *one)
                for one in _of_pair(goal, line, report.lines)
            ]
        if goal.mean is None:
            continue
        for dtype, threads in dict.fromkeys((line.dtype, line.threads) for line in lines):
            ratios = [line.ratio(line.headline) for line in lines if (line.dtype, line.threads) == (dtype, threads)]
            values = [ratio.value for ratio in ratios if ratio is not None]
            if values:
                mean = float(np.exp(np.mean(np.log(values))))
                verdict = MET if mean >= goal.mean else SHORT
                case = f"geometric mean of {len(values)}"
                asked = f"ratio ≥ {goal.mean:g}"
                found.append(Judgement(goal.name, case, dtype, threads, asked, f"{mean:.2f}", verdict))
    return found


def _of_line(goal: Goal[Any], line: Line) -> list[tuple[str, str, str]]:
    """(asked, found, verdict) for what is asked of the line alone."""
    found = []
    ratio, ours = line.ratio(line.headline), line.ours(line.headline)
    if goal.each is not None:
        asked = f"ratio ≥ {goal.each:g}"
        if ratio is None:
            found.append((asked, line.verdict, SHORT))
        else:
            verdict = MET if ratio.high >= goal.each else SHORT
            found.append((asked, f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", verdict))
    if goal.share is not None and ours is not None and line.flops >= goal.share_from:
        share = line.share_of_peak(ours) if goal.limit == "FMA" else line.share_of_bandwidth(ours)
        if share is not None:
            verdict = MET if share >= goal.share else SHORT
            found.append((f"≥ {goal.share:.0%} {goal.limit}", f"{share:.0%}", verdict))
    allocated = line.ours("allocated")
    if goal.call is not None and allocated is not None:
        seconds = line.seconds_of(allocated)
        found.append((f"call ≤ {duration(goal.call)}", duration(seconds), MET if seconds <= goal.call else SHORT))
    return found


def _of_pair(goal: Goal[Any], line: Line, lines: list[Line]) -> list[tuple[str, str, str]]:
    """The same for what is asked of the line beside another: the case that it should be like, or itself in float32."""
    found = []
    if goal.like is not None and (times := _times(line, lines, goal.like.label, line.dtype)) is not None:
        verdict = MET if times <= 1 + goal.within else SHORT
        found.append((f"≤ {1 + goal.within:.2f} × {goal.like.label}", f"{times:.2f}", verdict))
    if goal.gain is not None and (times := _times(line, lines, line.label, "float32")) is not None:
        verdict = MET if 1 / times >= goal.gain else SHORT
        found.append((f"≥ {goal.gain:g} times as fast as float32", f"{1 / times:.2f}", verdict))
    return found


def _times(line: Line, lines: list[Line], label: str, dtype: str) -> float | None:
    """Our time over that of another line with as many threads; None if there is no such line."""
    for other in lines:
        same = (other.label, other.dtype, other.threads) == (label, dtype, line.threads)
        ours, its = line.ours(line.headline), other.ours(line.headline)
        if same and ours is not None and its is not None:
            return line.seconds_of(ours) / other.seconds_of(its)
    return None


def summary(judgements: Sequence[Judgement]) -> str:
    """How many of them are met, in words."""
    counts = {verdict: sum(one.verdict == verdict for one in judgements) for verdict in COLORS}
    return f"{len(judgements)} goals: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


_HEADINGS = ("goal", "case", "dtype", "threads", "asked", "found", "verdict")


def _cells(one: Judgement) -> dict[str, Any]:
    return {name: str(getattr(one, name)) for name in _HEADINGS}


def table(judgements: Sequence[Judgement]) -> rich.table.Table:
    """For a terminal."""
    shown = rich.table.Table(title="Goals", box=rich.box.SIMPLE_HEAD)
    for heading in _HEADINGS:
        shown.add_column(heading, no_wrap=heading == "verdict")
    for one in judgements:
        cells = _cells(one) | {"verdict": rich.text.Text(one.verdict, COLORS[one.verdict])}
        shown.add_row(*cells.values())
    return shown


def markdown(judgements: Sequence[Judgement]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS)]
    return "\n".join(lines + ["| " + " | ".join(_cells(one).values()) + " |" for one in judgements])
