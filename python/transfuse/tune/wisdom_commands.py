"""The commands ``transfuse wisdom``."""

import contextlib
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import rich.table
import typer

from transfuse import _core, _wisdom
from transfuse._terminal import Screen
from transfuse._wisdom import Entry
from transfuse.tune.wisdom import Wisdom, document

app = typer.Typer(no_args_is_help=True, help="The tuned configurations that every call uses.")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int8")
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
        used = {entry.key for entry in _ranked()}
    return f"on, {_count(len(used))} for this machine"


def _ranked() -> list[Entry]:
    """What a process would use, the system's entries included; the one that counts last."""
    found = {path: _wisdom.read(path) for path in _wisdom.paths()}
    for path, reading in found.items():
        if problem := reading.problem(path):
            warnings.warn(problem, RuntimeWarning, stacklevel=2)
    return _wisdom.ranked(reading.entries for reading in found.values())


def _in_effect(ranked: Iterable[Entry]) -> list[tuple[Entry, dict[str, int]]]:
    """The entries that are used, with the parameters that calls get: those that affect rounding are the newest's."""
    used = {entry.key: entry for entry in ranked}
    newest = {entry.key[:-1]: entry.parameters for entry in ranked}  # whatever the number of threads

    def parameters(entry: Entry) -> dict[str, int]:
        rounding = {name: value for name, value in newest[entry.key[:-1]].items() if name in _wisdom.ROUNDING}
        others = {name: value for name, value in entry.parameters.items() if name not in _wisdom.ROUNDING}
        return dict(sorted((rounding | others).items()))

    return [(entry, parameters(entry)) for entry in used.values()]


def _count(entries: int) -> str:
    return f"{entries} entr{'y' if entries == 1 else 'ies'}"


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the entries that the calls on this machine use; as JSON, as they were found.

    What affects rounding is the same for every number of threads: that of the newest entry. The table shows it so.
    """
    screen = Screen()
    with _reported():
        used = _in_effect(_ranked())
        if as_json:
            typer.echo(json.dumps(document(entry for entry, _ in used), indent=1))
            return
        if _wisdom.is_off():
            typer.echo(f"wisdom is switched off by {_wisdom.VARIABLE}")
            return
        if used:
            screen.table(_table(used))
        others = sum(not entry.applies() for path in _wisdom.paths() for entry in _wisdom.read(path).entries)
        typer.echo(f"{_count(len(used))} for this machine, {others} for others, in {_wisdom.user_path()}")


def _table(used: Iterable[tuple[Entry, dict[str, int]]]) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False)
    for name in ("operation", "tier", "dtype", "sizes from", "threads", "parameters", "speed-up", "when"):
        table.add_column(name, overflow="fold", justify="right" if name in ("threads", "speed-up") else "left")
    for entry, parameters in sorted(used, key=lambda one: one[0].key[1:]):
        measured = entry.speedup is not None and parameters == entry.parameters
        table.add_row(
            entry.operation,
            entry.isa,
            entry.dtype,
            "×".join(map(str, entry.bucket)),
            str(entry.threads),
            " ".join(f"{name}={value}" for name, value in parameters.items()) or "the defaults",
            f"{entry.speedup:.2f}" if measured else "",
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
        if _wisdom.is_off():
            raise ValueError(f"export: wisdom is switched off by {_wisdom.VARIABLE}")
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
        for option, value, known in (("dtype", dtype, DTYPES), ("isa", isa, _core.BUILT_ISAS)):
            if value and value not in known:
                raise ValueError(f"{option}: expected one of {', '.join(known)}, got {value!r}")
        wisdom = Wisdom.load()
        count = wisdom.forget(name or None, dtype=dtype or None, isa=isa or None)
        wisdom.save()
        typer.echo(f"{_count(count)} forgotten")
