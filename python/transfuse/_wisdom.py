"""The files of wisdom: where they are, how they are read, and how the first call of an operation loads them.

Imported with transfuse, because it must know of every fork(); so it imports little. Nothing that a file contains raises
an exception here: a file, or an entry, that cannot be used is left out, and said.
"""

import functools
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from transfuse import _core

SCHEMA = 1
LATEST = 1 << 35  # seconds since 1970 that an entry may be of: the year 3058
LARGEST_FILE = 4 << 20  # bytes; some ten thousand entries
VARIABLE = "TRANSFUSE_WISDOM"
ROUNDING = ("block_k", "block_kv", "key_chunk")  # parameters that are the same for every number of threads


class Machine(NamedTuple):
    """What timings depend on. Caches are in bytes, 0 where unknown; cores are logical."""

    cpu: str
    l1d: int
    l2: int
    l3: int
    cores: int


class Entry(NamedTuple):
    """A tuned configuration, for one bucket of sizes and one number of threads, and its evidence.

    Attributes
    ----------
    sizes : tuple of int
        Those that were tuned: (batch, m, k, n), or (batch, q_heads, kv_heads, queries, keys, head_dim, causal).
    dtype : str
        attention: that of the keys.
    parameters : dict
        What replaces the defaults.
    seconds, default_seconds : float or None
        A call with these parameters, and with the defaults.
    when : float
        Seconds since 1970; 0 where that is not known, or nothing was decided.
    """

    machine: Machine
    operation: str
    isa: str
    dtype: str
    sizes: tuple[int, ...]
    threads: int
    parameters: dict[str, int]
    seconds: float | None
    default_seconds: float | None
    when: float

    @property
    def bucket(self) -> tuple[int, ...]:
        """The power of two at or below each size, 0 for 0."""
        return tuple(1 << size.bit_length() >> 1 for size in self.sizes)

    @property
    def key(self) -> tuple[Any, ...]:
        """What there is one entry for."""
        return self.machine, self.operation, self.isa, self.dtype, self.bucket, self.threads

    @property
    def speedup(self) -> float | None:
        """How many times faster than with the defaults, if both were recorded."""
        return self.default_seconds / self.seconds if self.default_seconds and self.seconds else None

    @property
    def decided(self) -> bool:
        """Whether something is known; if not, it stands behind all others for the same."""
        return self.when > 0

    def applies(self) -> bool:
        """Whether it was found on a machine like this one, for a tier that runs here."""
        return self.machine == this_machine() and self.isa in _core.available_isas()

    def arguments(self) -> tuple[str, str, str, tuple[int, ...], dict[str, int], int]:
        """The arguments of ``_core.set_tuned``."""
        return self.operation, self.isa, self.dtype, self.sizes, self.parameters, self.threads


class Reading(NamedTuple):
    """What a file holds, and what is wrong with it. A file that could not be used has faults and is `unusable`."""

    entries: list[Entry]
    faults: list[str]
    unusable: bool

    def problem(self, path: Path) -> str | None:
        """All faults in one sentence."""
        if not self.faults:
            return None
        if self.unusable:
            return f"wisdom: {path} is ignored: {self.faults[0]}"
        more = f"; and {len(self.faults) - 3} more" if len(self.faults) > 3 else ""
        return f"wisdom: of {path} are ignored: {'; '.join(self.faults[:3])}{more}"


@functools.cache
def this_machine() -> Machine:
    """This process's machine."""
    return Machine(_core.cpu_model(), **_core.cache_sizes(), cores=os.cpu_count() or 1)


def is_off() -> bool:
    """Whether the environment switches wisdom off."""
    return os.environ.get(VARIABLE) == "off"


def user_path() -> Path:
    """The file that is written: the one that TRANSFUSE_WISDOM names, else the one in the user's cache directory."""
    import platformdirs

    named = os.environ.get(VARIABLE)
    if named and named != "off":
        return Path(os.path.abspath(os.path.expanduser(named)))
    return platformdirs.user_cache_path("transfuse") / "wisdom.json"


def system_path() -> Path:
    """The file for all users of this machine, which only an administrator writes."""
    import platformdirs

    return platformdirs.site_config_path("transfuse") / "wisdom.json"


def paths() -> list[Path]:
    """The files that are read, the one that wins last: none, the named one, or the system's and the user's."""
    if is_off():
        return []
    return [user_path()] if os.environ.get(VARIABLE) else [system_path(), user_path()]


