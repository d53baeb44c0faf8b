"""Pictures of a report: time against size, and the ratios. Colours and markers that the colour-blind can tell apart."""

import io
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfuse.bench.measure import threads_text
from transfuse.bench.report import OURS, Line, Report, write_whole
from transfuse.bench.table import library_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design, and one of Tol's; and a marker each.
STYLES = {
    "transfuse": ("#D55E00", "o"),
    "numpy": ("#0072B2", "s"),
    "torch": ("#009E73", "^"),
    "numba": ("#E69F00", "D"),
    "tensorflow": ("#CC79A7", "v"),
    "jax": ("#56B4E9", "P"),
    "onnxruntime": ("#882255", "p"),
    "cython": ("#000000", "X"),
    "cython-loops": ("#7F7F7F", "*"),
}
RATIO_TICKS = [0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50]
FEWEST_SQUARES = 3
"""Squares from which on the time is drawn against the size."""


def figure(*reports: Report) -> "Figure":
    """Time against size where there are enough squares, and the ratio of every line with its interval.

    One row per (report, dtype, thread count).

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    ValueError
        The reports have no lines.
    """
    from matplotlib.figure import Figure

    groups: dict[str, list[Line]] = defaultdict(list)
    for report in reports:
        for line in report.lines:
            groups[f"{report.title}, {line.dtype}, {threads_text(line.threads)}"].append(line)
    if not groups:
        raise ValueError("report: expected at least one line, got none")
    curves = [len(squares(lines)) >= FEWEST_SQUARES for lines in groups.values()]
    heights = [
        max(4.2 if curve else 2.4, 0.25 * len(lines) + 1.6)
        for curve, lines in zip(curves, groups.values(), strict=True)
    ]
    canvas = Figure(figsize=(12 if any(curves) else 8, sum(heights)), layout="constrained")
    grid = canvas.add_gridspec(len(groups), 2, height_ratios=heights)
    for row, (curve, (title, lines)) in enumerate(zip(curves, groups.items(), strict=True)):
        if curve:
            times = canvas.add_subplot(grid[row, 0])
            draw_times(times, squares(lines))
            times.set_title(title)
        ratios = canvas.add_subplot(grid[row, 1:] if curve else grid[row, :])
        draw_ratios(ratios, lines)
        ratios.set_title("against the fastest peer of each line" if curve else title)
    return canvas


def save(path: Path, *reports: Report) -> None:
    """Write :func:`figure` to a file."""
    save_figure(path, figure(*reports))


def save_figure(path: Path, drawn: "Figure") -> None:
    """Write a picture to a file, at once or not at all; the suffix chooses the format."""
    content = io.BytesIO()
    drawn.savefig(content, dpi=110, format=path.suffix.lstrip("."))
    write_whole(path, content.getvalue())


def squares(lines: list[Line]) -> list[Line]:
    """The lines whose sizes are all the same, by size."""
    return sorted((line for line in lines if len(set(line.sizes)) == 1), key=lambda line: line.sizes)


def fastest_seconds(line: Line, library: str) -> float:
    """A library's best median with the result allocated, which every library can do; NaN if it has none."""
    seconds = [
        line.seconds_of(entry)
        for entry in line.entries
        if entry.library == library and not entry.writes_out and entry.state in ("measured", "left")
    ]
    return min((one for one in seconds if not np.isnan(one)), default=float("nan"))


def draw_times(axes: "Axes", lines: list[Line], *, dimension: int = -1, label: str = "M = K = N") -> None:
    """Time of each library's best form against one of the sizes, which is called `label`; both logarithmic."""
    sizes = [line.sizes[dimension] for line in lines]
    names = dict.fromkeys(entry.library for line in lines for entry in line.entries)
    for name in sorted(names, key=lambda name: name != OURS):
        seconds = np.array([fastest_seconds(line, name) for line in lines])
        if np.isnan(seconds).all():
            continue
        color, marker = style(name)
        axes.plot(
            sizes,
            seconds,
            color=color,
            marker=marker,
            markersize=6,
            linewidth=2.5 if name == OURS else 1.3,
            zorder=3 if name == OURS else 2,
            label=library_label(name),
        )
        _mark_stopped(axes, lines, sizes, name, seconds, color)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds per call, result allocated, best form")
    axes.xaxis.set_major_locator(_ticks(sizes))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.minorticks_off()
    axes.tick_params(axis="x", labelrotation=45)
    axes.grid(alpha=0.3)
    if axes.get_lines():
        axes.legend(frameon=False, fontsize="small")


def _ticks(places: list[int] | list[float]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(places)


def _mark_stopped(
    axes: "Axes", lines: list[Line], sizes: list[int], name: str, seconds: NDArray[np.float64], color: str
) -> None:
    """Say at the end of a curve that the library was stopped."""
    stopped = [
        all(entry.state == "stopped" for entry in line.entries if entry.library == name)
        and any(entry.library == name for entry in line.entries)
        for line in lines
    ]
    known = np.flatnonzero(~np.isnan(seconds))
    if any(stopped) and known.size:
        last = int(known[-1])
        axes.annotate(
            "stopped: over 5 s",
            (sizes[last], seconds[last]),
            xytext=(-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize="x-small",
            color=color,
        )


def draw_ratios(axes: "Axes", lines: list[Line]) -> None:
    """How many times faster than the fastest peer, with the 95 % interval; its name beside it."""
    for height, line in enumerate(reversed(lines)):
        ratio, peer = line.ratio(line.headline), line.fastest_peer(line.headline)
        if ratio is None or peer is None:
            continue
        color, marker = style(peer.library)
        axes.barh(height, ratio.value - 1, left=1, color=color, alpha=0.35, height=0.7)
        axes.errorbar(
            ratio.value,
            height,
            xerr=[[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]],
            color=color,
            marker=marker,
            capsize=3,
        )
        axes.annotate(
            f"{ratio.value:.2f}  {library_label(peer.library)}",
            (max(ratio.high, 1.0), height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="x-small",
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(lines)), [f"{line.label} {line.name}".strip() for line in reversed(lines)])
    axes.set(xscale="log", xlabel="times as fast as the fastest peer, 95 % interval\n(left of 1: slower)")
    low, high = axes.get_xlim()
    low, high = min(low, 0.7), max(high, 1.5) * 1.6
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(_ticks([tick for tick in RATIO_TICKS if low <= tick <= high]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()
    axes.grid(alpha=0.3, axis="x")


def style(library: str) -> tuple[str, str]:
    """Colour and marker."""
    return STYLES.get(library, ("#7F7F7F", "h"))
