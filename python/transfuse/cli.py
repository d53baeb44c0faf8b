"""The command line: ``transfuse info``, ``demo``, ``bench``, ``tune``, ``wisdom`` and ``plan``."""

import json
from typing import Annotated

import rich.console
import rich.table
import typer

import transfuse
from transfuse.bench import commands
from transfuse.plan import commands as planning
from transfuse.tune import commands as tuning
from transfuse.tune import wisdom_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Fused transformer kernels for CPUs.")
app.add_typer(commands.app, name="bench")
app.add_typer(tuning.app, name="tune")
app.add_typer(wisdom_commands.app, name="wisdom")
app.command()(commands.demo)
app.command()(planning.plan)
commands.app.command("plan")(planning.bench)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Fused transformer kernels for CPUs."""
    if version:
        typer.echo(transfuse.__version__)
        raise typer.Exit


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show what transfuse found on this machine and what it will use."""
    try:
        found = transfuse.info()
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = rich.table.Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in _rows(found):
        table.add_row(*row)
    rich.console.Console().print(table)


def _rows(found: transfuse._info.Info) -> list[tuple[str, str]]:
    isa, cpu, threads = found["isa"], found["cpu"], found["threads"]
    missing = [name for name in isa["built"] if name not in isa["available"]]
    return [
        ("transfuse", found["versions"]["transfuse"]),
        ("tier", f"{isa['current']} ({_SOURCES[isa['source']]})"),
        (
            "tiers",
            ", ".join(isa["available"]) + (f"; built but not for this CPU: {', '.join(missing)}" * bool(missing)),
        ),
        ("CPU", cpu["model"] or "unknown"),
        ("features", ", ".join(name for name, present in cpu["features"].items() if present) or "none"),
        ("caches", ", ".join(f"{name.upper()} {_size(size)}" for name, size in cpu["caches"].items())),
        ("threads", f"{threads['default']} (from {threads['source']})"),
        ("OpenMP", found["openmp"]["runtime"]),
        ("wisdom", found["wisdom"]),
        ("", wisdom_commands.state()),
        ("built with", found["versions"]["compiler"]),
        ("NumPy", found["versions"]["numpy"]),
        ("Python", f"{found['versions']['python']} on {found['versions']['platform']}"),
    ]


_SOURCES = {
    "scope": "forced by transfuse.isa",
    "TRANSFUSE_ISA": "forced by TRANSFUSE_ISA",
    "detected": "the highest that this CPU runs",
}


def _size(size: int) -> str:
    if size == 0:
        return "unknown"
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
