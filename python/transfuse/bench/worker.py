"""The process in which one library is timed.

    python -m transfuse.bench.worker LIBRARY THREADS

says {"ready": true}, then reads requests, one JSON object per line, and answers each with a line:

    {"do": "start"}          -> {}                    import the library
    {"do": "load", ...}      -> {"forms": [...]}      make the inputs of a case
    {"do": "reference", ...} -> {"tolerance": x}      the result in float64, into a file
    {"do": "prepare", ...}   -> {}                    a form's setup: views, compilation
    {"do": "call", ...}      -> {}                    one call
    {"do": "compare", ...}   -> {"error": x}          its result against the reference; null if it is none
    {"do": "estimate", ...}  -> {"seconds": x}        about how long a call takes
    {"do": "sample", ...}    -> {"seconds": x, ...}   the time per call over several calls
    {"do": "probe", ...}     -> {...}                 the machine's limits

An exception becomes {"failed": text}.
"""

import ctypes
import dataclasses
import json
import math
import os
import signal
import sys
import time
import timeit
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from transfuse.bench import dtypes, limits, operation
from transfuse.bench.libraries import Library

ESTIMATE_SECONDS = 0.001


ALIGNMENT = 64
"""Bytes. Where NumPy's allocator puts an array is chance, and a store that touches two cache lines costs two."""


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new array that starts at a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _aligned_copy(array: NDArray[Any]) -> NDArray[Any]:
    """The same for an input; views of a larger array stay as they are."""
    if not array.flags.c_contiguous:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


class Session:
    """What a worker holds between requests."""

    def __init__(self, library: Library, threads: int) -> None:
        self._library = library
        self._threads = threads
        self._names: dict[str, Any] = {}
        self._limits = limits.Limits(threads)
        self._unload()

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        handler = getattr(self, "do_" + request.pop("do"))
        answer: dict[str, Any] = handler(**request)
        return answer

    def do_start(self) -> dict[str, Any]:
        """Import the library."""
        self._names = self._library.load(self._threads)
        return {}

    def _unload(self) -> None:
        self._arrays: dict[str, Any] = {}
        self._spaces: dict[int, dict[str, Any]] = {}
        self._out: Any = None
        self._result: Any = None

    def do_load(self, path: str, case: dict[str, Any], dtype: str, seed: int) -> dict[str, Any]:
        """Make the inputs of a case."""
        self._unload()
        found = operation.find_operation(path)
        built, self._dtype = found.case(**case), dtypes.array_dtype(dtype)
        inputs = found.inputs(built, dtype, np.random.default_rng(seed))
        self._arrays = {name: self._library.from_numpy(_aligned_copy(array)) for name, array in inputs.items()}
        self._arrays |= {"own": self._library.from_numpy, "dtype": dtype}
        self._out_shape = found.output_shape(built)
        self._forms = [form for form in found.forms[self._library.name](built) if dtype in form.dtypes]
        return {"forms": [dataclasses.asdict(form) for form in self._forms]}

    def do_reference(self, path: str, case: dict[str, Any], dtype: str, seed: int, file: str) -> dict[str, Any]:
        """Compute a case in float64."""
        found = operation.find_operation(path)
        built = found.case(**case)
        inputs = found.inputs(built, dtype, np.random.default_rng(seed))
        doubles = {name: array.astype(np.float64) for name, array in inputs.items()}
        result, tolerance = found.reference(built, doubles, dtype)
        np.save(file, result)
        return {"tolerance": tolerance}

    def do_prepare(self, form: int) -> dict[str, Any]:
        """Run a form's setup. All forms share one `out`, which holds no result of another form then."""
        names = self._names | self._arrays
        if self._forms[form].writes_out:
            if self._out is None:
                self._out = aligned_empty(self._out_shape, self._dtype)
            self._out.fill(np.nan)
            names["out"] = self._library.from_numpy(self._out)
        exec(self._forms[form].setup, names)
        self._spaces[form] = names
        return {}

    def do_call(self, form: int) -> dict[str, Any]:
        """Call a form once and keep its result."""
        names = self._spaces[form]
        value = eval(self._forms[form].statement, names)
        self._result = names["out"] if self._forms[form].writes_out else value
        return {}

    def do_compare(self, file: str) -> dict[str, Any]:
        """The largest difference of the result from the reference; None if it has another shape or is not finite."""
        result, reference = self._library.to_numpy(self._result), np.load(file)
        self._result = None
        if result.shape != reference.shape or result.dtype != self._dtype:
            return {"error": None}
        error = float(np.max(np.abs(result - reference), initial=0.0))
        return {"error": error if np.isfinite(error) else None}

    def do_estimate(self, form: int) -> dict[str, Any]:
        """Time a form roughly: over as many calls as take ESTIMATE_SECONDS, the better of two."""
        timer = timeit.Timer(self._forms[form].statement, globals=self._spaces[form])
        calls, seconds = 1, timer.timeit(1)
        while seconds < ESTIMATE_SECONDS:
            calls *= 4
            seconds = timer.timeit(calls)
        return {"seconds": min(seconds, timer.timeit(calls)) / calls}

    def do_sample(self, form: int, calls: int, warm: bool) -> dict[str, Any]:
        """Time a form, after an untimed call if `warm`; and the part of that time in which it was not on a CPU."""
        timer = timeit.Timer(self._forms[form].statement, globals=self._spaces[form])
        if warm:
            timer.timeit(1)
        cpu = time.process_time()
        seconds = timer.timeit(calls)
        return {"seconds": seconds / calls, "waiting": max(0.0, seconds - (time.process_time() - cpu)) / seconds}

    def do_probe(self, dtype: str, read: int, write: int, softmax: bool) -> dict[str, Any]:
        """Measure the machine's limits."""
        return dataclasses.asdict(self._limits.measure(dtype, read, write, softmax=softmax))


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends: it may be stopped then, and could not notice."""
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _own_output() -> TextIO:
    """The output for answers alone: whatever libraries print goes to the error output."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def main() -> None:
    """Serve requests until the input ends."""
    _die_with_parent()
    channel = _own_output()

    def reply(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    library: Library = operation.find(sys.argv[1])()
    session = Session(library, int(sys.argv[2]))
    reply({"ready": True})
    for line in sys.stdin:
        try:
            reply(session.handle(json.loads(line)))
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            reply({"failed": f"{type(error).__name__}: {text.splitlines()[0]}"})


if __name__ == "__main__":
    main()
