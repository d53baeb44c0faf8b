"""Pictures and traces of plans."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.plan.graph import Operation
from transfuse.plan.settings import integer

if TYPE_CHECKING:
    from transfuse.plan.result import Plan

ENDINGS = (".svg", ".png", ".pdf")
LABELLED = 0.015  # of the picture's width: boxes narrower than this have no number in them
DISTINCT = 20  # colours; further kinds share the last one


@dataclass(frozen=True)
class Box:
    """An operation at work on an accelerator, as far as the picture shows it."""

    accelerator: int
    left: float
    right: float
    kind: str
    batch: int


def gantt(plan: "Plan", path: str | Path, *, periods: int = 3, title: str | None = None) -> None:
    """Draw several periods of the steady state.

    One row for each accelerator, one box for each operation, coloured by its kind; the number in a box is that of the
    micro-batch. One micro-batch is outlined and in full colour, so that its way through the accelerators can be seen.
    Dashed lines separate the periods.

    Parameters
    ----------
    plan : Plan
    path : str or Path
        Ends with .svg, .png or .pdf.
    periods : int
    title : str, optional

    Raises
    ------
    ValueError
        The path ends otherwise, or `periods` is below 1.
    """
    require_drawable(path)
    integer("periods", periods, 1)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = plan.settings.resources
    colors = _colors(plan)
    kinds = _drawn(plan, colors)
    figure = Figure(figsize=(12, min(20.0, max(2.0 + 0.34 * rows, 1.0 + 0.2 * len(kinds)))), layout="constrained")
    axes = figure.subplots()
    scale, unit = _unit(plan.period)
    end = periods * plan.period
    boxes = list(_boxes(plan, periods))
    followed = -min((box.batch for box in boxes), default=0)  # numbers in the picture start at 0
    for box in boxes:
        first = box.batch == 0
        axes.barh(
            box.accelerator,
            (box.right - box.left) * scale,
            left=box.left * scale,
            height=0.86,
            color=(*colors[box.kind], 1.0 if first else 0.5),
            edgecolor="black" if first else "white",
            linewidth=1.4 if first else 0.6,
            zorder=2 if first else 1,
        )
        if box.right - box.left > LABELLED * end:
            middle = (box.left + box.right) / 2 * scale
            axes.text(
                middle, box.accelerator, str(box.batch + followed), ha="center", va="center", fontsize=7, clip_on=True
            )
    for turn in range(periods + 1):
        axes.axvline(turn * plan.period * scale, color="black", linestyle="--", linewidth=0.7)
    axes.set_xlabel(f"time ({unit}); a new micro-batch enters every {plan.period * scale:.4g} {unit}: the dashed lines")
    axes.set_ylabel("accelerator" if not plan.settings.cpus else "accelerator, then CPU")
    title = title or f"{plan.mode}, {plan.accelerators} accelerators, period {plan.period * scale:.4g} {unit}"
    axes.set_title(
        f"{title}\nEach row is an accelerator, each box an operation on the micro-batch of that number.\n"
        f"Outlined: micro-batch {followed} on its way; later ones have higher numbers. White is idle.",
        fontsize=10,
        parse_math=False,
    )
    axes.set_xlim(0, (end or 1.0) * scale)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks(range(0, rows, 1 if rows <= 32 else 4))
    handles = [Patch(color=color, label=kind) for kind, color in kinds]
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path)


def require_drawable(path: str | Path) -> None:
    """ValueError if a path does not end with a format that can be drawn."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise ValueError(f"gantt: the path must end with {', '.join(ENDINGS)}, got {str(path)!r}")


def _kind(operation: Operation) -> str:
    return operation.kind or operation.name


def _timed(plan: "Plan") -> list[str]:
    """The kinds of the operations that take time."""
    found = [o for o in plan.graph.operations if plan.assignments[o.name].duration > 0]
    return list(dict.fromkeys(map(_kind, found)))


def _colors(plan: "Plan") -> dict[str, tuple[float, float, float]]:
    from matplotlib import colormaps

    palette = colormaps["tab20"]
    return {kind: palette(min(number, DISTINCT - 1))[:3] for number, kind in enumerate(_timed(plan))}


def _drawn(plan: "Plan", colors: dict[str, tuple[float, float, float]]) -> list[tuple[str, tuple[float, float, float]]]:
    """What the legend says."""
    kinds = _timed(plan)
    rest = len(kinds) - DISTINCT + 1
    if rest <= 1:
        return [(kind, colors[kind]) for kind in kinds]
    shown = [(kind, colors[kind]) for kind in kinds[: DISTINCT - 1]]
    return [*shown, (f"{rest} more kinds", colors[kinds[-1]])]


def _boxes(plan: "Plan", periods: int) -> Iterator[Box]:
    """What is at work in the periods in which the outlined micro-batch, number 0 here, has the most to do."""
    end = periods * plan.period
    shown = _first_period(plan, periods)
    for operation in plan.graph.operations:
        found = plan.assignments[operation.name]
        for turn in range(-found.replicas, periods):
            batch = shown + turn - found.shift
            begin = found.offset + turn * plan.period
            left, right = max(0.0, begin), min(end, begin + found.duration)
            if found.duration == 0 or right <= left:
                continue
            group = batch % found.replicas * found.width
            for accelerator in found.accelerators[group : group + found.width]:
                yield Box(accelerator, left, right, _kind(operation), batch)


def _first_period(plan: "Plan", periods: int) -> int:
    """The number of the first period that is drawn."""
    shifts = sorted(found.shift for found in plan.assignments.values() if found.duration > 0)
    if not shifts:
        return 0
    return max(range(shifts[-1] + 1), key=lambda first: sum(first <= shift < first + periods for shift in shifts))


def _unit(seconds: float) -> tuple[float, str]:
    return next(
        (factor, unit)
        for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))
        if seconds * factor >= 0.1 or unit == "µs"
    )


def perfetto(plan: "Plan", path: str | Path, *, micro_batches: int = 8) -> None:
    """Write the first micro-batches as trace events (Chrome's JSON), which Perfetto's viewer opens.

    Each accelerator is a thread; the arguments of an event name the micro-batch, the width and the kind.
    """
    integer("micro_batches", micro_batches, 1)
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"{plan.mode}, period {plan.period:.6g} s"}}
    ]
    for number in range(plan.settings.resources):
        name = f"accelerator {number}" if number < plan.accelerators else f"CPU {number - plan.accelerators}"
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": name}})
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}})
    for operation in plan.graph.operations:
        found = plan.assignments[operation.name]
        for batch in range(micro_batches):
            group = batch % found.replicas * found.width
            for accelerator in found.accelerators[group : group + found.width]:
                events.append(
                    {
                        "ph": "X",
                        "pid": 1,
                        "tid": accelerator,
                        "name": operation.name,
                        "cat": operation.kind or "operation",
                        "ts": (plan.start(operation.name) + batch * plan.period) * 1e6,
                        "dur": found.duration * 1e6,
                        "args": {"micro-batch": batch, "width": found.width, "kind": operation.kind},
                    }
                )
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    Path(path).write_text(text + "\n", encoding="utf-8")
