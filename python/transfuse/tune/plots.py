"""Pictures of searches and comparisons. They use Matplotlib without pyplot, so that no backend is chosen or changed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.report import configuration_text
from transfuse.tune.space import Configuration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from transfuse.tune.comparison import ComparisonRow
    from transfuse.tune.result import TuningResult

# Okabe and Ito, Color Universal Design; and a marker each.
STRATEGIES = {
    "grid": ("#000000", "s"),
    "exhaustive": ("#0072B2", "^"),
    "adaptive": ("#009E73", "D"),
    "genetic": ("#CC79A7", "v"),
    "halving": ("#E69F00", "P"),
    "race": ("#D55E00", "o"),
    "random": ("#56B4E9", "X"),
}
SEARCH, VALIDATION = "#56B4E9", "#E69F00"
MISSING = "#CCCCCC"
LABELLED = 150
"""Cells of a heatmap that have their numbers in them."""
TICKS = 24
"""Labels that an axis of a heatmap has room for."""
LEAST_REGRET = 1e-4
"""What is nearer to the best is drawn here: 0 has no place on a logarithmic axis."""


def new_axes(width: float = 8.0, height: float = 4.5) -> "Axes":
    """Axes of a figure of their own.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    """
    return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> "Figure":
    """A figure that belongs to no backend.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("drawing needs matplotlib (pip install transfuse[tune])") from None
    return Figure(figsize=(width, height), layout="constrained")


def plot_measures(result: "TuningResult", axes: "Axes | None" = None) -> "Axes":
    """Bars of the measurements of each iteration, and the number of candidates that can still win."""
    axes = axes or new_axes()
    width = 0.85 if len(result.history) <= 100 else 1.0
    for phase, color in (("search", SEARCH), ("validation", VALIDATION)):
        chosen = [one for one in result.history if one.phase == phase]
        if chosen:
            axes.bar(
                [one.iteration for one in chosen],
                [one.measurements for one in chosen],
                width,
                color=color,
                label=f"measurements ({phase})",
            )
    searched = [one for one in result.history if one.phase == "search"]
    axes.plot(
        [one.iteration for one in searched],
        [one.alive for one in searched],
        color="#D55E00",
        marker="." if len(searched) <= 100 else None,
        label="candidates alive",
    )
    axes.set(
        xlabel="iteration",
        ylabel="measurements, candidates",
        title=f"{_title(result)}: {result.measurements} measurements",
    )
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_whole_numbers())
    axes.grid(alpha=0.3, axis="y")
    axes.legend(frameon=False, fontsize="small")
    return axes


