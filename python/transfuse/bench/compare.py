"""A whole comparison: which libraries take part, and the lines one after another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transfuse import _core
from transfuse.bench import attention, libraries, machine, matmul_t, operation
from transfuse.bench.dtypes import missing
from transfuse.bench.measure import Bench, Interrupted, Settings
from transfuse.bench.operation import Case, Operation
from transfuse.bench.report import OURS, Line, Report

OPERATIONS: dict[str, Operation[Any]] = {found.name: found for found in (matmul_t.OPERATION, attention.OPERATION)}


def cases_of(name: str, *, sizes: Sequence[str] = (), suite: str | None = None) -> list[Case]:
    """The cases of an operation that sizes and a suite name; the suite "default" if neither is given.

    Raises
    ------
    ValueError
        Unknown operation or suite, or sizes that are none.
    """
    found = _operation(name)
    if suite is not None and suite not in found.suites:
        raise ValueError(f"suite: expected one of {', '.join(found.suites)}, got {suite!r}")
    if suite is None and not sizes:
        suite = "default"
    return [*(found.suites[suite] if suite else ()), *(found.parse(text) for text in sizes)]


def run(
    name: str | Operation[Any],
    cases: Sequence[Case | str],
    *,
    dtypes: Sequence[str] = ("float32",),
    threads: Sequence[int] | None = None,
    peers: Sequence[str] | Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda text: None,
    finished: Callable[[Line], None] = lambda line: None,
) -> Report:
    """Compare an operation with other libraries.

    Parameters
    ----------
    name : str or Operation
        "matmul-t" or "attention".
    cases : sequence of Case or str
        Cases, or sizes such as "64" and "128x1x1024".
    dtypes : sequence of str
        Some of the operation's: "float32", "float64"; for attention also "float16", "bfloat16", and "int8", which is a
        quantised cache of keys and values beside float32 queries.
    threads : sequence of int, optional
        Thread counts; default: 1 and as many as transfuse uses by default.
    peers : sequence of str, or mapping, optional
        Names from ``libraries.PATHS``, or names with "module:attribute" of :class:`libraries.Library` classes; default:
        all that the operation has forms for. Those that are not installed are named in the report.
    settings : Settings, optional
    progress : callable, optional
        Called with a text before each step.
    finished : callable, optional
        Called with each line.

    Returns
    -------
    Report
        If Ctrl-C interrupts the run, what was measured until then, with ``interrupted`` set.

    Raises
    ------
    ValueError
        An argument is not as it should be, or no peer is left.
    RuntimeError
        transfuse, or every peer, fails to start.
    """
    found = _operation(name) if isinstance(name, str) else name
    built = [found.parse(case) if isinstance(case, str) else case for case in cases]
    if not built:
        raise ValueError("cases: expected at least one, got none")
    if not dtypes:
        raise ValueError("dtypes: expected at least one, got none")
    for dtype in dtypes:
        if dtype not in found.dtypes:
            raise ValueError(f"dtypes: expected some of {', '.join(found.dtypes)}, got {dtype!r}")
        if (reason := missing(dtype)) is not None:
            raise ValueError(f"dtypes: {dtype}: {reason}")
    settings = settings or Settings()
    if settings.isa is not None:
        _core.require_isa(settings.isa)
    counts = _thread_counts(threads)
    paths, absent = _choose(found, peers)
    loaded: dict[str, libraries.Library] = {one: operation.find(path)() for one, path in paths.items()}
    versions = {library.label: library.version() for library in loaded.values()}
    described = machine.describe() | {"libraries": versions, "tier": settings.isa or _core.current_isa()}
    report = Report(found.name, found.title, described, dataclasses.asdict(settings), absent, sizes=found.sizes)
    try:
        for count in counts:
            with Bench(found, paths, count, settings, report.absent, progress) as bench:
                for dtype in dict.fromkeys(dtypes):
                    for case in built:
                        report.lines.append(bench.measure(case, dtype))
                        finished(report.lines[-1])
    except Interrupted as interruption:
        report.interrupted = True
        if interruption.line.clean:
            report.lines.append(interruption.line)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def _operation(name: str) -> Operation[Any]:
    if name not in OPERATIONS:
        raise ValueError(f"operation: expected one of {', '.join(OPERATIONS)}, got {name!r}")
    return OPERATIONS[name]


def _thread_counts(threads: Sequence[int] | None) -> list[int]:
    """Without repetition."""
    if threads is None:
        return sorted({1, libraries.default_threads()})
    allowed = libraries.most_threads()
    for count in threads:
        if not 1 <= count <= allowed:
            raise ValueError(f"threads: expected 1 to {allowed}, the CPUs of this process, got {count}")
    if not threads:
        raise ValueError("threads: expected at least one number, got none")
    return list(dict.fromkeys(threads))


def _choose(
    found: Operation[Any], peers: Sequence[str] | Mapping[str, str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The libraries that take part, ours first, and those that cannot, with the reason."""
    known = {name: path for name, path in libraries.PATHS.items() if name in found.forms and name != OURS}
    if isinstance(peers, Mapping):
        wanted = dict(peers)
    else:
        for peer in peers if peers is not None else ():
            if peer not in known:
                raise ValueError(f"peers: expected some of {', '.join(known)}, got {peer!r}")
        wanted = {name: path for name, path in known.items() if peers is None or name in peers}
    absent = {}
    for name, path in wanted.items():
        library: libraries.Library = operation.find(path)()
        reason = library.missing()
        if reason is not None:
            absent[name] = reason
    present = {name: path for name, path in wanted.items() if name not in absent}
    if not present:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise ValueError(f"peers: none left to compare with ({reasons or 'none was named'})")
    return {OURS: libraries.PATHS[OURS]} | present, absent
