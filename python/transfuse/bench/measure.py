"""Measuring a line: rounds over all forms of all libraries, in random order, until the line's time is up."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from transfuse.bench import dtypes, libraries
from transfuse.bench.operation import Case, Form, Operation
from transfuse.bench.pool import NotQuiet, Pool, RequestFailed, TooSlow, WorkerDied, WorkerError
from transfuse.bench.report import FEWEST_ROUNDS, OURS, Entry, Line

LIMITS = "limits"  # the worker that measures the machine

STARTING_SECONDS = 120.0  # importing a library, compiling its kernels
REQUEST_SECONDS = 60.0
REFERENCE_FLOPS = 1e9  # what float64 does per second at least
CALL_SECONDS = 5.0
SAMPLE_SECONDS = 0.003
LONG_CALL = 0.25
"""Seconds from which on a call needs no untimed one before it."""
REGION_SECONDS = 20e-6
WAITING = 0.02
"""A sample that was off the CPU for a larger part of its time, at one thread, shows that a foreign job was on it."""
HOPELESS_ROUNDS = 3
HOPELESS = 1.5
"""A form so many times slower than the fastest peer of its column leaves after HOPELESS_ROUNDS rounds."""
CLOSE = 0.1
"""Ratios this near to 1 are measured again."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure.

    Attributes
    ----------
    seconds : float
        Time for the rounds of a line; calls of more than a second may need more.
    rounds : int
        How many rounds a line has at most.
    repetitions : int
        How often a line is measured, with memory allocated anew, if its ratio is close to 1. All repetitions after the
        first together take as long as the first.
    seed : int
        Of the inputs and of the order within rounds.
    isa : str or None
        Tier that transfuse is forced to.
    """

    seconds: float = 20.0
    rounds: int = 30
    repetitions: int = 5
    seed: int = 0
    isa: str | None = None


class Interrupted(Exception):
    """Ctrl-C in the middle of a line, which holds what was measured until then."""

    def __init__(self, line: Line) -> None:
        super().__init__(f"interrupted at {line.label}")
        self.line = line


@dataclass
class _Runner:
    """An entry that can be timed."""

    entry: Entry
    form: int  # its index in the worker
    seconds: float  # what a call is expected to take

    @property
    def calls(self) -> int:
        """Calls in a sample."""
        return max(1, round(SAMPLE_SECONDS / max(self.seconds, 1e-8)))

    @property
    def warm(self) -> bool:
        """An untimed call comes first."""
        return self.seconds < LONG_CALL

    @property
    def cost(self) -> float:
        """Seconds of a sample, its untimed call included."""
        return self.seconds * (self.calls + self.warm)


class Bench:
    """The workers of one operation and thread count; a context manager.

    Parameters
    ----------
    operation : Operation
    paths : dict
        The libraries' classes by name, "module:attribute"; transfuse among them.
    threads : int
    settings : Settings
    absent : dict
        Libraries that cannot be started are added to it, with the reason.
    progress : callable, optional
        Called with a text before each step; nothing is being timed then.

    Raises
    ------
    RuntimeError
        On entry: transfuse itself, or no peer, can be started.
    """

    def __init__(
        self,
        operation: Operation[Any],
        paths: Mapping[str, str],
        threads: int,
        settings: Settings,
        absent: dict[str, str],
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._operation = operation
        self._names = list(paths)
        self._threads = threads
        self._settings = settings
        self._absent = absent
        self._progress = progress
        forced = {"TRANSFUSE_ISA": settings.isa} if settings.isa else {}
        limits = f"{libraries.__name__}:{libraries.Library.__name__}"
        self._pool = Pool(dict(paths) | {LIMITS: limits}, threads, {OURS: forced, LIMITS: forced})
        self._order = random.Random(settings.seed)
        self._too_slow: dict[tuple[str, str], float] = {}  # (library, statement): flops from which on
        self._directory = TemporaryDirectory(prefix="transfuse-bench-")
        self._reference = Path(self._directory.name) / "reference.npy"

    def __enter__(self) -> "Bench":
        try:
            for name in (LIMITS, *self._names):
                if name not in self._absent:
                    self._start_or_leave_out(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__(*exception)
        self._directory.cleanup()

    def _start_or_leave_out(self, name: str) -> None:
        try:
            self._start(name)
        except WorkerError as error:
            self._pool.drop(name)
            self._absent[name] = str(error)
            if name in (LIMITS, OURS):
                raise RuntimeError(f"transfuse cannot be started: {error}") from error
            if all(peer in self._absent for peer in self._names if peer != OURS):
                raise RuntimeError(f"peers: none could be started ({self._absent})") from error

    def _start(self, name: str) -> None:
        """Start a worker and import its library."""
        self._progress(f"starting {name}, {threads_text(self._threads)}")
        self._pool.start(name)
        self._pool.ask(name, "start", seconds=STARTING_SECONDS)

    def measure(self, case: Case, dtype: str) -> Line:
        """Measure a line. What goes wrong with an entry, or with the line, is noted in it.

        Raises
        ------
        Interrupted
        """
        read, write = case.traffic(dtype)
        line = Line(
            case.label, case.name, case.sizes, dtype, self._threads, case.flops, read + write, scores=case.scores
        )
        self._deaths: dict[str, int] = {}
        try:
            self._repeat(line, case, 0)
            if is_close(line):
                for repetition in range(1, self._settings.repetitions):
                    self._repeat(line, case, repetition)
        except KeyboardInterrupt:
            line.complete = False
            raise Interrupted(line) from None
        except (WorkerError, NotQuiet) as error:
            line.note = str(error)
        return line

    def _repeat(self, line: Line, case: Case, repetition: int) -> None:
        """Allocate everything anew, check the results, measure rounds."""
        request = {
            "path": self._operation.path,
            "case": dataclasses.asdict(case),  # type: ignore[call-overload]
            "dtype": line.dtype,
            "seed": self._settings.seed,
        }
        if repetition == 0:
            self._make_reference(line, request)
        runners: list[_Runner] = []
        for name in self._names:
            if name not in self._absent:
                self._say(line, f"checking {name}")
                runners += self._check_library(line, name, request)
        runners = affordable(runners, self._settings.seconds / FEWEST_ROUNDS)
        self._measure_rounds(line, case, runners, repetition)

    def _make_reference(self, line: Line, request: dict[str, Any]) -> None:
        self._say(line, "computing the reference")
        seconds = REQUEST_SECONDS + line.flops / REFERENCE_FLOPS
        answer = self._ask_limits("reference", seconds, file=str(self._reference), **request)
        line.tolerance = answer["tolerance"]

    def _ask_limits(self, do: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Ask the worker that measures the machine; it is there again for the next line if it fails in this one."""
        if LIMITS not in self._pool:
            self._start(LIMITS)
        try:
            return self._pool.ask(LIMITS, do, seconds=seconds, **arguments)
        except (WorkerDied, TooSlow):
            self._pool.drop(LIMITS)
            raise

    def _check_library(self, line: Line, name: str, request: dict[str, Any]) -> list[_Runner]:
        """Those forms of a library that give the right result in time; the line gets an entry for each."""
        runners: list[_Runner] = []
        try:
            if name not in self._pool:
                self._start(name)
            forms = self._pool.ask(name, "load", seconds=REQUEST_SECONDS, **request)["forms"]
        except WorkerError as error:
            _entry(line, name, Form("load", writes_out=True)).fail(str(error))
            self._revive(name, error)
            return []
        for index, form in enumerate(Form(**form) for form in forms):
            entry = _entry(line, name, form)
            if entry.state != "measured":  # of an earlier repetition
                continue
            if line.flops >= self._too_slow.get((name, form.statement), np.inf):
                entry.fail(f"a smaller case took more than {CALL_SECONDS:g} s a call", "stopped")
                continue
            try:
                if self._check_form(line, entry, index):
                    runners.append(_Runner(entry, index, entry.estimate or 0.0))
            except WorkerError as error:
                entry.fail(str(error))
                if isinstance(error, TooSlow):
                    self._too_slow[name, form.statement] = line.flops
                    entry.fail(f"a call takes more than {CALL_SECONDS:g} s", "stopped")
                if not self._reload(name, error, request, runners):
                    return []
        return runners

    def _check_form(self, line: Line, entry: Entry, form: int) -> bool:
        """Call a form, compare its result, and estimate the seconds of a call. False if it is wrong."""
        name = entry.library
        self._pool.ask(name, "prepare", seconds=REQUEST_SECONDS, form=form)
        self._pool.ask(name, "call", seconds=CALL_SECONDS, form=form)
        entry.error = self._pool.ask(name, "compare", seconds=REQUEST_SECONDS, file=str(self._reference))["error"]
        if entry.error is None:
            entry.fail("its result has another shape or dtype, or is not finite", "wrong")
        elif entry.error > line.tolerance:
            entry.fail(f"its result is off by {entry.error:.2g}, more than {line.tolerance:.2g}", "wrong")
        else:
            entry.estimate = self._pool.ask(name, "estimate", seconds=3 * CALL_SECONDS, form=form)["seconds"]
        return entry.state == "measured"

    def _reload(self, name: str, error: WorkerError, request: dict[str, Any], runners: list[_Runner]) -> bool:
        """After an error, bring a worker back to where it was. False if it cannot be had for this line any more."""
        try:
            if self._revive(name, error):
                self._pool.ask(name, "load", seconds=REQUEST_SECONDS, **request)
                for runner in runners:
                    self._pool.ask(name, "prepare", seconds=REQUEST_SECONDS, form=runner.form)
        except WorkerError as second:
            self._pool.drop(name)
            for runner in runners:
                runner.entry.fail(str(second))
        return name in self._pool

    def _revive(self, name: str, error: WorkerError) -> bool:
        """Start a worker again that died or was too slow. One that dies twice in a line has to wait for the next."""
        if isinstance(error, RequestFailed):
            return False
        self._pool.drop(name)
        self._deaths[name] = self._deaths.get(name, 0) + isinstance(error, WorkerDied)
        if self._deaths[name] < 2:
            self._start(name)
        return name in self._pool

    def _measure_rounds(self, line: Line, case: Case, runners: list[_Runner], repetition: int) -> None:
        read, write = case.traffic(line.dtype)
        share = 1 if repetition == 0 else self._settings.repetitions - 1
        end = time.monotonic() + self._settings.seconds / share
        fewest = -(-FEWEST_ROUNDS // share)
        clean = done = 0
        while clean < self._settings.rounds and (done < fewest or time.monotonic() < end):
            limit = self._limit(line, read, write, softmax=line.scores > 0)
            samples, quiet = self._round(line, runners)
            quiet &= max(limit["region_seconds"], self._limit(line, 0, 0)["region_seconds"]) <= REGION_SECONDS
            peaks = (limit[f"{what}_per_second"] for what in ("flops", "bytes", "scores"))
            line.add_round(samples, quiet, repetition, *peaks)
            runners = [runner for runner in runners if runner.entry.state == "measured"]
            clean, done = clean + quiet, done + 1
            if done == HOPELESS_ROUNDS:
                runners = without_hopeless(runners)

    def _limit(self, line: Line, read: int, write: int, *, softmax: bool = False) -> dict[str, float]:
        dtype = dtypes.arithmetic(line.dtype)
        answer = self._ask_limits("probe", REQUEST_SECONDS, dtype=dtype, read=read, write=write, softmax=softmax)
        return {name: float(value) for name, value in answer.items()}

    def _round(self, line: Line, runners: list[_Runner]) -> tuple[list[tuple[Entry, float]], bool]:
        """Time each form once, in random order; and whether each had its CPU for itself, as far as one can see."""
        samples = []
        quiet = True
        for runner in self._order.sample(runners, len(runners)):
            entry = runner.entry
            if entry.state != "measured":  # its worker died in this round
                continue
            self._say(line, f"round {len(line.clean) + 1}, {entry.library}: {entry.statement}")
            try:
                answer = self._pool.ask(
                    entry.library,
                    "sample",
                    seconds=REQUEST_SECONDS,
                    form=runner.form,
                    calls=runner.calls,
                    warm=runner.warm,
                )
            except RequestFailed as error:
                entry.fail(str(error))
            except WorkerError as error:
                self._pool.drop(entry.library)
                for other in runners:
                    if other.entry.library == entry.library:
                        other.entry.fail(str(error))
            else:
                samples.append((entry, float(answer["seconds"])))
                # More threads than one wait for each other.
                quiet &= self._threads > 1 or answer["waiting"] <= WAITING
        return [(entry, seconds) for entry, seconds in samples if entry.state == "measured"], quiet

    def _say(self, line: Line, text: str) -> None:
        self._progress(f"{line.label} {line.dtype}, {threads_text(self._threads)}: {text}")


def threads_text(threads: int) -> str:
    """How many, in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def is_close(line: Line) -> bool:
    """The ratio of the headline column is so near to 1 that the line is measured again."""
    ratio = line.ratio(line.headline)
    return ratio is not None and abs(ratio.value - 1) <= CLOSE


def affordable(runners: list[_Runner], budget: float) -> list[_Runner]:
    """As many as fit a round of so many seconds; the others keep their estimates.

    What goes first is the column of allocated results, then every library's slower forms, if `out` can be given. What
    remains then stays: peers that could be the fastest are never dropped.
    """
    kept = _leave(runners, budget, lambda runner: runner.entry.writes_out)
    if any(runner.entry.writes_out for runner in kept):
        best = {}
        for runner in sorted(kept, key=lambda runner: runner.seconds, reverse=True):
            best[runner.entry.library, runner.entry.column] = runner
        kept = _leave(kept, budget, lambda runner: runner in best.values())
    fastest = min((runner.seconds for runner in kept if runner.entry.library != OURS), default=np.inf)
    return _leave(kept, budget, lambda runner: runner.entry.library == OURS or runner.seconds <= HOPELESS * fastest)


def _leave(runners: list[_Runner], budget: float, stays: Callable[[_Runner], bool]) -> list[_Runner]:
    """Those that stay, if all are too expensive and not all would leave."""
    kept = [runner for runner in runners if stays(runner)]
    if sum(runner.cost for runner in runners) <= budget or not kept:
        return runners
    for runner in runners:
        if runner not in kept:
            runner.entry.fail("no time for more than an estimate", "left")
    return kept


def without_hopeless(runners: list[_Runner]) -> list[_Runner]:
    """Ours, and those that could still be the fastest peer of their column."""
    kept = []
    for runner in runners:
        entry = runner.entry
        peers = [r.entry.seconds for r in runners if r.entry.library != OURS and r.entry.column == entry.column]
        fastest = min((seconds for seconds in peers if seconds is not None), default=np.inf)
        if entry.library == OURS or (entry.seconds is not None and entry.seconds <= HOPELESS * fastest):
            kept.append(runner)
        else:
            entry.fail(f"after {HOPELESS_ROUNDS} rounds more than {HOPELESS:g} times the fastest peer's time", "left")
    return kept


def _entry(line: Line, library: str, form: Form) -> Entry:
    """The line's entry of a form."""
    for entry in line.entries:
        if (entry.library, entry.statement) == (library, form.statement):
            return entry
    line.entries.append(Entry(library, form.statement, form.writes_out))
    return line.entries[-1]
