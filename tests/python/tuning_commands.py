"""``transfuse tune`` in this process, and what it tells of a search."""

from typer.testing import CliRunner

from transfuse.cli import app
from transfuse.tune import Progress


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def event(**changes):
    """Half a search."""
    fields = {
        "phase": "search",
        "strategy": "race",
        "target": "matmul_t 64³, float32",
        "iteration": 3,
        "measurements": 50,
        "max_measurements": None,
        "seconds": 2.0,
        "budget": 10.0,
        "best": {"block_m": 64, "threads": 2},
        "best_seconds": 0.5e-3,
        "default_seconds": 1e-3,
        "alive": 4,
        "candidates": 9,
        "failed": 0,
    }
    return Progress(**(fields | changes))
