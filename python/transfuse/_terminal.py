"""What the commands share: a screen, lists, files and errors."""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import rich.cells
import rich.console
import rich.live
import rich.measure
import rich.table
import rich.text
import typer

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
PIPE_WIDTH = 180  # columns of a table that no terminal breaks
LONGEST_WORD = 24  # columns that a word of a table has, whatever the terminal

File = tuple[Path | None, Callable[[Path], object]]
"""A file, if it is wanted, and what writes it."""


class Screen:
    """What a run shows: what it is at on a terminal, and results everywhere.

    Nothing is drawn while something is being timed: no thread refreshes the terminal.
    """

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # "?" for what the terminal cannot show
        self.console = rich.console.Console(highlight=False, markup=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, PIPE_WIDTH)
        self._live = rich.live.Live(console=self.console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def progress(self, text: str) -> None:
        """Show what comes next."""
        self.show(lambda: rich.text.Text(f"… {text}", overflow="ellipsis", no_wrap=True))

    def table(self, table: rich.table.Table) -> None:
        """Print a table, wider than the terminal if its words do not fit: a terminal wraps lines, Rich cuts words."""
        for column in table.columns:
            texts = [str(cell) for cell in (column.header, *column.cells)]
            words = texts if column.no_wrap else [word for text in texts for word in text.split()]
            least = max(map(rich.cells.cell_len, words), default=0)
            column.min_width = least if column.no_wrap else min(least, LONGEST_WORD)
        options = self.console.options.update(max_width=1000)
        least = rich.measure.Measurement.get(self.console, options, table).minimum
        width = self.console.width
        self.console.width = max(width, least)
        self.console.print(table)
        self.console.width = width

    def show(self, view: Callable[[], rich.console.RenderableType]) -> None:
        """Show a view in place of the last, not more often than five times a second."""
        if self.console.is_terminal and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            self._live.update(view(), refresh=True)


def bad_input(error: Exception) -> typer.Exit:
    """Say what is wrong; the exit code that says so too."""
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(BAD_INPUT)


def write_files(files: Sequence[File]) -> set[Path]:
    """Write each file that is wanted; one that fails is named, and the others are written all the same."""
    written = set()
    for path, write in files:
        if path is None:
            continue
        try:
            write(path)
            written.add(path)
        except OSError as error:
            typer.echo(f"error: {path}: {error}", err=True)
    return written


def parts_of(option: str, text: str) -> list[str]:
    """The parts of an option; none if it was not given.

    Raises
    ------
    ValueError
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text and not parts:
        raise ValueError(f"{option}: expected names or numbers separated by commas, got {text!r}")
    return parts


def require_writable(**paths: Path | None) -> None:
    """Find out before measuring whether the results can be written.

    Raises
    ------
    ValueError
    """
    for name, path in paths.items():
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{name}: expected a file, got the directory {path}")
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise ValueError(f"{name}: cannot write {path}")


def require_drawable(name: str, path: Path | None) -> None:
    """Matplotlib is there and knows the suffix.

    Raises
    ------
    ImportError, ValueError
    """
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"{name}: drawing needs matplotlib (pip install matplotlib)")
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".") not in known:
        raise ValueError(f"{name}: expected a file ending in one of {', '.join(sorted(known))}, got {path.name!r}")
