"""The command ``transfuse tune``."""

import contextlib
import dataclasses
import itertools
import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import rich.console
import typer

import transfuse
from transfuse import tune
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
from transfuse.bench.plot import save_figure
from transfuse.bench.report import write_whole
from transfuse.tune import keeping, plots, report, usual
from transfuse.tune.comparison import COMPARED, as_compared
from transfuse.tune.sampling import Cache
from transfuse.tune.searching import STRATEGIES
from transfuse.tune.view import view

app = typer.Typer(no_args_is_help=True, help="Find the configuration that takes the least time on this machine.")

BUDGET = 30.0
RUNS = 20
FLAT = "flat"
"""The landscape on which all configurations are equal."""


@app.callback()
def main() -> None:
    """Find the configuration that takes the least time on this machine."""


def _add_command(operation: str, description: str, shape_help: str, dtype_help: str) -> None:
    """The command that tunes an operation."""

    @app.command(operation, help=description)
    def search(
        shape: Annotated[str, typer.Option(help=shape_help)],
        strategy: Annotated[str, typer.Option(help=f"{', '.join(STRATEGIES)}.")] = "race",
        budget: Annotated[
            float | None, typer.Option(help=f"Seconds. Without it and --measurements: {BUDGET:g}.", min=0.01)
        ] = None,
        measurements: Annotated[int | None, typer.Option(help="Measurements, at most.", min=1)] = None,
        threads: Annotated[int | None, typer.Option(help="The most threads. Without it: what calls use.")] = None,
        dtype: Annotated[str, typer.Option(help=dtype_help)] = "float32",
        isa: Annotated[str, typer.Option(help="Force a tier.")] = "",
        seed: Annotated[
            int | None, typer.Option(help="Of all chance. Without it: the journal's, or a new one.", min=0)
        ] = None,
        confidence: Annotated[float, typer.Option(help="Of the proof on fresh samples, and of intervals.")] = 0.95,
        cache: Annotated[str, typer.Option(help="warm or cold.")] = "warm",
        journal: Annotated[
            Path | None, typer.Option(help="Write measurements here; an interrupted search goes on from it.")
        ] = None,
        json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png, .svg, .pdf).")] = None,
        save: Annotated[bool, typer.Option(help="Keep what the race has confirmed as wisdom, for later calls.")] = True,
    ) -> None:
        screen = Screen()
        try:
            require_writable(journal=journal, json=json, plot=plot)
            require_drawable("plot", plot)
            with _tier(isa), screen:
                target = usual.target_of(operation, shape, dtype=dtype, threads=threads)
                result = tune.search(
                    target,
                    strategy=strategy,
                    budget=BUDGET if budget is None and measurements is None else budget,
                    max_measurements=measurements,
                    seed=seed,
                    confidence=confidence,
                    cache=cast(Cache, cache),
                    journal=journal,
                    progress=lambda progress: screen.show(lambda: view(progress)),
                )
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            raise bad_input(error) from None
        except KeyboardInterrupt:
            raise _nothing(screen.console) from None
        screen.table(report.summary(result))
        screen.table(report.table(result))
        if save:
            _keep(screen.console, lambda: [keeping.found_by(target, result)])
        files: list[File] = [(json, result.to_json), (plot, lambda path: save_figure(path, plots.overview(result)))]
        _conclude(files, interrupted=result.interrupted)


_add_command("matmul-t", "Tune (A·B)ᵀ for a shape.", "N, MxKxN or BxMxKxN.", "float32 or float64.")
_add_command(
    "attention",
    "Tune attention for a shape.",
    "BxHxLxD or BxHxLqxLkxD (32/8 for H: grouped heads), perhaps with :causal after it.",
    "float32, float64, float16 or bfloat16.",
)


