"""The commands ``transfuse bench`` and ``transfuse demo``."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import rich.console
import rich.text
import typer

from transfuse import bench
from transfuse._terminal import (
    FAILED,
    INTERRUPTED,
    File,
    Screen,
    bad_input,
    parts_of,
    require_drawable,
    require_writable,
    write_files,
)
from transfuse.bench import libraries
from transfuse.bench.goals import Judgement, judge, summary
from transfuse.bench.goals import markdown as judgements_markdown
from transfuse.bench.goals import table as judgements_table
from transfuse.bench.measure import threads_text
from transfuse.bench.report import write_whole
from transfuse.bench.table import row

app = typer.Typer(no_args_is_help=True, help="Compare an operation with other libraries, honestly.")


class BenchScreen(Screen):
    """A screen that shows each line's verdict as soon as it is known."""

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
        screen = BenchScreen()
        try:
            require_writable(json=json, plot=plot, markdown=markdown)
            require_drawable("plot", plot)
            chosen = bench.cases_of(operation, sizes=parts_of("sizes", sizes), suite=suite or None)
            with screen:
                report = bench.run(
                    operation,
                    chosen,
                    dtypes=parts_of("dtype", dtype),
                    threads=[_count(text) for text in parts_of("threads", threads)] or None,
                    peers=parts_of("peers", peers) or None,
                    settings=bench.Settings(seconds, rounds, repetitions, isa=isa or None),
                    progress=screen.progress,
                    finished=screen.finished,
                )
        except (ValueError, RuntimeError, ImportError) as error:
            raise bad_input(error) from None
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
    screen = BenchScreen()
    drawable = importlib.util.find_spec("matplotlib") is not None
    threads = libraries.default_threads()
    reports: list[bench.Report] = []
    try:
        require_writable(output=output)
        if drawable:
            require_drawable("output", output)
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
        raise bad_input(error) from None
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
    written = write_files([*files, (plot if measured else None, lambda path: drawing.save(path, *measured))])
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


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"threads: expected numbers, got {text!r}") from None
