"""What a terminal shows while a search runs."""

import math

import rich.console
import rich.progress_bar
import rich.table

from transfuse.bench.table import duration
from transfuse.tune.loop import Progress
from transfuse.tune.report import configuration_text, seconds_text

BAR = 30
PHASES = {
    "checking": "checking outputs",
    "search": "searching",
    "validation": "measuring the winner and the default anew",
    "done": "done",
}


def view(progress: Progress) -> rich.console.RenderableType:
    """The best so far, the candidates that are alive, and the time that is left."""
    grid = rich.table.Table.grid(padding=(0, 1))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    grid.add_row(progress.strategy, f"{progress.target}: {PHASES[progress.phase]}, iteration {progress.iteration}")
    grid.add_row(
        "best", f"{seconds_text(progress.best_seconds)} with {configuration_text(progress.best)}{_gain(progress)}"
    )
    failed = f", {progress.failed} failed" * bool(progress.failed)
    grid.add_row("alive", f"{progress.alive} of {progress.candidates} candidates{failed}")
    grid.add_row("used", f"{duration(progress.seconds)}, {progress.measurements} measurements; {time_left(progress)}")
    if math.isfinite(progress.done):
        grid.add_row("", rich.progress_bar.ProgressBar(total=1.0, completed=progress.done, width=BAR))
    return grid


def _gain(progress: Progress) -> str:
    """How the best compares with the default, if both are known."""
    ratio = progress.default_seconds / progress.best_seconds if progress.best_seconds > 0 else math.nan
    return f", {ratio:.2f} times as fast as the default" if math.isfinite(ratio) else ""


def time_left(progress: Progress) -> str:
    """What remains of the budget; of one of measurements, as long as they took so far."""
    left = []
    if progress.budget is not None:
        left.append(progress.budget - progress.seconds)
    if progress.max_measurements is not None and progress.measurements:
        left.append(progress.seconds * (progress.max_measurements / progress.measurements - 1))
    return f"{max(0.0, min(left)):.0f} s left at most" if left else "until it is decided"
