"""What can be tuned: the operations, and any callable."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

import transfuse
from transfuse import _core
from transfuse.bench import attention, dtypes, matmul_t
from transfuse.bench.operation import Operation
from transfuse.tune.function import difference
from transfuse.tune.space import Configuration, Space


class Target(Protocol):
    """Something that takes a configuration and some time."""

    @property
    def name(self) -> str:
        """In words."""
        ...

    def describe(self) -> dict[str, Any]:
        """As JSON: two targets that describe themselves alike are the same."""
        ...

    def space(self) -> Space:
        """The space that is worth searching."""
        ...

    def default_in(self, space: Space) -> Configuration:
        """What is used without tuning, every parameter said."""
        ...

    def effective(self, configuration: Configuration) -> Configuration:
        """The same for configurations that are known to do the same."""
        ...

    def prepare(self, configuration: Configuration) -> Callable[[], Any]:
        """A call with this configuration; its value is the output."""
        ...

    def difference(self, output: Any, expected: Any) -> str | None:
        """What is wrong with an output, or None."""
        ...


class _Operation:
    """An operation on random arrays, which are read-only; the output goes into memory that is there."""

    def __init__(
        self, operation: Operation[Any], case: Any, function: Callable[..., Any], dtype: str, threads: int | None
    ) -> None:
        if dtype not in operation.dtypes or dtype == dtypes.QUANTISED:
            known = [name for name in operation.dtypes if name != dtypes.QUANTISED]
            raise ValueError(f"dtype: expected one of {', '.join(known)}, got {dtype!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        self.case, self.dtype = case, dtype
        self.threads = threads or _core.default_threads()[0]
        self.operation = function.__name__
        self._operation, self._function = operation, function
        self.isa = _core.current_isa()

    @property
    def name(self) -> str:
        """Operation, sizes and dtype."""
        return f"{self.operation} {self.case.label}, {self.dtype}"

    def describe(self) -> dict[str, Any]:
        """The case's fields, the dtype and what the default uses."""
        return {
            "operation": self.operation,
            "case": dataclasses.asdict(self.case),
            "dtype": self.dtype,
            "isa": self.isa,
            "threads": self.threads,
        }

    def difference(self, output: Any, expected: Any) -> str | None:
        """See :func:`difference`."""
        return difference(output, expected)

    def effective(self, configuration: Configuration) -> Configuration:
        """Blocks larger than what there is to cut do what exact ones do."""
        limits, full = self._limits(), self.default | configuration
        return {name: min(value, limits[name]) if name in limits else value for name, value in full.items()}

    def prepare(self, configuration: Configuration) -> Callable[[], Any]:
        """A call that returns ``out``, which all calls write."""
        return functools.partial(self._call, out=self._out, config={"isa": self.isa} | self.default | configuration)

    def default_in(self, space: Space) -> Configuration:
        """The same in every space; see :attr:`default`."""
        return self.default

    def _limits(self) -> dict[str, int]:
        raise NotImplementedError

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        arrays = self._operation.inputs(self.case, self.dtype, np.random.default_rng(0))
        for array in arrays.values():
            array.flags.writeable = False
        return functools.partial(self._function, *arrays.values(), **self._options())

    def _options(self) -> dict[str, Any]:
        return {}

    @functools.cached_property
    def _out(self) -> Any:
        return np.empty(self._operation.output_shape(self.case), dtypes.array_dtype(self.dtype))

    def _with_threads(self, values: Mapping[str, set[int]]) -> Space:
        """A space of blocks, the default's among them, and numbers of threads."""
        default, limits = self.default, self._limits()
        parameters = {name: sorted({*blocks, default[name]}) for name, blocks in values.items()}
        for name, limit in limits.items():
            within = [value for value in parameters[name] if value < limit]
            parameters[name] = [*within, *parameters[name][len(within) :][:1]]
        useful = {name: blocks for name, blocks in parameters.items() if len(blocks) > 1}
        return Space(useful | {"threads": _thread_counts(self.threads)})

    @property
    def default(self) -> Configuration:
        """What a call uses without wisdom, said in full, so that wisdom in this process changes nothing in it."""
        return _core.default_config(self.operation, self.isa, self.dtype, self.sizes) | {"threads": self.threads}

    @property
    def sizes(self) -> tuple[int, ...]:
        """By which a call looks up what was found."""
        raise NotImplementedError


