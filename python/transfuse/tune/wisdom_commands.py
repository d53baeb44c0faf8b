"""The commands ``transfuse wisdom``."""

import contextlib
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import rich.console
import rich.table
import typer

from transfuse import _wisdom
from transfuse.tune.wisdom import Wisdom, document

app = typer.Typer(no_args_is_help=True, help="The tuned configurations that every call uses.")
File = Annotated[Path, typer.Argument(help="A file of wisdom (JSON).")]


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Warnings and errors in one line each on standard error; an error ends the command with the code 2."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error: Exception | None = None
        try:
            yield
        except (OSError, ValueError) as raised:
            error = raised
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    if error is not None:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2)


def state() -> str:
    """Whether wisdom is used, and how much of it."""
    if _wisdom.is_off():
        return f"off (by {_wisdom.VARIABLE})"
    with _reported():
        used = _used()
    return f"on, {_count(len(used))} for this machine"


def _used() -> Wisdom:
    """What a process would use, the system's entries included."""
    used = Wisdom()
    for path in _wisdom.paths():
        for entry in Wisdom.load(path):
            if entry.applies() and (entry.decided or entry.key not in {one.key for one in used}):
                used.put(entry)
    return used


def _count(entries: int) -> str:
    return f"{entries} entr{'y' if entries == 1 else 'ies'}"


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the entries that the calls on this machine use."""
    with _reported():
        used = _used()
        if as_json:
            typer.echo(json.dumps(document(used), indent=1))
            return
        if _wisdom.is_off():
            typer.echo(f"wisdom is switched off by {_wisdom.VARIABLE}")
            return
        if used:
            rich.console.Console(highlight=False, markup=False).print(_table(used))
        others = sum(not entry.applies() for path in _wisdom.paths() for entry in _wisdom.read(path).entries)
        typer.echo(f"{_count(len(used))} for this machine, {others} for others, in {_wisdom.user_path()}")


def _table(wisdom: Wisdom) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False)
    for name in ("operation", "tier", "dtype", "sizes from", "threads", "parameters", "speed-up", "when"):
        table.add_column(name, overflow="fold", justify="right" if name in ("threads", "speed-up") else "left")
    for entry in sorted(wisdom, key=lambda e: (e.operation, e.isa, e.dtype, e.bucket, e.threads)):
        table.add_row(
            entry.operation,
            entry.isa,
            entry.dtype,
            "×".join(map(str, entry.bucket)),
            str(entry.threads),
            " ".join(f"{name}={value}" for name, value in entry.parameters.items()) or "the defaults",
            "" if entry.speedup is None else f"{entry.speedup:.2f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.when)) if entry.decided else "",
        )
    return table


@app.command()
def path() -> None:
    """Print where the user's wisdom is kept."""
    typer.echo(_wisdom.user_path())


@app.command()
def export(file: File) -> None:
    """Write the user's wisdom to a file, for another machine or for all users of this one."""
    with _reported():
        wisdom = Wisdom.load()
        wisdom.export(file)
        typer.echo(f"{_count(len(wisdom))} written to {file}")


@app.command("import")
def import_(file: File) -> None:
    """Add the entries of a file to the user's wisdom; of two for the same, the newer one stays."""
    with _reported():
        wisdom = Wisdom()
        count = wisdom.import_file(file)
        kept = wisdom.save()
        own = sum(entry.applies() for entry in wisdom)
        typer.echo(f"{_count(count)} read, {own} of them for this machine, into {kept}")


@app.command()
def forget(
    operation: Annotated[str, typer.Argument(help="matmul-t or attention.")] = "",
    dtype: Annotated[str, typer.Option(help="Only this one.")] = "",
    isa: Annotated[str, typer.Option(help="Only this tier.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All entries.")] = False,
) -> None:
    """Remove entries from the user's wisdom, those of other machines too."""
    with _reported():
        if everything == bool(operation or dtype or isa):
            raise ValueError("forget: expected an operation, a dtype or a tier, or --all")
        name = operation.replace("-", "_")
        if name not in ("", "matmul_t", "attention"):
            raise ValueError(f"operation: expected matmul-t or attention, got {operation!r}")
        wisdom = Wisdom.load()
        count = wisdom.forget(name or None, dtype=dtype or None, isa=isa or None)
        wisdom.save()
        typer.echo(f"{_count(count)} forgotten")
