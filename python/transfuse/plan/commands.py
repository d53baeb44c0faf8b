"""The commands ``transfuse plan`` and ``transfuse bench plan``."""

import importlib.util
import json as json_text
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import rich.console
import rich.live
import rich.text
import typer

from transfuse.bench.table import duration
from transfuse.plan import cases, report
from transfuse.plan.drawing import require_drawable
from transfuse.plan.generators import MODELS, model
from transfuse.plan.graph import Graph
from transfuse.plan.hardware import ACCELERATORS
from transfuse.plan.readers import load
from transfuse.plan.solver import solve

FAILED = 1
BAD_INPUT = 2


class Progress:
    """A line on a terminal that shows the period and the bound as they improve; nothing elsewhere."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._live = rich.live.Live(console=console, auto_refresh=False, transient=True)
        self._started = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def __call__(self, period: float, lower: float) -> None:
        if self._console.is_terminal:
            gap = f"{period / lower - 1:.3%}" if lower > 0 else "unknown"
            seconds = time.monotonic() - self._started
            text = (
                f"… {seconds:5.1f} s   period {duration(period)}   bound {duration(lower)}   gap {gap}   Ctrl-C: enough"
            )
            self._live.update(rich.text.Text(text), refresh=True)


def plan(
    graph: Annotated[Path | None, typer.Argument(help="A graph: our JSON, dnn-partitioning, Piper, PipeDream.")] = None,
    accelerators: Annotated[int, typer.Option("--accelerators", "-p", help="How many there are.")] = 8,
    model: Annotated[str, typer.Option(help=f"Instead of a file: {', '.join(MODELS)}.")] = "",
    accelerator: Annotated[str, typer.Option(help=f"For --model: {', '.join(ACCELERATORS)}.")] = "A100-80GB",
    micro_batch: Annotated[int, typer.Option(help="For --model: sequences in a micro-batch.", min=1)] = 1,
    mode: Annotated[str, typer.Option(help="shared, stages or dedicated.")] = "shared",
    replication: Annotated[bool, typer.Option("--replication", help="Allow replicas.")] = False,
    cost_model: Annotated[
        str, typer.Option(help="none, transfer, piper, dnn-partitioning or pipedream. With a bandwidth: transfer.")
    ] = "",
    cpus: Annotated[int, typer.Option(help="CPUs beside the accelerators (dnn-partitioning).", min=0)] = 0,
    bandwidth: Annotated[float | None, typer.Option(help="Bytes per second of an accelerator's link.")] = None,
    link_latency: Annotated[float, typer.Option(help="Seconds per transfer.")] = 0.0,
    memory: Annotated[float | None, typer.Option(help="Bytes of an accelerator.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
    effort: Annotated[
        float | None, typer.Option(help="Instead of the clock; the same seed gives the same plan.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw the schedule (.svg, .png, .pdf).")] = None,
    perfetto: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev.")] = None,
) -> None:
    """Plan how micro-batches are pipelined through a graph, with the shortest period, and say how good the plan is."""
    console = rich.console.Console(highlight=False, markup=False)
    try:
        if gantt is not None:
            require_drawable(gantt)
            if importlib.util.find_spec("matplotlib") is None:
                raise ImportError("gantt: drawing needs matplotlib (pip install matplotlib)")
        chosen = _graph(graph, model, accelerator, micro_batch, accelerators)
        with Progress(console) as progress:
            found = solve(
                chosen,
                accelerators,
                mode=mode,
                replication=replication,
                cost_model=cost_model or ("none" if bandwidth is None else "transfer"),
                cpus=cpus,
                bandwidth=bandwidth,
                link_latency=link_latency,
                memory=memory,
                time_limit=time_limit,
                effort=effort,
                seed=seed,
                progress=progress,
            )
        found.verify()
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    console.print(found.summary())
    files: list[tuple[Path | None, Callable[[Path], Any]]] = [
        (json, found.to_json),
        (gantt, found.gantt),
        (perfetto, found.to_perfetto),
    ]
    _write(files)


def _graph(path: Path | None, name: str, accelerator: str, micro_batch: int, accelerators: int) -> Graph:
    if (path is None) == (not name):
        raise ValueError("give either a graph or --model")
    if path is not None:
        return load(path)
    return model(name, accelerator=accelerator, max_width=max(1, accelerators), micro_batch=micro_batch)


def _write(files: list[tuple[Path | None, Callable[[Path], Any]]]) -> None:
    failed = False
    for path, write in files:
        if path is None:
            continue
        try:
            write(path)
        except (OSError, ValueError) as error:
            failed = True
            typer.echo(f"error: {path}: {error}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def bench(
    suite: Annotated[str, typer.Option(help="toy, published, bert32, llm or large; several with commas.")] = "toy",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the published planners' files and EXPECTED.json.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only the cases whose name contains this.")] = "",
    time_limit: Annotated[float, typer.Option(help="Seconds for a case.")] = 60.0,
    effort: Annotated[float | None, typer.Option(help="Instead of the clock.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the values to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
) -> None:
    """Plan the known cases; print value, bound, gap and time. Every plan is verified; a missed target is no failure."""
    console = rich.console.Console(highlight=False, markup=False)
    found: list[cases.Outcome] = []
    try:
        chosen = [case for name in suite.split(",") for case in cases.cases(name.strip(), data) if only in case.name]
        for outcome in cases.run(chosen, time_limit, effort, seed):
            found.append(outcome)
            console.print("  ".join(report.cells(outcome)))
    except KeyboardInterrupt:
        console.print("interrupted")
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    console.print(report.outcomes(found))
    values = [dict(zip(report.HEADINGS, report.cells(outcome), strict=True)) for outcome in found]
    _write(
        [
            (json, lambda path: path.write_text(json_text.dumps(values, indent=1) + "\n", encoding="utf-8")),
            (markdown, lambda path: path.write_text(report.markdown(found) + "\n", encoding="utf-8")),
        ]
    )