class MatmulT(_Operation):
    """(A·B)ᵀ of random matrices: a (batch, m, k), b (batch, k, n).

    Parameters
    ----------
    m, k, n : int
    batch : int or tuple of int
        Nothing for a single product.
    dtype : {"float32", "float64"}
    threads : int, optional
        The most that the space has, and what the default uses; default: as many as a call uses.

    Raises
    ------
    ValueError
    """

    def __init__(
        self,
        m: int,
        k: int,
        n: int,
        *,
        batch: int | tuple[int, ...] = (),
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        _require_positive(m=m, k=k, n=n)
        case = matmul_t.MatmulT(m, k, n, (batch,) if isinstance(batch, int) else tuple(batch))
        super().__init__(matmul_t.OPERATION, case, transfuse.matmul_t, dtype, threads)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(batch, m, k, n)."""
        return math.prod(self.case.batch), self.case.m, self.case.k, self.case.n

    def _limits(self) -> dict[str, int]:
        return {"block_m": self.case.m, "block_n": self.case.n, "block_k": self.case.k}

    def space(self) -> Space:
        """Blocks from a quarter of the default's size to some times it, and threads."""
        return self._with_threads(
            {
                "block_m": {64, 128, 256, 512, 1024},
                "block_n": {42, 84, 168, 336},  # whole tiles of 14 rows and of 6
                "block_k": {128, 256, 384, 512, 1024},
            }
        )


class Attention(_Operation):
    """Attention of random arrays: q (batch, heads, queries, depth), k and v (batch, kv_heads, keys, depth).

    Parameters
    ----------
    batch, heads, queries, depth : int
    keys, kv_heads : int, optional
        Default: as many as queries, and as heads.
    causal : bool
        The last query stands at the last key.
    dtype : {"float32", "float64", "float16", "bfloat16"}
    threads : int, optional
        The most that the space has, and what the default uses; default: as many as a call uses.

    Raises
    ------
    ValueError
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        queries: int,
        depth: int,
        *,
        keys: int | None = None,
        kv_heads: int | None = None,
        causal: bool = False,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        keys, kv_heads = keys or queries, kv_heads or heads
        _require_positive(batch=batch, heads=heads, queries=queries, depth=depth, keys=keys, kv_heads=kv_heads)
        if heads % kv_heads:
            raise ValueError(f"heads: expected a multiple of {kv_heads}, got {heads}")
        case = attention.Attention(batch, heads, queries, depth, keys, kv_heads, option="causal" if causal else "")
        super().__init__(attention.OPERATION, case, transfuse.attention, dtype, threads)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(batch, q_heads, kv_heads, queries, keys, head_dim, causal)."""
        c = self.case
        return c.batch, c.heads, c.kv_heads, c.queries, c.keys, c.depth, int(c.option == "causal")

    @property
    def _sharing(self) -> int:
        """Queries that share keys: those of all heads of a group."""
        return int(self.case.queries * self.case.group)

    def _options(self) -> dict[str, Any]:
        return {"causal": "lower_right"} if self.case.option else {}

    def _limits(self) -> dict[str, int]:
        keys = self.case.keys
        return {
            "block_q": self._sharing,
            "block_kv": min(_core.MOST_KEYS, keys),
            "key_chunk": keys if self._sharing <= _core.SPLIT_QUERIES else 1,
        }

    def space(self) -> Space:
        """Blocks from a sixteenth of the default's size to some times it, and threads."""
        blocks = {32, 64, 128, 192, 256, 384, 512, 1024}
        return self._with_threads({"block_q": blocks, "block_kv": blocks, "key_chunk": blocks | {2048, 4096}})


def _thread_counts(most: int) -> list[int]:
    """Powers of two, and the most."""
    return sorted({*(2**i for i in range(most.bit_length())), most})


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
