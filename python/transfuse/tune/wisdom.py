"""Tuned configurations that are kept: a file of them, read by every later process."""

import contextlib
import errno
import json
import math
import os
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfuse import _core, _wisdom
from transfuse._wisdom import Entry

_LOCK_SECONDS = 10.0


class Wisdom:
    """A collection of tuned configurations, at most one for each machine, operation, tier, dtype, bucket and threads.

    What the files of wisdom hold is used by every process without this class. It serves to add to them and to look.
    docs/wisdom.md says what a call looks up, and where the files are.

    Examples
    --------
    >>> from transfuse.tune import Wisdom
    >>> wisdom = Wisdom()
    >>> entry = wisdom.record("matmul_t", isa="scalar", dtype="float32", sizes=(1, 100, 200, 300), threads=2,
    ...                       parameters={"block_k": 64})
    >>> entry.bucket
    (1, 64, 128, 256)
    >>> len(wisdom)
    1
    """

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._forgotten: dict[Any, float] = {}  # when: what a file holds is forgotten too, if it is no newer

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __repr__(self) -> str:
        return f"<Wisdom: {len(self)} entries, {sum(entry.applies() for entry in self)} of this machine>"

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> "Wisdom":
        """Read a file.

        Parameters
        ----------
        path : path, optional
            Default: the user's file; nothing is read where TRANSFUSE_WISDOM=off.

        Returns
        -------
        Wisdom
            Empty where there is no file.

        Warns
        -----
        RuntimeWarning
            The file, or some of its entries, cannot be used; they are left out.
        """
        wisdom = cls()
        if path is None and _wisdom.is_off():
            return wisdom
        wisdom._add(_read(_wisdom.user_path() if path is None else Path(path)).entries)
        return wisdom

    def record(
        self,
        operation: str,
        *,
        isa: str,
        dtype: str,
        sizes: Sequence[int],
        threads: int,
        parameters: Mapping[str, int],
        seconds: float | None = None,
        default_seconds: float | None = None,
        decided: bool = True,
    ) -> Entry:
        """Add what was found on this machine, in place of what there was for the same bucket and number of threads.

        Parameters
        ----------
        operation : {"matmul_t", "attention"}
        isa : str
            A tier that this machine can run.
        dtype : str
            attention: that of the keys.
        sizes : sequence of int
            (batch, m, k, n), or (batch, q_heads, kv_heads, queries, keys, head_dim, causal), the last one 0 or 1.
        threads : int
            With how many it was found.
        parameters : mapping
            What replaces the defaults. What affects rounding (``block_k``; ``block_kv``, ``key_chunk``) holds for every
            number of threads: of several entries of a bucket, that of the newest.
        seconds, default_seconds : float, optional
            A call with these parameters, and with the defaults.
        decided : bool
            No: nothing is known, and what there is for the same stays.

        Raises
        ------
        ValueError, TypeError
            An unknown name, a value out of range, or "isa" or "threads" among the parameters.
        """
        values = {name: int(value) for name, value in parameters.items()}
        _core.check_tuned(operation, isa, dtype, tuple(sizes), dict(parameters), threads)
        for name, value in (("seconds", seconds), ("default_seconds", default_seconds)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a finite time, got {value}")
        entry = Entry(
            machine=_wisdom.this_machine(),
            operation=operation,
            isa=isa,
            dtype=dtype,
            sizes=tuple(int(size) for size in sizes),
            threads=int(threads),
            parameters=values,
            seconds=None if seconds is None else float(seconds),
            default_seconds=None if default_seconds is None else float(default_seconds),
            when=time.time() if decided else 0.0,
        )
        if decided:
            self.put(entry)
        else:
            self._add([entry])
        return entry

    def put(self, entry: Entry) -> None:
        """Add an entry, in place of what there was for the same."""
        self._entries[entry.key] = entry

    def apply(self) -> int:
        """Let the calls of this process use the entries of this machine.

        They replace, bucket by bucket, what the process uses so far. Returns how many they are.
        """
        return _wisdom.apply(list(self))

    def merge(self, other: "Wisdom") -> None:
        """Add the entries of another one; of two for the same, the newer one stays."""
        self._add(other)

    def forget(self, operation: str | None = None, *, isa: str | None = None, dtype: str | None = None) -> int:
        """Remove the entries of an operation, a tier, a dtype, or all. Returns how many they were.

        save() removes them from the file too. A process that uses them goes on using them.
        """
        wanted = (operation, isa, dtype)
        removed = [
            entry
            for entry in self
            if all(w in (None, e) for w, e in zip(wanted, (entry.operation, entry.isa, entry.dtype), strict=True))
        ]
        for entry in removed:
            self._forgotten[entry.key] = self._entries.pop(entry.key).when
        return len(removed)

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Merge the entries into a file, in one step that no other process sees half done.

        What cannot be read there is kept beside it, with ``.old`` at the end of its name, or ``.old2`` and so on
        where that is taken.

        Parameters
        ----------
        path : path, optional
            Default: the user's file. Directories are made; a symbolic link stays one.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        OSError
            It cannot be written (PermissionError, TimeoutError ...), or is no regular file. What was there is
            unchanged.
        ValueError
            No path, where TRANSFUSE_WISDOM=off.
        """
        import filelock

        if path is None and _wisdom.is_off():
            raise ValueError("path: expected one where TRANSFUSE_WISDOM=off, got None")
        path = Path(os.path.realpath(_wisdom.user_path() if path is None else path))
        with _explained(path):
            _require_regular(path)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with filelock.FileLock(f"{path}.lock", timeout=_LOCK_SECONDS, mode=0o644):
                there = _read(path)
                if there.unusable and path.is_file():
                    path.replace(_free_name(path))
                merged, now = Wisdom(), time.time()
                kept = (e for e in there.entries if e.when > self._forgotten.get(e.key, -math.inf))
                merged._add(e if e.when <= now else e._replace(when=0.0) for e in kept)  # some clock was wrong
                merged._add(self)
                _write(path, merged)
        return path

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the entries to a file of their own, replacing what is there. OSError if that fails."""
        with _explained(Path(path)):
            _require_regular(Path(path))  # as it is named: /dev/stdout leads to what has no name
            _write(Path(os.path.realpath(path)), self)

    def import_file(self, path: str | os.PathLike[str]) -> int:
        """Merge the entries of a file that was exported, here or on another machine. Returns how many it holds.

        Raises
        ------
        FileNotFoundError
            There is none.
        ValueError
            It is no file of wisdom. (Of single entries that cannot be used a RuntimeWarning tells.)
        """
        path = Path(path)
        reading = _wisdom.read(path)
        if reading.unusable:
            raise ValueError(reading.problem(path))
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        _warn(reading.problem(path), stacklevel=3)
        self._add(reading.entries)
        return len(reading.entries)

    def _add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            known = self._entries.get(entry.key)
            if known is None or (entry.decided and known.when <= entry.when):
                self.put(entry)


def _read(path: Path) -> _wisdom.Reading:
    reading = _wisdom.read(path)
    _warn(reading.problem(path), stacklevel=4)
    return reading


def _warn(problem: str | None, stacklevel: int) -> None:
    if problem is not None:
        warnings.warn(problem, RuntimeWarning, stacklevel=stacklevel)


def document(entries: Iterable[Entry]) -> dict[str, Any]:
    """What a file holds, for JSON."""
    return {
        "schema": _wisdom.SCHEMA,
        "entries": [entry._asdict() | {"machine": entry.machine._asdict()} for entry in entries],
    }


def _write(path: Path, wisdom: Wisdom) -> None:
    text = json.dumps(document(wisdom), indent=1, allow_nan=False) + "\n"
    if len(text) > _wisdom.LARGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Everyone may read it, as far as the umask allows; only the owner may ever write.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _require_regular(path: Path) -> None:
    """What is written replaces what is there: that must not be a device, a pipe or a directory."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")


def _free_name(path: Path) -> str:
    """With ``.old`` at its end, and the first number that makes it a new one."""
    names = (f"{path}.old{number}" for number in ["", *map(str, range(2, 1000))])
    return next((name for name in names if not os.path.lexists(name)), f"{path}.old")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the operating system say what could not be written."""
    try:
        yield
    except OSError as error:
        number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
        reason = error.strerror or os.strerror(number)
        raise OSError(number, f"wisdom cannot be written: {reason}", str(path)) from error
