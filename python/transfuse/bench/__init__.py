"""Honest comparison of the operations with other libraries.

Each library runs in a worker process of its own. Rounds go over all forms of all libraries in random order; a sample
is taken only while every other worker is quiet, after one untimed call; rounds in which a foreign job held a core are
dropped. The ratio is that of the fastest peer's median to ours, with a bootstrap interval; every result is compared
with float64 first.

>>> from transfuse import bench
>>> report = bench.run("matmul-t", ["64", "128x1x1024"], threads=[1])  # doctest: +SKIP
>>> print(bench.table(report))  # doctest: +SKIP
"""

from transfuse.bench.compare import OPERATIONS, cases_of, run
from transfuse.bench.measure import Settings
from transfuse.bench.report import Entry, Line, Report
from transfuse.bench.table import markdown, remarks, table

__all__ = ["OPERATIONS", "Entry", "Line", "Report", "Settings", "cases_of", "markdown", "remarks", "run", "table"]
