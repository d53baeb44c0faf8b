"""The results of a run: what was timed, and what follows from it."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfuse.bench import statistics
from transfuse.bench.statistics import Estimate

SCHEMA = 1
OURS = "transfuse"
FEWEST_ROUNDS = 5
"""Rounds that a verdict needs."""

ALLOCATED = " (result allocated)"
"""What a verdict adds where no peer can write into a given array."""

State = Literal["measured", "left", "stopped", "failed", "wrong"]
Column = Literal["out", "allocated"]
COLUMNS: tuple[Column, ...] = ("out", "allocated")


@dataclass
class Entry:
    """One form of one library on one line.

    Attributes
    ----------
    library, statement : str
    writes_out : bool
        It wrote into a given array; else it allocated its result.
    samples : list of float or None
        Seconds per call in each round of the line; None for rounds in which it took no part.
    state : {"measured", "left", "stopped", "failed", "wrong"}
        "left": too slow to be the fastest, so timed a few times only. "stopped": one call took longer than allowed.
    note : str
        Why it is not "measured".
    error : float or None
        Largest difference from the result in float64.
    estimate : float or None
        Rough seconds of a call, from before the rounds.
    """

    library: str
    statement: str
    writes_out: bool
    samples: list[float | None] = field(default_factory=list)
    state: State = "measured"
    note: str = ""
    error: float | None = None
    estimate: float | None = None

    @property
    def column(self) -> Column:
        """The column of the table that it belongs to."""
        return "out" if self.writes_out else "allocated"

    def fail(self, note: str, state: State = "failed") -> None:
        """Take no more part in the line."""
        self.state, self.note = state, note

    @property
    def seconds(self) -> float | None:
        """Median of all samples, or the estimate if there are none."""
        taken = [sample for sample in self.samples if sample is not None]
        return float(np.median(taken)) if taken else self.estimate


@dataclass
class Line:
    """One case with one dtype and thread count.

    Attributes
    ----------
    label, name : str
        The sizes, and what the case is called, if anything.
    sizes : tuple of int
    dtype : str
    threads : int
    flops, bytes : float
        What a call computes, and moves at least.
    scores : float
        Numbers that a softmax is taken of; 0 for none.
    entries : list of Entry
    clean : list of bool
        Rounds in which no foreign job was seen on a core; the others do not count.
    groups : list of int
        The repetition of each round: a close line is repeated with memory allocated anew.
    peak_flops, peak_bytes, peak_scores : list of float
        FMA peak, bandwidth at the same footprint and softmax of scores in L1 (0 without scores), per second, in each
        round.
    tolerance : float
        Largest error that was accepted.
    note : str
        Why the line could not be measured (to its end).
    complete : bool
        False if the run was interrupted in it.
    """

    label: str
    name: str
    sizes: tuple[int, ...]
    dtype: str
    threads: int
    flops: float
    bytes: float
    entries: list[Entry] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    peak_flops: list[float] = field(default_factory=list)
    peak_bytes: list[float] = field(default_factory=list)
    peak_scores: list[float] = field(default_factory=list)
    tolerance: float = 0.0
    note: str = ""
    complete: bool = True
    scores: float = 0.0

    def add_round(
        self,
        samples: list[tuple[Entry, float]],
        clean: bool,
        group: int,
        peak_flops: float,
        peak_bytes: float,
        peak_scores: float,
    ) -> None:
        """Add what a round measured; entries without a sample took no part in it."""
        for entry in self.entries:
            entry.samples += [None] * (len(self.clean) - len(entry.samples))
        for entry, seconds in samples:
            entry.samples.append(seconds)
        self.clean.append(clean)
        self.groups.append(group)
        self.peak_flops.append(peak_flops)
        self.peak_bytes.append(peak_bytes)
        self.peak_scores.append(peak_scores)

    @property
    def dropped(self) -> int:
        """Rounds that do not count."""
        return self.clean.count(False)

    @property
    def headline(self) -> Column:
        """The column whose ratio counts: `out` given, if there is a peer that can do that."""
        return "out" if self.ours("out") and self.fastest_peer("out") else "allocated"

    def ours(self, column: Column) -> Entry | None:
        """Our own entry in a column, the one with the smallest median."""
        mine = [entry for entry in self._contenders(column) if entry.library == OURS]
        return min(mine, key=self.seconds_of, default=None)

    def has_choice(self, entry: Entry) -> bool:
        """Its library has other forms in the same column."""
        return sum((e.library, e.column) == (entry.library, entry.column) for e in self.entries) > 1

    def fastest_peer(self, column: Column) -> Entry | None:
        """The peers' entry with the smallest median."""
        peers = [entry for entry in self._contenders(column) if entry.library != OURS]
        return min(peers, key=self.seconds_of, default=None)

    def seconds_of(self, entry: Entry) -> float:
        """Median over the rounds that count, of several repetitions the median of theirs, as in :meth:`ratio`; or the
        estimate of a form that was in none; NaN if it was never timed.
        """
        taken = self._samples(entry)
        rounds = np.flatnonzero(~np.isnan(taken))
        if rounds.size:
            return statistics.median(taken[rounds], groups=self._groups()[rounds])
        return float("nan") if entry.seconds is None else entry.seconds

    def interval_of(self, entry: Entry) -> Estimate | None:
        """The median over the rounds that count with its interval, or None for a form that was in none."""
        taken = self._samples(entry)
        rounds = np.flatnonzero(~np.isnan(taken))
        if not rounds.size:
            return None
        return statistics.median_interval(taken[rounds], groups=self._groups()[rounds])

    def ratio(self, column: Column) -> Estimate | None:
        """How many times faster than the fastest peer we are, or None without one of the two."""
        contenders = self._contenders(column)
        ours = [self._samples(entry) for entry in contenders if entry.library == OURS]
        peers = [self._samples(entry) for entry in contenders if entry.library != OURS]
        if not ours or not peers:
            return None
        rounds = np.flatnonzero(~np.isnan([*ours, *peers]).any(axis=0))
        if not rounds.size:
            return None
        return statistics.ratio_interval(
            np.array(ours)[:, rounds], np.array(peers)[:, rounds], groups=self._groups()[rounds]
        )

    def variation(self, entry: Entry) -> float:
        """Coefficient of variation over the rounds that count."""
        taken = self._samples(entry)
        return statistics.coefficient_of_variation(taken[~np.isnan(taken)])

    def share_of_peak(self, entry: Entry) -> float:
        """GFLOP/s over the FMA peak of the same run."""
        return self.flops / self.seconds_of(entry) / self._median(self.peak_flops)

    @property
    def ceiling(self) -> float | None:
        """The largest share of the FMA peak that the softmax, measured by itself, leaves; None without one."""
        if not self.scores or not self.peak_scores:
            return None
        products = self.flops / self._median(self.peak_flops)
        return products / (products + self.scores / self._median(self.peak_scores))

    def share_of_bandwidth(self, entry: Entry) -> float | None:
        """Bytes per second over the bandwidth at the same footprint, or None where that says nothing."""
        limit = self._median(self.peak_bytes)
        return self.bytes / self.seconds_of(entry) / limit if limit else None

    @property
    def decided(self) -> bool:
        """There is a ratio of enough rounds in which no foreign job was seen."""
        return self.ratio(self.headline) is not None and len(self._counted()) >= FEWEST_ROUNDS and self._is_quiet()

    @property
    def broken(self) -> str:
        """What is wrong with our own entries; "" if nothing is."""
        notes = [e.note for e in self.entries if e.library == OURS and e.state in ("failed", "wrong", "stopped")]
        return notes[0] if notes else ""

    @property
    def verdict(self) -> str:
        """The ratio of the headline column in plain words."""
        ratio = self.ratio(self.headline)
        if self.broken:
            return f"transfuse failed: {self.broken}"
        if ratio is None:
            return f"not measured: {self.note}" if self.note else "no peer to compare with"
        if not self.decided:
            return "undecided: " + ("too few rounds" if len(self.clean) < FEWEST_ROUNDS else "the machine was busy")
        digits = 3 if abs(ratio.value - 1) < 0.05 else 2
        text = {
            "faster": f"{ratio.value:.{digits}f} times as fast",
            "slower": f"slower: {1 / ratio.value:.{digits}f} times the time",
            "even": "even",
        }[ratio.verdict]
        return text + (ALLOCATED if self.headline == "allocated" else "")

    def _contenders(self, column: Column) -> list[Entry]:
        """Those that were timed to the end; "left" ones are known to be slower."""
        return [e for e in self.entries if e.column == column and e.state == "measured" and any(e.samples)]

    def _samples(self, entry: Entry) -> NDArray[np.float64]:
        """Its samples in the rounds that count, NaN where it has none."""
        padded = entry.samples + [None] * (len(self.clean) - len(entry.samples))
        return np.array(padded, float)[self._counted()]

    def _groups(self) -> NDArray[np.intp]:
        return np.array(self.groups, np.intp)[self._counted()]

    def _median(self, values: list[float]) -> float:
        return float(np.median(np.array(values)[self._counted()]))

    def _is_quiet(self) -> bool:
        """Rounds count as clean or not; where hardly any is clean, all of them are shown, without a verdict."""
        return self.dropped == 0 or self.clean.count(True) >= FEWEST_ROUNDS

    def _counted(self) -> list[int]:
        """The rounds that count."""
        return [i for i, clean in enumerate(self.clean) if clean or not self._is_quiet()]


