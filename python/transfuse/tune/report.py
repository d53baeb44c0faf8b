"""Results of searches and comparisons as tables, for terminals, notebooks and Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import rich.box
import rich.table

from transfuse.bench.statistics import Estimate
from transfuse.bench.table import NONE, duration
from transfuse.tune.space import Configuration

if TYPE_CHECKING:
    from transfuse.tune.comparison import ComparisonRow
    from transfuse.tune.result import Candidate, TuningResult
    from transfuse.tune.usual import Outcome

SHOWN = 20
"""Candidates in a table, besides the default."""
STOPPED = {
    "decided": "it was decided",
    "budget": "the budget was used up",
    "interrupted": "interrupted",
    "cap": "at the strategy's cap of measurements",
}


def configuration_text(configuration: Configuration) -> str:
    """A configuration in words: "block_kv 256, threads 2"."""
    return ", ".join(f"{name} {value}" for name, value in configuration.items()) or "no parameters"


def seconds_text(seconds: float | None) -> str:
    """A time with its unit, or that there is none."""
    return NONE if seconds is None or math.isnan(seconds) else duration(seconds)


def estimate_text(estimate: Estimate) -> str:
    """A ratio with its interval: "1.14 [1.10, 1.18]"."""
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]" if math.isfinite(estimate.value) else NONE


def summary(result: "TuningResult") -> rich.table.Table:
    """What a search has found, by name and value."""
    table = rich.table.Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in summary_rows(result):
        table.add_row(*row)
    return table


def summary_rows(result: "TuningResult") -> list[tuple[str, str]]:
    """The rows of :func:`summary`."""
    stays = result.best == result.default
    rows = [
        ("target", result.target),
        ("search", f"{result.strategy}, seed {result.seed}, confidence {result.confidence:.0%}, {result.cache} caches"),
        ("best", configuration_text(result.best) + " (the default)" * stays),
        ("time", seconds_text(result.best_seconds)),
    ]
    if not stays:
        rows += [
            ("default", f"{configuration_text(result.default)}: {seconds_text(result.default_seconds)}"),
            ("speed-up", f"{estimate_text(result.speedup)}, above 1 with probability {_probability(result)}"),
        ]
    elif result.leader != result.default:
        rows.append(("leader", f"{configuration_text(result.leader)}: not shown to be better than the default"))
    rows += [
        ("confirmed", "yes" if result.validated else "no: not by fresh measurements"),
        ("ties", _ties(result)),
        (
            "measured",
            f"{result.evaluations} of {len(result.candidates)} configurations, {result.measurements} measurements in "
            f"{len(result.history)} iterations, {duration(result.seconds)}",
        ),
        ("stopped", STOPPED[result.stopped]),
    ]
    if not stays:
        rows.append(("pays off", _calls(result.break_even)))
    return rows


def _probability(result: "TuningResult") -> str:
    return f"{result.probability:.1%}" if math.isfinite(result.probability) else "unknown"


def _ties(result: "TuningResult") -> str:
    others = [tie for tie in result.ties if tie != result.best]
    if not others:
        return "none"
    more = f", and {len(others) - 3} more" * (len(others) > 3)
    return f"{len(others)} as good: " + "; ".join(map(configuration_text, others[:3])) + more


def _calls(count: float) -> str:
    return f"after {math.ceil(count):,} calls" if math.isfinite(count) else "never: nothing was gained"


def ranked(result: "TuningResult") -> "list[Candidate]":
    """The candidates, fastest first; then those without a time."""
    return sorted(result.candidates, key=lambda one: math.inf if one.seconds is None else one.seconds)


def table(result: "TuningResult", limit: int = SHOWN) -> rich.table.Table:
    """The candidates of a search, fastest first.

    Raises
    ------
    ValueError
        `limit` is below 1.
    """
    # Four parameters in 80 columns.
    shown = rich.table.Table(title=result.target, box=rich.box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in _headings(result):
        remark = heading == "remark"
        shown.add_column(heading, justify="left" if remark else "right", no_wrap=not remark, overflow="fold")
    for row in _rows(result, limit):
        shown.add_row(*row)
    left = len(result.candidates) - shown.row_count
    if left:
        shown.caption = f"and {left} more"
    return shown


def markdown(result: "TuningResult", limit: int = SHOWN) -> str:
    """The same as Markdown."""
    return markdown_table(_headings(result), _rows(result, limit))


def _headings(result: "TuningResult") -> list[str]:
    return [*result.space, "time", "speed-up", "variation", "measured", "remark"]


def _rows(result: "TuningResult", limit: int) -> list[list[str]]:
    if limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    order = ranked(result)
    chosen = order[:limit] + [one for one in order[limit:] if one.configuration in (result.best, result.default)]
    return [_cells(result, one) for one in chosen]


def _cells(result: "TuningResult", candidate: "Candidate") -> list[str]:
    ratio = NONE if candidate.seconds is None else f"{result.default_seconds / candidate.seconds:.3f}"
    return [
        *(str(candidate.configuration.get(name, NONE)) for name in result.space),
        seconds_text(candidate.seconds),
        NONE if ratio == "nan" else ratio,
        f"{candidate.variation:.1%}" if candidate.measurements > 1 else NONE,
        str(candidate.measurements),
        ", ".join(_remarks(result, candidate)),
    ]


def _remarks(result: "TuningResult", candidate: "Candidate") -> list[str]:
    found = [
        name
        for name, configuration in (("best", result.best), ("default", result.default))
        if candidate.configuration == configuration
    ]
    if candidate.configuration in result.ties and "best" not in found:
        found.append("tie")
    if candidate.state != "measured":
        found.append(f"{candidate.state}: {candidate.reason}" if candidate.reason else candidate.state)
    return found


COMPARISON = (
    "landscape",
    "candidates",
    "strategy",
    "measurements",
    "evaluations",
    "regret, mean",
    "median",
    "95th percentile",
    "within 1 %",
    "within 2 %",
    "same answer",
    "not the default",
    "decided",
)
"""The headings of a comparison: how many measurements a strategy needs, and whether it finds the best."""


def comparison(rows: "Sequence[ComparisonRow]") -> rich.table.Table:
    """The table of ``transfuse tune compare``."""
    runs = max((row.runs for row in rows), default=0)
    shown = rich.table.Table(title=f"strategies on recorded landscapes, {runs} runs each", box=rich.box.SIMPLE_HEAD)
    for heading in COMPARISON:
        text = heading in ("landscape", "strategy")
        shown.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=text)
    last = ""
    for row in rows:
        if last and row.landscape != last:
            shown.add_section()
        shown.add_row(*_comparison_cells(row, repeat=row.landscape != last))
        last = row.landscape
    return shown


def comparison_markdown(rows: "Iterable[ComparisonRow]") -> str:
    """The same as Markdown."""
    return markdown_table(COMPARISON, [_comparison_cells(row) for row in rows])


def _comparison_cells(row: "ComparisonRow", *, repeat: bool = True) -> list[str]:
    return [
        row.landscape if repeat else "",
        str(row.candidates) if repeat else "",
        row.strategy,
        f"{row.measurements_median:.0f}",
        f"{row.evaluations_median:.0f}",
        f"{row.regret_mean:.2%}",
        f"{row.regret_median:.2%}",
        f"{row.regret_95:.2%}",
        f"{row.within_1:.0%}",
        f"{row.within_2:.0%}",
        f"{row.agreement:.0%}",
        f"{row.false_winners:.0%}",
        f"{row.finished:.0%}",
    ]


OUTCOMES = ("target", "default", "tuned", "before", "after", "before / after [95 %]", "verdict")
"""The headings of what ``transfuse tune all`` did."""


def outcomes(found: "Sequence[Outcome]") -> rich.table.Table:
    """The table of ``transfuse tune all``."""
    shown = rich.table.Table(title="before and after", box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in OUTCOMES:
        times = heading.startswith(("before", "after"))
        shown.add_column(heading, justify="right" if times else "left", no_wrap=times, overflow="fold")
    for one in found:
        shown.add_row(*_outcome_cells(one), style="green" if one.verdict == "faster" else None)
    return shown


def outcomes_markdown(found: "Sequence[Outcome]") -> str:
    """The same as Markdown."""
    return markdown_table(OUTCOMES, map(_outcome_cells, found))


def counts(found: "Sequence[Outcome]") -> str:
    """How many shapes got faster, and how many did not."""
    number = {verdict: sum(one.verdict == verdict for one in found) for verdict in VERDICTS}
    return "; ".join(
        f"{text}: {number[verdict]}" for verdict, text in VERDICTS.items() if number[verdict] or verdict == "faster"
    )


VERDICTS = {
    "faster": "faster",
    "here only": "faster, but not for shapes that would use it too, so the default stays",
    "default stays": "the default stays",
    "undecided": "undecided, so the default stays",
    "no choice": "nothing to choose, so the default stays",
    "no time": "too slow for this budget, so the default stays",
}


def _outcome_cells(one: "Outcome") -> list[str]:
    changed = {name: value for name, value in one.best.items() if value != one.default.get(name)}
    return [
        one.target.name,
        configuration_text({name: one.default[name] for name in changed}) if changed else "",
        configuration_text(changed) if changed else "",
        seconds_text(one.before),
        seconds_text(one.after),
        estimate_text(one.ratio) if changed else NONE,
        VERDICTS[one.verdict],
    ]


def outcome_record(one: "Outcome") -> dict[str, object]:
    """What became of a shape, for JSON."""
    return {
        "target": one.target.describe(),
        "default": one.default,
        "best": one.best,
        "before": None if math.isnan(one.before) else one.before,
        "after": None if math.isnan(one.after) else one.after,
        "ratio": [one.ratio.value, one.ratio.low, one.ratio.high],
        "verdict": one.verdict,
    }


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a Markdown table."""
    cells = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
