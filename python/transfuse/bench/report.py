"""The results of a run: what was timed, and what follows from it."""

import dataclasses
import json
from collections.abc import Iterable
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
"""Clean rounds that a verdict needs."""

State = Literal["measured", "left", "stopped", "failed", "wrong"]
Column = Literal["out", "allocated"]


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
    """

    library: str
    statement: str
    writes_out: bool
    samples: list[float | None] = field(default_factory=list)
    state: State = "measured"
    note: str = ""
    error: float | None = None

    @property
    def column(self) -> Column:
        """The column of the table that it belongs to."""
        return "out" if self.writes_out else "allocated"

    def fail(self, note: str, state: State = "failed") -> None:
        """Take no more part in the line."""
        self.state, self.note = state, note

    @property
    def seconds(self) -> float | None:
        """Median of the samples."""
        taken = [sample for sample in self.samples if sample is not None]
        return float(np.median(taken)) if taken else None


@dataclass
class Line:
    """One case with one dtype and thread count. `rounds` holds what was measured in each round besides the entries.

    Attributes
    ----------
    label, name : str
        The sizes, and what the case is called, if anything.
    sizes : tuple of int
    dtype : str
    threads : int
    flops, bytes : float
        What a call computes, and moves at least.
    entries : list of Entry
    clean : list of bool
        Rounds whose empty-parallel-region probe was short enough; the others do not count.
    groups : list of int
        The repetition of each round: a close line is repeated with memory allocated anew.
    peak_flops, peak_bytes : list of float
        FMA peak and bandwidth at the same footprint, per second, in each round.
    tolerance : float
        Largest error that was accepted.
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
    tolerance: float = 0.0
    complete: bool = True

    def add_round(
        self, samples: list[tuple[Entry, float]], clean: bool, group: int, peak_flops: float, peak_bytes: float
    ) -> None:
        """Add what a round measured; entries without a sample took no part in it."""
        for entry in self.entries:
            missing = len(self.clean) - len(entry.samples)
            entry.samples += [None] * missing
        for entry, seconds in samples:
            entry.samples.append(seconds)
        self.clean.append(clean)
        self.groups.append(group)
        self.peak_flops.append(peak_flops)
        self.peak_bytes.append(peak_bytes)

    @property
    def dropped(self) -> int:
        """Rounds that do not count."""
        return self.clean.count(False)

    @property
    def trustworthy(self) -> bool:
        """Enough rounds count for a verdict."""
        return self.clean.count(True) >= FEWEST_ROUNDS

    def ours(self, column: Column) -> Entry | None:
        """Our own entry in a column."""
        return next((entry for entry in self._timed(column) if entry.library == OURS), None)

    def fastest_peer(self, column: Column) -> Entry | None:
        """The peers' entry with the smallest median."""
        peers = [entry for entry in self._timed(column) if entry.library != OURS]
        return min(peers, key=self.seconds_of, default=None)

    def seconds_of(self, entry: Entry) -> float:
        """Median over the rounds that count (over all of them if there are too few)."""
        taken = self._samples(entry)
        if np.isnan(taken).all():  # timed in other rounds only
            taken = np.array(entry.samples, float)
        return float(np.nanmedian(taken))

    def ratio(self, column: Column) -> Estimate | None:
        """How many times faster than the fastest peer we are, or None without one of the two."""
        ours, fastest = self.ours(column), self.fastest_peer(column)
        if ours is None or fastest is None:
            return None
        own, best = self._samples(ours), self._samples(fastest)
        rounds = np.flatnonzero(~np.isnan(own) & ~np.isnan(best))
        if not rounds.size:
            return None
        peers = np.array([self._samples(e)[rounds] for e in self._timed(column) if e.library != OURS])
        complete = peers[~np.isnan(peers).any(axis=1)]
        groups = np.array(self.groups)[self._counted()][rounds]
        return statistics.ratio_interval(own[rounds], complete, groups=groups)

    def variation(self, entry: Entry) -> float:
        """Coefficient of variation over the rounds that count."""
        taken = self._samples(entry)
        return statistics.coefficient_of_variation(taken[~np.isnan(taken)])

    def share_of_peak(self, entry: Entry) -> float:
        """GFLOP/s over the FMA peak of the same run."""
        return self.flops / self.seconds_of(entry) / _median(self.peak_flops, self._counted())

    def share_of_bandwidth(self, entry: Entry) -> float | None:
        """Bytes per second over the bandwidth at the same footprint, or None where that says nothing."""
        limit = _median(self.peak_bytes, self._counted())
        return self.bytes / self.seconds_of(entry) / limit if limit else None

    def verdict(self, column: Column = "out") -> str:
        """The ratio in plain words."""
        ratio = self.ratio(column)
        if self.ours(column) is None:
            return "transfuse was not measured"
        if ratio is None:
            return "no peer to compare with"
        if not self.trustworthy:
            return "undecided: the machine was busy" if self.complete else "undecided: interrupted"
        return {
            "faster": f"{ratio.value:.2f} times as fast",
            "slower": f"slower: {1 / ratio.value:.2f} times the time",
            "even": "even",
        }[ratio.verdict]

    def _timed(self, column: Column) -> list[Entry]:
        return [
            e for e in self.entries if e.column == column and e.seconds is not None and e.state in ("measured", "left")
        ]

    def _samples(self, entry: Entry) -> NDArray[np.float64]:
        """Its samples in the rounds that count, NaN where it has none."""
        padded = entry.samples + [None] * (len(self.clean) - len(entry.samples))
        return np.array(padded, float)[self._counted()]

    def _counted(self) -> list[int]:
        """The rounds that count; all of them where too few do."""
        clean = [i for i, good in enumerate(self.clean) if good]
        return clean if self.trustworthy else list(range(len(self.clean)))


def _median(values: list[float], rounds: list[int]) -> float:
    return float(np.median([values[i] for i in rounds]))


@dataclass
class Report:
    """A whole run.

    Attributes
    ----------
    operation, title : str
    machine : dict
        Description of the machine and versions of the libraries.
    absent : dict
        Libraries that took no part, with the reason.
    lines : list of Line
    interrupted : bool
    """

    operation: str
    title: str
    machine: dict[str, Any]
    absent: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    interrupted: bool = False

    def geometric_mean(self, column: Column = "out") -> float | None:
        """Of the ratios of all lines."""
        ratios = [ratio.value for line in self.lines if (ratio := line.ratio(column)) is not None]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else None

    def to_json(self) -> str:
        """All samples, and what follows from them."""
        content = {"schema": SCHEMA} | dataclasses.asdict(self)
        for line, described in zip(self.lines, content["lines"], strict=True):
            described["ratios"] = {column: _described(line.ratio(column)) for column in ("out", "allocated")}
            described["verdict"] = line.verdict()
            for entry, one in zip(line.entries, described["entries"], strict=True):
                one["seconds"] = line.seconds_of(entry) if entry.seconds is not None else None
        return json.dumps(content, indent=1)

    def save(self, path: Path) -> None:
        """Write :meth:`to_json` to a file."""
        path.write_text(self.to_json() + "\n")

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
            line.entries = [_known(Entry, entry) for entry in _dicts(line.entries)]
        return cls(lines=lines, **content)


def _described(ratio: Estimate | None) -> dict[str, float] | None:
    return dataclasses.asdict(ratio) if ratio else None


def _dicts(values: Iterable[Any]) -> list[dict[str, Any]]:
    return list(values)


def _known(kind: Any, content: dict[str, Any]) -> Any:
    """A dataclass from those of the keys that are its fields; the others follow from them."""
    names = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in names})
