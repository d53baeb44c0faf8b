"""Libraries that misbehave, and a cheap operation for them: doubling an array."""

import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np

from transfuse.bench.libraries import Library, Transfuse
from transfuse.bench.operation import Form, Operation


@dataclass(frozen=True)
class Double:
    """Twice an array of `size` numbers."""

    size: int
    name: str = ""

    @property
    def label(self):
        """Its sizes in words."""
        return f"{self.size} numbers"

    @property
    def sizes(self):
        """For plots."""
        return (self.size,)

    @property
    def flops(self):
        """One addition each."""
        return float(self.size)

    @property
    def scores(self):
        """There is no softmax in it."""
        return 0.0

    def traffic(self, dtype):
        """Bytes read and written."""
        return (self.size * np.dtype(dtype).itemsize,) * 2


class Honest(Library):
    """Does as it should."""

    name = label = "honest"

    def load(self, threads):
        """Names for the forms."""
        return {"np": np, "double": self.double}

    def double(self, x, out):
        """The operation."""
        return np.add(x, x, out=out)


class Ours(Transfuse, Honest):
    """Stands in for transfuse."""

    def load(self, threads):
        """Names for the forms."""
        return Honest.load(self, threads)


class Spinner(Honest):
    """A thread of it goes on computing for ever after the first call."""

    name = label = "spinner"

    def double(self, x, out):
        """The operation."""
        if threading.active_count() == 1:
            threading.Thread(target=self._spin, daemon=True).start()
        return super().double(x, out)

    @staticmethod
    def _spin():
        while True:
            sum(range(1000))


class Crasher(Honest):
    """Its process dies in a call."""

    name = label = "crasher"

    def double(self, x, out):
        """The operation."""
        os.kill(os.getpid(), signal.SIGSEGV)


class LateCrasher(Honest):
    """Its process dies after a number of calls: in a round."""

    name = label = "late-crasher"
    calls = 0

    def double(self, x, out):
        """The operation."""
        self.calls += 1
        if self.calls > 120:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(1e-5)
        return super().double(x, out)


class LateRaiser(Honest):
    """Writing into the first `out` that it is given fails after a number of calls."""

    name = label = "late-raiser"
    calls = 0
    first = None

    def double(self, x, out):
        """The operation."""
        if self.first is None:
            self.first = out
        self.calls += out is self.first
        if out is self.first and self.calls > 60:
            raise ValueError("enough")
        time.sleep(1e-4)
        return super().double(x, out)


class Liar(Honest):
    """Returns wrong numbers."""

    name = label = "liar"

    def double(self, x, out):
        """Not quite the operation."""
        super().double(x, out)
        out[-1] += 1
        return out


class OursWrong(Liar):
    """Stands in for a transfuse that is wrong."""

    name = label = "transfuse"


class OursBroken(Honest):
    """Stands in for a transfuse that cannot be imported."""

    name = label = "transfuse"

    def load(self, threads):
        """Not even this."""
        raise ImportError("libours.so.1: cannot open shared object file")


class Sleeper(Honest):
    """Takes longer than anyone waits."""

    name = label = "sleeper"

    def double(self, x, out):
        """The operation."""
        time.sleep(30)


class Chatterbox(Honest):
    """Prints."""

    name = label = "chatterbox"

    def load(self, threads):
        """Names for the forms."""
        print("welcome to chatterbox")
        os.system("echo and its children")
        return super().load(threads)

    def double(self, x, out):
        """The operation."""
        print("doubling")
        return super().double(x, out)


class Raiser(Honest):
    """Cannot do it."""

    name = label = "raiser"

    def double(self, x, out):
        """Not the operation."""
        raise NotImplementedError("doubling is not supported\nsee the manual")


class Broken(Honest):
    """Cannot be imported."""

    name = label = "broken"

    def load(self, threads):
        """Not even this."""
        raise ImportError("libbroken.so.1: cannot open shared object file")


class Absent(Honest):
    """Is not installed."""

    name = label = "absent"
    distribution = module = "surely_not_installed"


def path(library):
    """Where a worker finds a class of this module."""
    return f"{__name__}:{library.__name__}"


OPERATION = Operation(
    name="double",
    title="2x",
    sizes="numbers",
    path=f"{__name__}:OPERATION",
    case=Double,
    parse=lambda text: Double(int(text)),
    suites={},
    inputs=lambda case, dtype, rng: {"x": rng.standard_normal(case.size).astype(dtype)},
    output_shape=lambda case: (case.size,),
    reference=lambda case, inputs, dtype: (2 * inputs["x"], 1e-6),
    forms={
        library.name: lambda case: [
            Form("double(x, out)", True, "y = np.empty_like(x)"),
            Form("double(x, np.empty_like(x))", False),
        ]
        for library in (
            *(Ours, Honest, Spinner, Crasher, LateCrasher, LateRaiser),
            *(Liar, Sleeper, Chatterbox, Raiser, Broken, Absent),
        )
    },
)