def read(path: Path) -> Reading:
    """Read a file; one that does not exist is empty.

    Entries of other machines are returned too. Those of this one are checked for what the kernels accept.
    """
    try:
        return _parse(_contents(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            return Reading([], [f"a symbolic link to nothing ({error.strerror})"], unusable=True)
        return Reading([], [], unusable=False)
    except OSError as error:
        return Reading([], [error.strerror or str(error)], unusable=True)
    except RecursionError:
        return Reading([], ["nested too deeply"], unusable=True)
    except ValueError as error:
        return Reading([], [str(error)], unusable=True)


def _contents(path: Path) -> bytes:
    # Opening a pipe would wait for somebody who writes to it, but for O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        contents = file.read(LARGEST_FILE + 1)
    if len(contents) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
    return contents


def _parse(contents: bytes) -> Reading:
    import json

    try:
        document = json.loads(contents.decode())
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise ValueError("not a file of wisdom")
    if type(document["schema"]) is not int or document["schema"] != SCHEMA:
        raise ValueError(f"schema {_short(document['schema'])}, expected {SCHEMA}")
    items = document.get("entries")
    if not isinstance(items, list):
        raise ValueError(f"entries: expected a list, got {_short(items)}")
    reading = Reading([], [], unusable=False)
    for number, item in enumerate(items):
        try:
            entry = _entry(item)
            if entry.applies():
                _core.check_tuned(*entry.arguments())
            reading.entries.append(entry)
        except (TypeError, ValueError) as error:
            reading.faults.append(_cut(f"entry {number}: {error}", 300))
    return reading


def _entry(item: Any) -> Entry:
    fields = _Fields(item)
    machine = _Fields(fields.get("machine", dict))
    parameters = fields.get("parameters", dict)
    if not "".join(parameters).isprintable():
        raise ValueError("parameters: expected printable names")
    return Entry(
        machine=Machine(
            cpu=machine.get("cpu", str), **{name: machine.integer(name) for name in ("l1d", "l2", "l3", "cores")}
        ),
        operation=fields.get("operation", str),
        isa=fields.get("isa", str),
        dtype=fields.get("dtype", str),
        sizes=tuple(_integer("sizes", size) for size in fields.get("sizes", list)),
        threads=fields.integer("threads"),
        parameters={name: _integer(name, value) for name, value in parameters.items()},
        seconds=fields.seconds("seconds"),
        default_seconds=fields.seconds("default_seconds"),
        when=fields.seconds("when", LATEST) or 0.0,
    )


class _Fields:
    """The fields of a JSON object, with the types that they should have."""

    def __init__(self, item: Any) -> None:
        if not isinstance(item, dict):
            raise ValueError(f"expected an object, got {_short(item)}")
        self._item = item

    def get(self, name: str, kind: type) -> Any:
        value = self._item.get(name)
        if type(value) is not kind or (isinstance(value, str) and not value.isprintable()):
            raise ValueError(f"{name}: expected a {kind.__name__}, got {_short(value)}")
        return value

    def integer(self, name: str) -> int:
        return _integer(name, self._item.get(name))

    def seconds(self, name: str, most: float = math.inf) -> float | None:
        value = self._item.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= most:
            raise ValueError(f"{name}: expected seconds, got {_short(value)}")
        return float(value)


def _integer(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name}: expected an integer of 0...2^63 - 1, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    """What came, for a message: printable, and not a page of it."""
    if isinstance(value, dict | list):
        return type(value).__name__
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge integer"
    return _cut(ascii(value), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


_lock = threading.RLock()
_state = "unread"  # then "reading", then "read"

# fork() waits for whoever is reading: a child would wait forever for a lock, ours or that of a module that is being
# imported, which a thread of the parent holds.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def ensure_loaded() -> bool:
    """Put what the files hold for this machine into the registry, once in a process.

    Returns
    -------
    bool
        Whether that is done: not while it is being done by this thread.

    Warns
    -----
    RuntimeWarning
        One for each file that has faults.
    """
    global _state
    problems: list[str] = []
    with _lock:
        if _state != "unread":
            return _state == "read"
        _state = "reading"
        try:
            problems = _load()
            _state = "read"
        except Exception:
            _state = "read"  # what failed would fail again
            raise
        finally:
            if _state == "reading":  # interrupted
                _state = "unread"
    for problem in problems:
        warnings.warn(problem, RuntimeWarning, stacklevel=2)
    return True


def _load() -> list[str]:
    found = {path: read(path) for path in paths()}
    _put(ranked(reading.entries for reading in found.values()))
    return [problem for path, reading in found.items() if (problem := reading.problem(path))]


def ranked(files: Iterable[list[Entry]]) -> list[Entry]:
    """The entries of files that are for this machine, the one that counts last: of all files those of which nothing is
    known, then those of one file after the other, from the oldest to the newest.
    """
    own = [(number, entry) for number, entries in enumerate(files) for entry in entries if entry.applies()]
    return [entry for _, entry in sorted(own, key=lambda one: (one[1].decided, one[0], one[1].when))]


def apply(entries: list[Entry]) -> int:
    """Put the entries of this machine into the registry, the newest last, and return how many they are."""
    own = ranked([entries])
    _put(own)
    return len(own)


def _put(entries: list[Entry]) -> None:
    _core.set_all_tuned([entry.arguments() for entry in entries])
