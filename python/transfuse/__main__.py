"""``python -m transfuse``."""

from transfuse.cli import app

app()
