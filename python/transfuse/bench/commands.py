"""The commands ``transfuse bench`` and ``transfuse demo``."""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import rich.console
import rich.live
import rich.text
import typer

from transfuse import bench
from transfuse.bench import libraries
from transfuse.bench.goals import Judgement, judge, summary
from transfuse.bench.goals import markdown as judgements_markdown
from transfuse.bench.goals import table as judgements_table
from transfuse.bench.measure import threads_text
from transfuse.bench.report import write_whole
from transfuse.bench.table import row

app = typer.Typer(no_args_is_help=True, help="Compare an operation with other libraries, honestly.")

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
PIPE_WIDTH = 180  # columns of a table that no terminal breaks

File = tuple[Path | None, Callable[[Path], None]]
"""A file, if it is wanted, and what writes it."""


class Screen:
    """What a run shows: a status line on a terminal, and every line as it is finished.

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
            self._live.update(rich.text.Text(f"… {text}", overflow="ellipsis", no_wrap=True), refresh=True)

    def finished(self, line: bench.Line) -> None:
        """Show a line's verdict."""
        one = row(line)
        name = f" ({one.name})" if one.name else ""
        text = f"{one.case}{name} {one.dtype}, {threads_text(line.threads)}: transfuse {one.ours}, {one.peer}: "
        self.console.print(rich.text.Text.assemble(text, (one.verdict, one.style)))


@app.callback()
def main() -> None:
    """Compare an operation with other libraries, honestly."""


def _add_command(operation: str, description: str, sizes_help: str, suites_help: str, dtypes_help: str) -> None:
    """The command that compares an operation."""

    @app.command(operation, help=description)
    def compare(
        sizes: Annotated[str, typer.Option(help=sizes_help)] = "",
        suite: Annotated[str, typer.Option(help=f"A list of cases: {suites_help}.")] = "",
        dtype: Annotated[str, typer.Option(help=dtypes_help)] = "float32",
        threads: Annotated[str, typer.Option(help="Thread counts, separated by commas. Without it: 1 and all.")] = "",
        peers: Annotated[str, typer.Option(help="Libraries, separated by commas. Without it: all installed.")] = "",
        isa: Annotated[str, typer.Option(help="Force transfuse to a tier.")] = "",
        seconds: Annotated[float, typer.Option(help="Time for the rounds of a line.", min=0.01)] = 20.0,
        rounds: Annotated[int, typer.Option(help="Rounds of a line, at most.", min=1)] = 30,
        repetitions: Annotated[int, typer.Option(help="How often a close line is measured.", min=1)] = 5,
        json: Annotated[Path | None, typer.Option(help="Write all samples to this file.")] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png, .svg, .pdf).")] = None,
        markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    ) -> None:
        screen = Screen()
        try:
            _require_writable(json=json, plot=plot, markdown=markdown)
            _require_drawable("plot", plot)
            chosen = bench.cases_of(operation, sizes=_list("sizes", sizes), suite=suite or None)
            with screen:
                report = bench.run(
                    operation,
                    chosen,
                    dtypes=_list("dtype", dtype),
                    threads=[_count(text) for text in _list("threads", threads)] or None,
                    peers=_list("peers", peers) or None,
                    settings=bench.Settings(seconds, rounds, repetitions, isa=isa or None),
                    progress=screen.progress,
                    finished=screen.finished,
                )
        except (ValueError, RuntimeError, ImportError) as error:
            raise _bad_input(error) from None
        judged = judge(report, bench.OPERATIONS[operation].goals.get(suite, ()))
        text = "\n\n".join([bench.markdown(report), *([judgements_markdown(judged)] if judged else [])])
        files: list[File] = [(json, report.save), (markdown, lambda path: write_whole(path, text.encode() + b"\n"))]
        _conclude(screen.console, [report], plot=plot, files=files, judged=judged)


_add_command(
    "matmul-t",
    "Compare (A·B)ᵀ with every way in which NumPy, PyTorch and others can compute it.",
    "Sizes: N, MxKxN or BxMxKxN, separated by commas.",
    "default, squares, rectangles, demo, or full (half an hour; with goals)",
    "float32, float64 or both, separated by a comma.",
)
_add_command(
    "attention",
    "Compare attention with PyTorch, ONNX Runtime and others.",
    "Sizes: BxHxLxD or BxHxLqxLkxD (32/8 for H: grouped heads), perhaps with :causal, :window256, :bias, … after them.",
    "default, options, demo, or with goals: decode, models, full (half an hour)",
    "float32, float64, float16, bfloat16, int8 (a cache of keys and values), separated by commas.",
)


