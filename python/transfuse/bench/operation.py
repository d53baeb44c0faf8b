"""What an operation declares so that it can be compared: its cases, their inputs and cost, and each library's forms."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from transfuse.bench.dtypes import PLAIN

if TYPE_CHECKING:
    from transfuse.bench.goals import Goal


@dataclass(frozen=True)
class Form:
    """One way in which a library computes the operation.

    Attributes
    ----------
    statement : str
        What is timed, as Python: an expression whose value is the result, or a call that writes ``out``. It sees the
        operation's inputs by name (as the library's arrays), ``out`` if it writes it, and the library's names. A
        library's statements for a case differ from each other.
    writes_out : bool
        The result goes into ``out``, which is allocated beforehand.
    setup : str
        Statements that run once before: views, compilation. They see besides ``dtype``, the line's, and ``own``, which
        makes the library's array from one of NumPy.
    dtypes : tuple of str
        Those of the operation's dtypes for which it is a form.
    """

    statement: str
    writes_out: bool
    setup: str = ""
    dtypes: tuple[str, ...] = PLAIN


class Case(Protocol):
    """A shape with its options; a frozen dataclass whose fields JSON can hold."""

    @property
    def label(self) -> str:
        """Its sizes in words."""
        ...

    @property
    def name(self) -> str:
        """What it is called, or ""."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes, for plots."""
        ...

    @property
    def flops(self) -> float:
        """Floating-point operations of a call, additions and multiplications counted apart."""
        ...

    @property
    def scores(self) -> float:
        """Numbers that a softmax is taken of, besides `flops`; 0 for an operation without one."""
        ...

    def traffic(self, dtype: str) -> tuple[int, int]:
        """Bytes that a call must read and write at least."""
        ...


C = TypeVar("C", bound=Case)


@dataclass(frozen=True)
class Operation(Generic[C]):
    """An operation as the benchmark sees it.

    `path` is where a worker finds it: "module:attribute". `sizes` says what the sizes of its cases are: "M×K×N".
    """

    name: str
    title: str
    sizes: str
    path: str
    case: type[C]
    parse: Callable[[str], C]
    suites: Mapping[str, tuple[C, ...]]
    inputs: Callable[[C, str, np.random.Generator], dict[str, NDArray[Any]]]  # (case, dtype, generator)
    output_shape: Callable[[C], tuple[int, ...]]
    # (case, inputs in float64, dtype) -> the result in float64 and how far from it an honest result may be
    reference: Callable[[C, dict[str, NDArray[Any]], str], tuple[NDArray[np.float64], float]]
    forms: Mapping[str, Callable[[C], list[Form]]]  # by library
    dtypes: tuple[str, ...] = PLAIN
    goals: Mapping[str, tuple["Goal[C]", ...]] = field(default_factory=dict)  # by suite


def find(path: str) -> Any:
    """The object at "module:attribute"."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def find_operation(path: str) -> Operation[Any]:
    """The operation at "module:attribute"."""
    return cast(Operation[Any], find(path))