def plot_convergence(result: "TuningResult", axes: "Axes | None" = None) -> "Axes":
    """The leader's time against the measurements made so far; marks show where another candidate took the lead."""
    axes = axes or new_axes()
    known = [(place, one) for place, one in zip(_totals(result), result.history, strict=True) if one.seconds > 0]
    default = result.default_seconds
    scale, unit = _unit([one.seconds for _, one in known] + [default])
    places, times = [place for place, _ in known], [one.seconds * scale for _, one in known]
    axes.plot(places, times, color="#0072B2", drawstyle="steps-post", label="the leader's median")
    changes = [i for i in range(len(known)) if i == 0 or known[i][1].best != known[i - 1][1].best]
    axes.plot([places[i] for i in changes], [times[i] for i in changes], "o", color="#0072B2", label="another leads")
    if default > 0:
        axes.axhline(default * scale, color="black", linestyle="--", linewidth=1, label="the default")
    fresh = [place for place, one in known if one.phase == "validation"]
    if fresh:
        axes.axvspan(fresh[0], places[-1], color=VALIDATION, alpha=0.2, label="fresh samples")
    axes.set(
        xlabel="measurements",
        ylabel=f"time of a call ({unit})",
        title=f"{_title(result)}\nbest: {configuration_text(result.best)}",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return axes


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def _totals(result: "TuningResult") -> list[int]:
    """Measurements until the end of each iteration."""
    return np.cumsum([one.measurements for one in result.history]).tolist() if result.history else []


def plot_heatmap(
    result: "TuningResult", x: str | None = None, y: str | None = None, axes: "Axes | None" = None
) -> "Axes":
    """The time of a call for each pair of values of two parameters.

    Where there are more parameters, a cell is the least over them. Cells without a measurement are grey. A frame marks
    the best, a dashed one the default.

    Parameters
    ----------
    result : TuningResult
    x, y : str, optional
        Parameters; without them those with the most values.
    axes : Axes, optional

    Raises
    ------
    ValueError
        There is no such parameter, or both are the same.
    """
    x, y = _parameters(result, x, y)
    columns, rows = result.space[x], result.space[y] if y else [None]
    grid = np.full((len(rows), len(columns)), np.nan)
    for candidate in result.candidates:
        place = _cell(candidate.configuration, x, y, columns, rows)
        if place is not None and candidate.seconds is not None:
            grid[place] = np.fmin(grid[place], candidate.seconds)
    scale, unit = _unit(grid[np.isfinite(grid)].tolist())
    axes = axes or new_axes(max(5.0, 1.6 + 0.75 * min(len(columns), 16)), max(3.0, 1.6 + 0.45 * min(len(rows), 16)))
    _draw_cells(axes, grid * scale, unit)
    for configuration, line in ((result.default, "--"), (result.best, "-")):
        place = _cell(configuration, x, y, columns, rows)
        if place is not None:
            _frame(axes, *place, line)
    _label(axes.xaxis, columns)
    _label(axes.yaxis, rows if y else [""])
    others = [name for name in result.space if name not in (x, y) and len(result.space[name]) > 1]
    rest = f"\nleast over {', '.join(others)}" if others else ""
    axes.set(
        xlabel=x, ylabel=y or "", title=f"{_title(result)}{rest}\nframe: best; dashed: default; grey: not measured"
    )
    return axes


def _parameters(result: "TuningResult", x: str | None, y: str | None) -> tuple[str, str | None]:
    """Which parameters are drawn."""
    for option, name in (("x", x), ("y", y)):
        if name is not None and name not in result.space:
            raise ValueError(f"{option}: expected one of {', '.join(result.space)}, got {name!r}")
    if x is not None and x == y:
        raise ValueError(f"y: expected another parameter than x, got {y!r}")
    free = sorted((name for name in result.space if name not in (x, y)), key=lambda name: -len(result.space[name]))
    if x is None:
        x = free.pop(0)
    if y is None and free:
        y = free[0]
    return x, y


def _cell(
    configuration: Configuration, x: str, y: str | None, columns: Sequence[Any], rows: Sequence[Any]
) -> tuple[int, int] | None:
    """Row and column of a configuration; None if one of its values is outside the space."""
    values = configuration.get(x), configuration.get(y) if y else None
    return (rows.index(values[1]), columns.index(values[0])) if values[0] in columns and values[1] in rows else None


def _draw_cells(axes: "Axes", grid: NDArray[np.float64], unit: str) -> None:
    """The cells with a colour bar and, if they are few, their numbers; bright is fast."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogFormatter

    known = grid[np.isfinite(grid)]
    low, high = (known.min(), known.max()) if known.size else (1.0, 1.0)
    wide = high > 3 * low
    norm = LogNorm(low, high) if wide else Normalize(low, max(high, low * 1.001))
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap=colormaps["viridis_r"].with_extremes(bad=MISSING), norm=norm, aspect="auto"
    )
    bar = axes.figure.colorbar(image, ax=axes, label=f"time of a call ({unit})")
    if wide:
        bar.ax.yaxis.set_major_formatter(LogFormatter())
        bar.ax.yaxis.set_minor_formatter(LogFormatter())
    if grid.size > LABELLED:
        return
    for row, column in zip(*np.nonzero(np.isfinite(grid)), strict=True):
        color = "white" if norm(grid[row, column]) > 0.5 else "black"
        axes.text(column, row, _digits(grid[row, column]), ha="center", va="center", color=color, fontsize="small")


def _digits(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def _frame(axes: "Axes", row: int, column: int, line: str) -> None:
    from matplotlib.patches import Rectangle

    shape = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.5)
    shape.set_linestyle(line)
    axes.add_patch(shape)


def _label(axis: Any, values: Sequence[Any]) -> None:
    """The values beside their cells, every so many of them if they are too many."""
    step = -(-len(values) // TICKS)
    axis.set_ticks(range(0, len(values), step), [str(value) for value in values[::step]], parse_math=False)


def _title(result: "TuningResult") -> str:
    return f"{result.target}, {result.strategy}"


def _unit(seconds: Sequence[float]) -> tuple[float, str]:
    """A unit in which the least of the times is at least 1, and how many of it a second has."""
    least = min((one for one in seconds if one > 0), default=1.0)
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if least * factor >= 1:
            return factor, unit
    return 1e9, "ns"


def overview(result: "TuningResult") -> "Figure":
    """Measurements per iteration, convergence and the heatmap in one picture."""
    figure = new_figure(15, 9)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.3])
    plot_measures(result, figure.add_subplot(grid[0, 0]))
    plot_convergence(result, figure.add_subplot(grid[1, 0]))
    plot_heatmap(result, axes=figure.add_subplot(grid[:, 1]))
    return figure


def comparison(rows: "Sequence[ComparisonRow]") -> "Figure":
    """Regret against measurements of every strategy, one panel for each landscape.

    A large mark stands at a strategy's medians, a small one at each of its runs. Left is cheap, low is good.

    Raises
    ------
    ValueError
        There are no rows.
    """
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    names = list(dict.fromkeys(row.landscape for row in rows))
    across = min(len(names), 2 if len(names) <= 4 else 3)
    down = math.ceil(len(names) / across)
    figure = new_figure(6.0 * across, 4.2 * down + 0.6)
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        chosen = [row for row in rows if row.landscape == name]
        for row in chosen:
            _draw_runs(axes, row)
        axes.axhline(0.01, color="black", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", title=f"{name}, {chosen[0].candidates} configurations")
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.remove()
    for axes in panels[: len(names)]:
        axes.set_xlabel("measurements")
        axes.xaxis.set_major_locator(_ones_twos_fives())
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter(lambda value, _: _percent(value))
    for axes in panels[::across]:
        axes.set_ylabel("slower than the true best")
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"What a strategy costs and how good its answer is, {rows[0].runs} runs each (dotted: 1 %)")
    return figure


def _ones_twos_fives() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0))


def _percent(share: float) -> str:
    least = "≤ " if share < 1.01 * LEAST_REGRET else ""
    return f"{least}{share:.2%}" if share < 0.0099 else f"{share:.0%}"


def _draw_runs(axes: "Axes", row: "ComparisonRow") -> None:
    color, marker = STRATEGIES.get(row.strategy, ("#7F7F7F", "h"))
    if row.measurements_median == 0:  # which has no place on the axis
        axes.axhline(max(row.regret_median, LEAST_REGRET), color=color, linestyle="--", linewidth=1, label=row.strategy)
        return
    regrets = np.maximum(row.regrets, LEAST_REGRET)
    axes.scatter(row.measurements, regrets, s=14, color=color, marker=marker, alpha=0.3, linewidths=0)
    middle = max(float(np.median(row.regrets)), LEAST_REGRET)
    axes.scatter(
        [float(np.median(row.measurements))],
        [middle],
        s=110,
        color=color,
        marker=marker,
        edgecolors="white",
        zorder=3,
        label=row.strategy,
    )
