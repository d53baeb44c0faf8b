"""The journal of a search: a line of JSON for each measurement, from which an interrupted search goes on."""

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from transfuse.tune.result import State
from transfuse.tune.sampling import TargetSource

SCHEMA = 2


class Journal:
    """A source that writes down what another one measures, and first answers with what is already written.

    The same strategy with the same seed asks for the same measurements, so it goes on where it was; or, with another
    budget, where that makes the first difference.

    Parameters
    ----------
    path : path
        Made if it is missing. A last line that is damaged, as by a crash, is dropped.
    header : mapping
        What tells this search from others, as JSON.
    source : TargetSource
        Its reference becomes that of the measurements that are written down.

    Raises
    ------
    ValueError
        The file is no journal, or that of another search, or one of its lines is damaged, or a search is writing to it.
    OSError
        The file cannot be read or written.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], source: TargetSource) -> None:
        self.failures: dict[int, tuple[State, str]] = {}
        self._path, self._source = Path(path), source
        self._elapsed, self._offset = 0.0, 0.0
        whole = {"schema": SCHEMA} | json.loads(json.dumps(header))
        self._file = self._path.open("a", encoding="utf-8")
        try:
            _lock(self._file, self._path)
            lines, whole_bytes = _read(self._path)
            if lines:
                _require_same(self._path, lines[0], whole)
            self._file.truncate(whole_bytes)
            if not lines:
                self._write(whole)
        except BaseException:
            self.close()
            raise
        self._kept = lines[1:]
        self._left = len(self._kept)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def elapsed(self) -> float:
        """Seconds since the search began, in this process and those before."""
        return self._elapsed if self._left else self._offset + self._source.elapsed()

    @property
    def reference(self) -> float | None:
        """That of the measurements that are written down."""
        return self._source.reference

    def times(self, indices: Sequence[int]) -> Iterator[float]:
        """Of a call of each of these candidates, as written down or measured now; NaN for one that is out."""
        measured: Iterator[float] | None = None
        for place, index in enumerate(indices):
            if index in self.failures:
                yield math.nan
            elif measured is None and self._recalls(index):
                yield self._recall(index)
            else:
                if measured is None:
                    measured = iter(self._source.times([i for i in indices[place:] if i not in self.failures]))
                yield self._write_down(index, next(measured))

    def _recalls(self, index: int) -> bool:
        """Whether what is written down next is of this candidate. If not, another budget has led elsewhere."""
        if self._left and self._kept[-self._left]["index"] != index:
            self._forget()
        return self._left > 0

    def _recall(self, index: int) -> float:
        line = self._kept[-self._left]
        self._left -= 1
        self._elapsed, self._source.reference = float(line["elapsed"]), line["reference"]
        self._offset = self._elapsed - self._source.elapsed()
        if line["seconds"] is None:
            self.failures[index] = (line["state"], line["reason"])
            return math.nan
        return float(line["seconds"])

    def _forget(self) -> None:
        """Cut off the lines that are not used."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        self._file.truncate(sum(map(len, lines[: len(lines) - self._left])))
        self._left = 0

    def _write_down(self, index: int, seconds: float) -> float:
        line: dict[str, Any] = {"index": index, "seconds": seconds, "elapsed": self.elapsed()}
        line["reference"] = self._source.reference
        if index in self._source.failures:
            self.failures[index] = self._source.failures[index]
            line["seconds"] = None
            line["state"], line["reason"] = self.failures[index]
        self._write(line)
        return seconds

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def seed_of(path: str | Path) -> int | None:
    """The seed of a search that was written down, or None if there is none."""
    lines, _ = _read(Path(path))
    seed = lines[0].get("seed") if lines else None
    return seed if isinstance(seed, int) else None


def _lock(file: IO[str], path: Path) -> None:
    """Until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"journal: another search writes to {path}") from None


def _read(path: Path) -> tuple[list[Any], int]:
    """All lines but a damaged last one, and their bytes."""
    if not path.exists():
        return [], 0
    content = path.read_bytes()
    lines = []
    for number, text in enumerate(content.splitlines(keepends=True)):
        try:
            line = json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            line = None
        if isinstance(line, dict) and (number == 0 or _is_measurement(line)):
            lines.append(line)
        elif number + 1 == len(content.splitlines()) and line is None and (lines or _begins_a_journal(text)):
            return lines, len(content) - len(text)
        else:
            raise ValueError(f"journal: line {number + 1} of {path} is none that a search has written")
    return lines, len(content)


def _begins_a_journal(text: bytes) -> bool:
    begin = f'{{"schema": {SCHEMA}, "target": '.encode()
    return text.startswith(begin) or begin.startswith(text)


def _is_measurement(line: Mapping[str, Any]) -> bool:
    times = [line.get(name) for name in ("elapsed", "reference", "seconds")]
    if times[2] is None:
        times[2] = 0 if isinstance(line.get("state"), str) and isinstance(line.get("reason"), str) else None
    return isinstance(line.get("index"), int) and all(isinstance(one, int | float) for one in times)


def _require_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in expected:
        if found.get(name) != expected[name]:
            values = f"expected {name} {expected[name]!r}, got {found.get(name)!r}"
            raise ValueError(f"journal: {path} is that of another search: {values}")
