"""A plan and the cases as tables."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import rich.box
import rich.table

from transfuse.bench.table import duration

if TYPE_CHECKING:
    from transfuse.plan.cases import Outcome
    from transfuse.plan.result import Plan


def summary(plan: "Plan") -> rich.table.Table:
    """What a plan achieves, by name and value."""
    busy = plan.busy[: plan.accelerators]
    table = rich.table.Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    settings = plan.settings
    rows = [
        ("graph", f"{len(plan.graph.operations)} operations, {len(plan.graph.edges)} edges"),
        ("question", f"{plan.mode} on {plan.accelerators} accelerators, communication: {settings.cost_model}"),
        ("period", f"{duration(plan.period)} ({_rate(plan.period)} micro-batches/s)"),
        ("lower bound", f"{duration(plan.lower_bound)} ({plan.bound})"),
        ("gap", "0: optimal" if plan.optimal else _gap(plan)),
        ("latency", f"{duration(plan.latency)}, {plan.in_flight} micro-batches in flight"),
        ("busy", f"{sum(busy) / len(busy):.1%} on average, {min(busy):.1%} at least"),
        ("memory", f"{_bytes(max(plan.peak_memory))} on the fullest accelerator"),
        ("found by", f"{plan.method}, in {plan.seconds:.1f} s"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def outcomes(found: "Iterable[Outcome]") -> rich.table.Table:
    """The table of ``transfuse bench plan``."""
    table = rich.table.Table(box=rich.box.SIMPLE)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("case", "bound by") else "right")
    for outcome in found:
        style = None if outcome.reached else "red"
        table.add_row(*cells(outcome), style=style)
    return table


HEADINGS = ("case", "period", "bound", "bound by", "gap", "seconds", "target", "reached")


def cells(outcome: "Outcome") -> list[str]:
    """The texts of a case's row."""
    plan = outcome.plan
    return [
        outcome.case.name,
        f"{plan.period:.7g}",
        f"{plan.lower_bound:.7g}",
        plan.bound,
        "0" if plan.optimal else _gap(plan),
        f"{plan.seconds:.1f}",
        outcome.target,
        "yes" if outcome.reached else "no",
    ]


def markdown(found: "Iterable[Outcome]") -> str:
    """The same as Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(cells(outcome) for outcome in found)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _gap(plan: "Plan") -> str:
    return f"{plan.gap:.3%}" if math.isfinite(plan.gap) else "unknown"


def _rate(period: float) -> str:
    return f"{1 / period:.4g}" if period > 0 else "∞"


def _bytes(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"