@app.command("all")
def tune_all(
    budget: Annotated[float, typer.Option(help="Seconds for all shapes.", min=0.1)] = 120.0,
    operations: Annotated[str, typer.Option(help="matmul-t, attention, or both with a comma.")] = "matmul-t,attention",
    suite: Annotated[str, typer.Option(help="The shapes: a suite of the benchmark that both have.")] = "default",
    strategy: Annotated[str, typer.Option(help=f"{', '.join(STRATEGIES)}.")] = "race",
    threads: Annotated[int | None, typer.Option(help="Without it: as many as calls use.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    isa: Annotated[str, typer.Option(help="Force a tier.")] = "",
    seed: Annotated[int, typer.Option(help="Of the order of measurements.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option(help="Write what was found to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    save: Annotated[bool, typer.Option(help="Keep the results as wisdom, for later calls.")] = True,
) -> None:
    """Tune the usual shapes; what is not faster in fresh measurements keeps the default."""
    screen = Screen()
    found: list[usual.Outcome] = []
    interrupted, failure = False, None
    try:
        require_writable(json=json, markdown=markdown)
        with _tier(isa), screen:
            targets = usual.usual_targets(parts_of("operations", operations), suite=suite, dtype=dtype, threads=threads)
            for outcome in usual.tune_all(
                targets,
                budget=budget,
                strategy=strategy,
                seed=seed,
                progress=lambda progress: screen.show(lambda: view(progress)),
            ):
                found.append(outcome)
    except (ValueError, RuntimeError, ImportError, OSError, MemoryError) as error:
        if not found:
            raise bad_input(error) from None
        failure = error
    except KeyboardInterrupt:
        interrupted = True
    screen.table(report.outcomes(found))
    screen.console.print(report.counts(found))
    if save:
        _keep(screen.console, lambda: [kept for one in found if (kept := one.found()) is not None])
    files: list[File] = [
        (json, lambda path: _write_json(path, [report.outcome_record(one) for one in found])),
        (markdown, lambda path: _write_text(path, report.outcomes_markdown(found))),
    ]
    interrupted = interrupted or any(one.result and one.result.interrupted for one in found)
    _conclude(files, interrupted=interrupted, failure=failure)


@app.command()
def compare(
    runs: Annotated[int, typer.Option(help="Of each strategy on each landscape.", min=1)] = RUNS,
    landscapes: Annotated[str, typer.Option(help="Names or files. Without it: all that come with the package.")] = "",
    strategies: Annotated[str, typer.Option(help="Names, separated by commas. Without it: all.")] = "",
    flat: Annotated[bool, typer.Option("--flat", help="Also where all configurations are equal.")] = False,
    seed: Annotated[int, typer.Option(help="Of the first run.", min=0)] = 0,
    confidence: Annotated[float, typer.Option(help="Of the proof on fresh samples, and of intervals.")] = 0.95,
    json: Annotated[Path | None, typer.Option(help="Write all runs to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png, .svg, .pdf).")] = None,
) -> None:
    """Run all strategies on recorded landscapes: how many measurements does each need, does it find the best?"""
    screen = Screen()
    rows: list[tune.ComparisonRow] = []
    interrupted = False
    try:
        require_writable(json=json, markdown=markdown, plot=plot)
        require_drawable("plot", plot)
        names = parts_of("landscapes", landscapes) or [name for name in tune.landscapes() if name != FLAT]
        chosen = [tune.Landscape.load(name) for name in names + [FLAT] * flat]
        compared = [as_compared(name) for name in parts_of("strategies", strategies) or COMPARED]
        with screen:
            for landscape, strategy in itertools.product(chosen, compared):
                rows += tune.compare(
                    [strategy],
                    [landscape],
                    runs=runs,
                    seed=seed,
                    confidence=confidence,
                    progress=screen.progress,
                )
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        raise bad_input(error) from None
    except KeyboardInterrupt:
        interrupted = True
    if interrupted and not rows:
        raise _nothing(screen.console)
    screen.table(report.comparison(rows))
    files: list[File] = [
        (json, lambda path: _write_json(path, [dataclasses.asdict(row) for row in rows])),
        (markdown, lambda path: _write_text(path, report.comparison_markdown(rows))),
        (plot, lambda path: save_figure(path, plots.comparison(rows))),
    ]
    _conclude(files, interrupted=interrupted)


@app.command()
def record(
    output: Annotated[Path, typer.Option(help="The directory for the files.")],
    rounds: Annotated[int, typer.Option(help="How often each configuration is measured.", min=1)] = 100,
    names: Annotated[str, typer.Option(help="Landscapes, separated by commas. Without it: all.")] = "",
) -> None:
    """Measure the spaces of the comparison thoroughly, on an idle machine: half an hour for 60 rounds."""
    screen = Screen()
    try:
        with screen:
            paths = tune.record_all(output, rounds, parts_of("names", names) or None, progress=screen.progress)
    except (ValueError, RuntimeError, OSError) as error:
        raise bad_input(error) from None
    except KeyboardInterrupt:
        screen.console.print(f"interrupted: {output} has the landscapes that were finished", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    for path in paths:
        screen.console.print(str(path), soft_wrap=True)


def _tier(isa: str) -> contextlib.AbstractContextManager[object]:
    return transfuse.isa(isa) if isa else contextlib.nullcontext()


def _keep(console: rich.console.Console, find: Callable[[], list[keeping.Found]]) -> None:
    """Keep what was found; say where, or why not. The result is of use without it."""
    try:
        found = find()
        console.print(
            f"kept for later calls: {keeping.keep(found)}" if found else "not kept: there is nothing", soft_wrap=True
        )
    except (OSError, ValueError) as error:
        console.print(f"not kept: {error}", soft_wrap=True)


def _conclude(files: list[File], *, interrupted: bool, failure: Exception | None = None) -> None:
    """Write the files; the exit code says whether all is well."""
    written = write_files(files)
    if failure is not None:
        raise bad_input(failure)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if {path for path, _ in files if path is not None} - written:
        raise typer.Exit(FAILED)


def _nothing(console: rich.console.Console) -> typer.Exit:
    console.print("interrupted: nothing was measured")
    return typer.Exit(INTERRUPTED)


def _write_json(path: Path, content: object) -> None:
    _write_text(path, json_text.dumps(content, indent=1, allow_nan=False))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode() + b"\n")
