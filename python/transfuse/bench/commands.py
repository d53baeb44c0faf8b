"""The commands ``transfuse bench`` and ``transfuse demo``."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.live
import rich.text
import typer

if TYPE_CHECKING:
    from transfuse.bench import Line, Report

app = typer.Typer(no_args_is_help=True, help="Compare an operation with other libraries, honestly.")

INTERRUPTED = 130
PIPE_WIDTH = 180  # columns of a table that nobody's terminal breaks


class Screen:
    """What a run shows: a status line on a terminal, and every line as it is finished.

    Nothing is drawn while something is being timed: no thread refreshes the terminal.
    """

    def __init__(self) -> None:
        self.console = rich.console.Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, PIPE_WIDTH)
        self._live = rich.live.Live(console=self.console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def progress(self, text: str) -> None:
        """Show what comes next, not more often than five times a second."""
        if self.console.is_terminal and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            self._live.update(rich.console.Group(f"… {text}"), refresh=True)

    def finished(self, line: "Line") -> None:
        """Show a line's verdict."""
        from transfuse.bench.table import row

        one = row(line)
        threads = "1 thread" if line.threads == 1 else f"{line.threads} threads"
        name = f" ({one.name})" if one.name else ""
        text = f"{one.case}{name} {one.dtype}, {threads}: transfuse {one.ours}, {one.peer}: "
        self.console.print(rich.text.Text.assemble(text, (one.verdict, one.style)))


@app.command("matmul-t")
def matmul_t(
    sizes: Annotated[str, typer.Option(help="Sizes: N, MxKxN or BxMxKxN, separated by commas.")] = "",
    suite: Annotated[str, typer.Option(help="A list of sizes: default, squares, rectangles or demo.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, float64 or both, separated by a comma.")] = "float32",
    threads: Annotated[str, typer.Option(help="Thread counts, separated by commas.  [default: 1 and all]")] = "",
    peers: Annotated[str, typer.Option(help="Libraries to compare with.  [default: all that are installed]")] = "",
    isa: Annotated[str, typer.Option(help="Force transfuse to a tier.")] = "",
    seconds: Annotated[float, typer.Option(help="Time for the rounds of a line.", min=0.01)] = 20.0,
    rounds: Annotated[int, typer.Option(help="Rounds of a line, at most.", min=1)] = 30,
    repetitions: Annotated[int, typer.Option(help="How often a close line is measured.", min=1)] = 5,
    json: Annotated[Path | None, typer.Option(help="Write all samples to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png, .svg, .pdf).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
) -> None:
    """Compare (A·B)ᵀ with every way in which NumPy, PyTorch and others can compute it."""
    from transfuse import bench

    try:
        _require_writable(json=json, plot=plot, markdown=markdown)
        if plot is not None:
            _require_matplotlib(plot)
        cases = bench.cases_of("matmul-t", sizes=_list(sizes), suite=suite or None)
        settings = bench.Settings(seconds=seconds, rounds=rounds, repetitions=repetitions, isa=isa or None)
        with Screen() as screen:
            report = bench.run(
                "matmul-t",
                cases,
                dtypes=_list(dtype),
                threads=[_count(text) for text in _list(threads)] or None,
                peers=_list(peers) or None,
                settings=settings,
                progress=screen.progress,
                finished=screen.finished,
            )
    except (ValueError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    _show(report, screen.console)
    _write(report, screen.console, json=json, plot=plot, markdown=markdown)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


def demo(
    output: Annotated[Path, typer.Option(help="Where to draw the picture.")] = Path("transfuse-demo.png"),
    seconds: Annotated[float, typer.Option(help="Time for the rounds of a line.", min=0.01)] = 5.0,
) -> None:
    """Show in a few minutes what transfuse does and how fast it is here."""
    from transfuse import bench
    from transfuse.bench import libraries

    try:
        _require_writable(output=output)
        picture = _find_matplotlib() and output
        with Screen() as screen:
            screen.console.print(INTRODUCTION.format(threads=libraries.default_threads()))
            report = bench.run(
                "matmul-t",
                bench.cases_of("matmul-t", suite="demo"),
                threads=[libraries.default_threads()],
                peers=["numpy", "torch", "numba"],
                settings=bench.Settings(seconds=seconds, repetitions=1),
                progress=screen.progress,
                finished=screen.finished,
            )
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    _show(report, screen.console)
    screen.console.print(CONCLUSION)
    if picture:
        _write(report, screen.console, json=None, plot=picture, markdown=None)
    else:
        screen.console.print("For a picture: pip install matplotlib")
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


INTRODUCTION = """\
transfuse computes (A·B)ᵀ, a matrix product whose result is transposed, in one pass: the result is written where it
belongs, and no transposing copy follows. Language models are full of it. The first shape below is the MatMul +
Transpose of Llama-2's rotary embedding (128×1 times 1×1024), then come squares, then one token and 32 tokens through a
layer of Llama-2 7B.

Each library runs alone, in a process of its own, with {threads} thread(s); each is given its output array; and from all
the ways in which a library can compute the result the fastest counts. Every result is checked first. It takes a minute
or two.
"""

CONCLUSION = """\
"Ratio" is the fastest peer's time over ours: above 1 we win, and we say so only where the whole 95 % interval
lies above 1. "Of the limit" compares with the fastest multiply-adds, or memory accesses, that this machine managed in
the same minute. More: transfuse bench matmul-t --help.
"""


def _show(report: "Report", console: rich.console.Console) -> None:
    from transfuse.bench.table import remarks, table

    if report.lines:
        console.print(table(report, width=console.width))
        mean = report.geometric_mean()
        if mean is not None and len(report.lines) > 1:
            console.print(f"geometric mean: {mean:.2f} times as fast as the fastest peer of each line\n")
    else:
        console.print("nothing was measured")
    for remark in remarks(report):
        console.print(remark, markup=False)


def _write(
    report: "Report", console: rich.console.Console, *, json: Path | None, plot: Path | None, markdown: Path | None
) -> None:
    from transfuse.bench.table import markdown as text_of

    try:
        if json is not None:
            report.save(json)
        if markdown is not None:
            markdown.write_text(text_of(report) + "\n")
        if plot is not None and report.lines:
            from transfuse.bench import plot as drawing

            drawing.save(report, plot)
            console.print(f"picture: {plot.resolve()}", soft_wrap=True)
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"threads: expected numbers, got {text!r}") from None


def _require_writable(**paths: Path | None) -> None:
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
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise ValueError(f"{name}: cannot write {path}")


def _find_matplotlib() -> bool:
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def _require_matplotlib(path: Path) -> None:
    """The library, and a suffix that it knows.

    Raises
    ------
    ImportError, ValueError
    """
    if not _find_matplotlib():
        raise ImportError("plot: drawing needs matplotlib (pip install matplotlib)")
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".") not in known:
        raise ValueError(f"plot: expected a file ending in one of {', '.join(sorted(known))}, got {path.name!r}")