@dataclass
class Report:
    """A whole run.

    Attributes
    ----------
    operation, title : str
    machine : dict
        Description of the machine, versions of the libraries, and the tier that was measured.
    settings : dict
        How thoroughly it was measured.
    absent : dict
        Libraries that took no part, with the reason.
    lines : list of Line
    interrupted : bool
    sizes : str
        What the sizes of the lines are: "M×K×N".
    """

    operation: str
    title: str
    machine: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    interrupted: bool = False
    sizes: str = "sizes"

    def geometric_mean(self) -> float | None:
        """Of the ratios of all lines, in their headline columns."""
        ratios = [ratio.value for line in self.lines if (ratio := line.ratio(line.headline)) is not None]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else None

    def to_json(self) -> str:
        """All samples, and what follows from them."""
        content = {"schema": SCHEMA} | dataclasses.asdict(self)
        for line, described in zip(self.lines, content["lines"], strict=True):
            described["ratios"] = {column: _described(line.ratio(column)) for column in COLUMNS}
            described["verdict"] = line.verdict
            described["ceiling"] = line.ceiling
            for entry, one in zip(line.entries, described["entries"], strict=True):
                one["median"] = _described(line.interval_of(entry))
        return json.dumps(content, indent=1, allow_nan=False)

    def save(self, path: Path) -> None:
        """Write :meth:`to_json` to a file, at once or not at all."""
        write_whole(path, self.to_json().encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        ValueError
            The file is none of a benchmark, or of another version.
        """
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path}: expected a benchmark's JSON of schema {SCHEMA}")
        lines = [_known(Line, line) for line in content.pop("lines")]
        for line in lines:
            line.sizes = tuple(line.sizes)
            line.entries = [_known(Entry, entry) for entry in line.entries]
        return cls(lines=lines, **content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it never holds a part of the content."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _described(ratio: Estimate | None) -> dict[str, float] | None:
    return dataclasses.asdict(ratio) if ratio else None


def _known(kind: Any, content: dict[str, Any]) -> Any:
    """A dataclass from those of the keys that are its fields; the others follow from them."""
    names = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in names})
