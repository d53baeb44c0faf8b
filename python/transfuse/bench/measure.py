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

from transfuse.bench import libraries
from transfuse.bench.operation import Case, Form, Operation
from transfuse.bench.pool import Pool, TooSlow, WorkerDied, WorkerError
from transfuse.bench.report import FEWEST_ROUNDS, OURS, Entry, Line
from transfuse.bench.worker import LONG_CALL

LIMITS = "limits"  # the worker that measures the machine
COLUMNS = ("out", "allocated")

STARTING_SECONDS = 120.0  # importing a library, compiling its kernels
REQUEST_SECONDS = 60.0
CALL_SECONDS = 5.0
SAMPLE_SECONDS = 0.003
REGION_SECONDS = 20e-6
HOPELESS_ROUNDS = 3
HOPELESS = 1.5
"""A form so many times slower than the fastest peer of its column leaves after HOPELESS_ROUNDS rounds."""
CLOSE = 0.05
"""Ratios this near to 1 are measured again."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure.

    Attributes
    ----------
    seconds : float
        Time for the rounds of a line.
    rounds : int
        How many rounds a line has at most.
    repetitions : int
        How often a line is measured, with memory allocated anew, if its ratio is close to 1.
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
    def cost(self) -> float:
        """Seconds of a sample, its untimed call included."""
        return self.seconds * (self.calls + (self.seconds < LONG_CALL))


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
        Libraries that have to be given up are added to it, with the reason.
    progress : callable, optional
        Called with a text before each step; nothing is being timed then.
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
        self.absent = absent
        self._progress = progress
        forced = {"TRANSFUSE_ISA": settings.isa} if settings.isa else {}
        limits = f"{libraries.__name__}:{libraries.Library.__name__}"
        self._pool = Pool(dict(paths) | {LIMITS: limits}, threads, {OURS: forced, LIMITS: forced})
        self._order = random.Random(settings.seed)
        self._too_slow: dict[tuple[str, str], float] = {}  # (library, statement): flops from which on
        self._deaths: dict[str, int] = {}
        self._directory = TemporaryDirectory(prefix="transfuse-bench-")
        self._reference = Path(self._directory.name) / "reference.npy"

    def __enter__(self) -> "Bench":
        self._pool.__enter__()
        try:
            for name in self._names:
                self._start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__(*exception)
        self._directory.cleanup()

    def measure(self, case: Case, dtype: str) -> Line:
        """Measure a line.

        Raises
        ------
        Interrupted
        """
        read, write = case.traffic(np.dtype(dtype).itemsize)
        line = Line(case.label, case.name, case.sizes, dtype, self._threads, case.flops, read + write)
        try:
            for repetition in range(self._settings.repetitions):
                if repetition == 0 or _is_close(line):
                    self._repeat(line, case, repetition)
        except KeyboardInterrupt:
            line.complete = False
            raise Interrupted(line) from None
        return line

    def _start(self, name: str) -> None:
        """Import a library; one that cannot be imported is given up."""
        self._progress(f"starting {name}, {_threads_text(self._threads)}")
        try:
            self._pool.ask(name, "start", seconds=STARTING_SECONDS)
        except WorkerError as error:
            self._give_up(name, str(error))

    def _give_up(self, name: str, reason: str) -> None:
        self.absent[name] = reason
        self._pool.drop(name)

    def _repeat(self, line: Line, case: Case, repetition: int) -> None:
        """Allocate everything anew, check the results, measure rounds."""
        request = {
            "path": self._operation.path,
            "case": dataclasses.asdict(case),  # type: ignore[call-overload]
            "dtype": line.dtype,
            "seed": self._settings.seed,
        }
        if repetition == 0:
            self._say(line, "computing the reference")
            answer = self._pool.ask(LIMITS, "reference", seconds=REQUEST_SECONDS, file=str(self._reference), **request)
            line.tolerance = answer["tolerance"]
        runners: list[_Runner] = []
        for name in self._names:
            if name not in self.absent:
                self._say(line, f"checking {name}")
                runners += self._check_library(line, name, request)
        self._measure_rounds(line, case, self._affordable(runners), repetition)

    def _check_library(self, line: Line, name: str, request: dict[str, Any]) -> list[_Runner]:
        """Those forms of a library that give the right result in time; the line gets an entry for each."""
        runners: list[_Runner] = []
        try:
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
                seconds = self._check_form(line, entry, index)
            except WorkerError as error:
                entry.fail(str(error))
                if isinstance(error, TooSlow):
                    self._too_slow[name, form.statement] = line.flops
                    entry.fail(f"a call takes more than {CALL_SECONDS:g} s", "stopped")
                if self._revive(name, error):
                    self._pool.ask(name, "load", seconds=REQUEST_SECONDS, **request)
                    for runner in runners:
                        self._pool.ask(name, "prepare", seconds=REQUEST_SECONDS, form=runner.form)
                elif name in self.absent:
                    return []
            else:
                if entry.state == "measured":
                    runners.append(_Runner(entry, index, seconds))
        return runners

    def _check_form(self, line: Line, entry: Entry, form: int) -> float:
        """Call a form, compare its result, and estimate the seconds of a call, which it returns."""
        name = entry.library
        self._pool.ask(name, "prepare", seconds=REQUEST_SECONDS, form=form)
        self._pool.ask(name, "call", seconds=CALL_SECONDS, form=form)
        answer = self._pool.ask(name, "compare", seconds=REQUEST_SECONDS, file=str(self._reference))
        entry.error = answer["error"]
        if not answer["error"] <= line.tolerance:
            entry.fail(f"its result is off by {entry.error:.2g}, more than {line.tolerance:.2g}", "wrong")
            return 0.0
        answer = self._pool.ask(name, "estimate", seconds=CALL_SECONDS, form=form)
        seconds: float = answer["seconds"]
        return seconds

    def _revive(self, name: str, error: WorkerError) -> bool:
        """Start a worker again that died or was too slow; one that dies twice is given up. True if it is a new one."""
        if isinstance(error, WorkerDied):
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if self._deaths[name] > 1:
                self._give_up(name, str(error))
                return False
        if not isinstance(error, WorkerDied | TooSlow):
            return False
        self._pool.restart(name)
        self._start(name)
        return name not in self.absent

    def _affordable(self, runners: list[_Runner]) -> list[_Runner]:
        """As many as leave time for FEWEST_ROUNDS rounds: ours, and the fastest peer of each column in any case.

        The others keep the one time that the check took.
        """
        budget = self._settings.seconds / FEWEST_ROUNDS
        kept = []
        first = dict.fromkeys(COLUMNS, True)
        for runner in sorted(runners, key=lambda r: (r.entry.library != OURS, r.seconds)):
            budget -= runner.cost
            essential = runner.entry.library == OURS or first[runner.entry.column]
            if runner.entry.library != OURS:
                first[runner.entry.column] = False
            if essential or budget >= 0:
                kept.append(runner)
            else:
                runner.entry.samples.append(runner.seconds)
                runner.entry.fail("timed once: too slow for this line's time", "left")
        return kept

    def _measure_rounds(self, line: Line, case: Case, runners: list[_Runner], repetition: int) -> None:
        read, write = case.traffic(np.dtype(line.dtype).itemsize)
        # All repetitions after the first together take as long as the first.
        share = 1 if repetition == 0 else self._settings.repetitions - 1
        end = time.monotonic() + self._settings.seconds / share
        fewest = -(-FEWEST_ROUNDS // share)
        clean, done = 0, 0
        while clean < self._settings.rounds and (done < fewest or time.monotonic() < end):
            limit = self._limit(line, read, write)
            samples = self._round(line, runners)
            quiet = max(limit["region_seconds"], self._limit(line, 0, 0)["region_seconds"]) <= REGION_SECONDS
            line.add_round(samples, quiet, repetition, limit["flops_per_second"], limit["bytes_per_second"])
            runners = [runner for runner in runners if runner.entry.state == "measured"]
            clean, done = clean + quiet, done + 1
            if done == HOPELESS_ROUNDS:
                runners = _without_hopeless(runners)

    def _limit(self, line: Line, read: int, write: int) -> dict[str, float]:
        answer = self._pool.ask(LIMITS, "probe", seconds=REQUEST_SECONDS, dtype=line.dtype, read=read, write=write)
        return {name: float(value) for name, value in answer.items()}

    def _round(self, line: Line, runners: list[_Runner]) -> list[tuple[Entry, float]]:
        """Time each form once, in random order."""
        samples = []
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
                    warm=runner.seconds < LONG_CALL,
                )
            except WorkerError as error:
                self._revive(entry.library, error)
                for other in runners:
                    if other.entry.library == entry.library:
                        other.entry.fail(str(error))
            else:
                samples.append((entry, float(answer["seconds"])))
        return [(entry, seconds) for entry, seconds in samples if entry.state == "measured"]

    def _say(self, line: Line, text: str) -> None:
        self._progress(f"{line.label} {line.dtype}, {_threads_text(self._threads)}: {text}")


def _threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _entry(line: Line, library: str, form: Form) -> Entry:
    """The line's entry of a form."""
    for entry in line.entries:
        if (entry.library, entry.statement) == (library, form.statement):
            return entry
    line.entries.append(Entry(library, form.statement, form.writes_out))
    return line.entries[-1]


def _is_close(line: Line) -> bool:
    ratio = line.ratio("out")
    return ratio is not None and abs(ratio.value - 1) <= CLOSE


def _without_hopeless(runners: list[_Runner]) -> list[_Runner]:
    """Ours, and those that could still be the fastest peer of their column."""
    kept = []
    for runner in runners:
        entry = runner.entry
        peers = [r.entry.seconds for r in runners if r.entry.library != OURS and r.entry.column == entry.column]
        fastest = min((seconds for seconds in peers if seconds is not None), default=np.inf)
        if entry.library == OURS or (entry.seconds is not None and entry.seconds <= HOPELESS * fastest):
            kept.append(runner)
        else:
            entry.fail(f"timed {HOPELESS_ROUNDS} times: more than {HOPELESS:g} times the fastest peer's time", "left")
    return kept
