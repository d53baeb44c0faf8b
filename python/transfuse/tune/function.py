"""Any callable as a target, and the comparison of outputs."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from transfuse.bench import dtypes
from transfuse.tune.space import Configuration, Space

Agree = Callable[[Any, Any], str | None]


class Function:
    """A callable that takes the parameters by name.

    Parameters
    ----------
    function : callable
        Its value is the output that is compared with the default's: an array, a number, a tuple of such, or None where
        there is nothing to compare.
    default : dict, optional
        The default configuration. Default: the default values of the space's parameters in the function's signature,
        or, if it lacks one, the space's first configuration.
    name : str, optional
    agree : callable, optional
        ``agree(output, expected)`` says in words what is wrong, or None. Default: :func:`difference`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        default: Configuration | None = None,
        *,
        name: str | None = None,
        agree: Agree | None = None,
    ) -> None:
        self.name = name or getattr(function, "__qualname__", type(function).__name__)
        self.default = default
        self._function, self._agree = function, agree or difference

    def describe(self) -> dict[str, Any]:
        """Its name: two functions of a name count as the same, so an anonymous one has no journal."""
        return {"function": self.name}

    def space(self) -> Space:
        """There is none that anybody could guess.

        Raises
        ------
        TypeError
        """
        raise TypeError(f"space: expected a Space for the callable {self.name}, got None")

    def default_in(self, space: Space) -> Configuration:
        """The default configuration."""
        if self.default is not None:
            return dict(self.default)
        try:
            signature = inspect.signature(self._function).parameters
        except (TypeError, ValueError):  # some built-in functions have none
            signature = inspect.Signature().parameters
        found = {name: signature[name].default for name in space.parameters if name in signature}
        if len(found) < len(space.parameters) or inspect.Parameter.empty in found.values():
            return space.configurations()[0]
        return found

    def effective(self, configuration: Configuration) -> Configuration:
        """Nothing is known of it."""
        return configuration

    def prepare(self, configuration: Configuration) -> Callable[[], Any]:
        """The function with its parameters."""
        return functools.partial(self._function, **configuration)

    def difference(self, output: Any, expected: Any) -> str | None:
        """As `agree` says."""
        return self._agree(output, expected)


def difference(output: Any, expected: Any) -> str | None:
    """What distinguishes two outputs by more than rounding, in words, or None.

    Floating-point numbers may differ by the square root of the coarser dtype's epsilon (half of its digits) times the
    largest number that is expected; other numbers not at all.
    """
    if expected is None or output is None:
        return None if output is expected else f"expected {_kind(expected)}, got {_kind(output)}"
    if isinstance(expected, tuple | list):
        if not isinstance(output, tuple | list) or len(output) != len(expected):
            return f"expected {len(expected)} outputs, got {_kind(output)}"
        return next(filter(None, map(difference, output, expected)), None)
    a, b = np.asarray(output), np.asarray(expected)
    if a.shape != b.shape:
        return f"expected the shape {b.shape}, got {a.shape}"
    if a.dtype.kind in "biuOSU" and b.dtype.kind in "biuOSU":
        return None if bool(np.all(a == b)) else "its numbers are others"
    tolerance = math.sqrt(max(dtypes.epsilon(x.dtype.name) for x in (a, b) if x.dtype.kind not in "biu"))
    wide_a, wide_b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (a, b))
    finite = np.isfinite(wide_b)
    if not np.array_equal(wide_a[~finite], wide_b[~finite], equal_nan=True):
        return "it is not finite where the default is, or the reverse"
    off = np.abs(wide_a[finite] - wide_b[finite]).max(initial=0)
    largest = np.abs(wide_b[finite]).max(initial=0)
    if off <= tolerance * largest:
        return None
    return f"its output is off by {off:.2g}, more than {tolerance * largest:.2g}"


def _kind(output: Any) -> str:
    return "nothing" if output is None else type(output).__name__