def demo(
    output: Annotated[Path, typer.Option(help="Where to draw the picture.")] = Path("transfuse-demo.png"),
    seconds: Annotated[float, typer.Option(help="Time for the rounds of a line.", min=0.01)] = 5.0,
) -> None:
    """Show in a few minutes what transfuse does and how fast it is here."""
    screen = Screen()
    drawable = importlib.util.find_spec("matplotlib") is not None
    threads = libraries.default_threads()
    reports: list[bench.Report] = []
    try:
        _require_writable(output=output)
        if drawable:
            _require_drawable("output", output)
        with screen:
            screen.console.print(INTRODUCTION.format(threads=threads_text(threads)))
            for operation, about in PARTS.items():
                screen.console.print(about)
                report = bench.run(
                    operation,
                    bench.cases_of(operation, suite="demo"),
                    threads=[threads],
                    peers=["numpy", "torch", "numba"],
                    settings=bench.Settings(seconds, repetitions=1),
                    progress=screen.progress,
                    finished=screen.finished,
                )
                screen.console.print()
                reports.append(report)
                if report.interrupted:
                    break
    except (ValueError, RuntimeError, ImportError) as error:
        raise _bad_input(error) from None
    if not drawable:
        screen.console.print("For a picture: pip install matplotlib")
    _conclude(screen.console, reports, plot=output if drawable else None, explanation=EXPLANATION)


INTRODUCTION = """\
This compares two operations of language models with NumPy, PyTorch and Numba. Each library runs alone, in a process of
its own, with {threads}; from all the ways in which a library can compute the result the fastest counts; every result is
checked first. It takes a minute or two.
"""

PARTS = {
    "matmul-t": """\
(A·B)ᵀ is a matrix product whose result is transposed. transfuse writes the result where it belongs, and no transposing
copy follows. The first shape below is the MatMul + Transpose of Llama-2's rotary embedding (128×1 times 1×1024), then
come squares, then one token and 32 tokens through a layer of Llama-2 7B. Each library is given its output array.
""",
    "attention": """\
Attention lets every token of a text (a query) look at the other tokens (the keys): it weighs each key by how well it
fits the query, and adds up the keys' values by these weights. Between 4096 tokens there are 16 million weights for each
head; transfuse never stores them, but works through blocks of keys. "Causal": a token sees only those before it.
"Window 256": only the last 256 of them. Each library allocates its result.
""",
}

EXPLANATION = """\
"Ratio" is the fastest peer's time over ours: above 1 we win, and we say so only where the whole 95 % interval lies
above 1. "Of the limit" compares with the fastest multiply-adds, or memory accesses, that this machine managed in the
same minute; for attention, "of" in brackets is the most that can be reached, because computing the weights takes time
too and does no multiply-adds. More: transfuse bench matmul-t --help, transfuse bench attention --help
"""


def _bad_input(error: Exception) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(BAD_INPUT)


def _conclude(
    console: rich.console.Console,
    reports: Sequence[bench.Report],
    *,
    plot: Path | None,
    files: Sequence[File] = (),
    explanation: str = "",
    judged: Sequence[Judgement] = (),
) -> None:
    """Write the files, then show the tables; the exit code says whether all is well. A missed goal is no failure."""
    from transfuse.bench import plot as drawing

    measured = [report for report in reports if report.lines]
    written = _write([*files, (plot if measured else None, lambda path: drawing.save(path, *measured))])
    for report in measured:
        console.print(bench.table(report, width=console.width))
        mean = report.geometric_mean()
        if mean is not None and len(report.lines) > 1:
            console.print(f"geometric mean: {mean:.2f} times as fast as the fastest peer of each line")
        console.print()
    if not measured:
        console.print("nothing was measured")
    elif explanation:
        console.print(explanation)
    if judged:
        console.print(judgements_table(judged))
        console.print(summary(judged))
    for remark in dict.fromkeys(remark for report in reports for remark in bench.remarks(report)):
        console.print(remark)
    if plot is not None and plot in written:
        console.print(f"picture: {plot.absolute()}", soft_wrap=True)
    if any(report.interrupted for report in reports):
        raise typer.Exit(INTERRUPTED)
    wanted = {path for path in (plot, *(path for path, _ in files)) if path is not None}
    if any(line.broken for report in reports for line in report.lines) or wanted - written:
        raise typer.Exit(FAILED)


def _write(files: Sequence[File]) -> set[Path]:
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


def _list(option: str, text: str) -> list[str]:
    """The parts of an option; none if it was not given."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text and not parts:
        raise ValueError(f"{option}: expected names or numbers separated by commas, got {text!r}")
    return parts


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
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise ValueError(f"{name}: cannot write {path}")


def _require_drawable(name: str, path: Path | None) -> None:
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
