"""The compiled part of transfuse."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, SupportsFloat, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

class _SupportsDLPack(Protocol):
    def __dlpack__(self, *, max_version: tuple[int, int] | None = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class _SupportsArrayInterface(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

_Array: TypeAlias = NDArray[Any]  # float32 or float64; attention's also float16 or ml_dtypes.bfloat16
_ArrayLike: TypeAlias = _Array | _SupportsDLPack | _SupportsArrayInterface
_Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu"]
_BoolLike: TypeAlias = NDArray[np.bool_] | _SupportsDLPack | _SupportsArrayInterface
_Integers: TypeAlias = int | NDArray[np.integer[Any]] | Sequence[int] | _SupportsDLPack
_Causal: TypeAlias = bool | Literal["upper_left", "lower_right"]
_Window: TypeAlias = tuple[SupportsIndex | None, SupportsIndex | None]

__version__: Final[str]
COMPILER: Final[str]
BUILT_ISAS: Final[tuple[str, ...]]
MOST_KEYS: Final[int]  # more keys in a block count as so many
SPLIT_QUERIES: Final[int]  # so many queries that share keys are the most whose keys are cut by key_chunk

def matmul_t(
    a: _ArrayLike,
    b: _ArrayLike,
    *,
    out: _Array | None = None,
    bias: _ArrayLike | None = None,
    activation: _Activation | None = None,
    num_threads: SupportsIndex | None = None,
    config: Mapping[str, Any] | None = None,
) -> NDArray[Any]: ...
@overload
def attention(
    q: _ArrayLike,
    k: _ArrayLike | None = None,
    v: _ArrayLike | None = None,
    *,
    cache: KVCache | None = None,
    mask: _BoolLike | None = None,
    bias: _ArrayLike | None = None,
    causal: _Causal = False,
    query_offset: _Integers | None = None,
    scale: SupportsFloat | None = None,
    window: _Window | None = None,
    softcap: SupportsFloat | None = None,
    alibi_slopes: _ArrayLike | None = None,
    sinks: _ArrayLike | None = None,
    kv_lengths: _Integers | None = None,
    layout: Literal["bhsd", "bshd"] = "bhsd",
    out: _Array | None = None,
    return_lse: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
    config: Mapping[str, Any] | None = None,
) -> NDArray[Any]: ...
@overload
def attention(
    q: _ArrayLike,
    k: _ArrayLike | None = None,
    v: _ArrayLike | None = None,
    *,
    cache: KVCache | None = None,
    mask: _BoolLike | None = None,
    bias: _ArrayLike | None = None,
    causal: _Causal = False,
    query_offset: _Integers | None = None,
    scale: SupportsFloat | None = None,
    window: _Window | None = None,
    softcap: SupportsFloat | None = None,
    alibi_slopes: _ArrayLike | None = None,
    sinks: _ArrayLike | None = None,
    kv_lengths: _Integers | None = None,
    layout: Literal["bhsd", "bshd"] = "bhsd",
    out: _Array | None = None,
    return_lse: Literal[True],
    num_threads: SupportsIndex | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...

class KVCache:
    def __init__(
        self,
        batch: SupportsIndex,
        kv_heads: SupportsIndex,
        capacity: SupportsIndex,
        head_dim: SupportsIndex,
        *,
        v_head_dim: SupportsIndex | None = None,
        dtype: DTypeLike = "float32",
    ) -> None: ...
    def append(self, k: _ArrayLike, v: _ArrayLike, *, lengths: _Integers | None = None) -> None: ...
    def truncate(self, lengths: _Integers) -> None: ...
    def reset(self) -> None: ...
    def grow(self, capacity: SupportsIndex) -> None: ...
    @property
    def batch(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def v_head_dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def lengths(self) -> NDArray[np.int64]: ...
    @property
    def keys(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[Any]: ...
    @property
    def key_scales(self) -> NDArray[np.float32] | None: ...
    @property
    def value_scales(self) -> NDArray[np.float32] | None: ...

def available_isas() -> tuple[str, ...]: ...
def current_isa() -> str: ...
def current_isa_source() -> str: ...
def require_isa(name: str) -> None: ...
def set_thread_isa(name: str | None) -> str | None: ...
def cpu_model() -> str: ...
def cpu_features() -> dict[str, bool]: ...
def cache_sizes() -> dict[str, int]: ...
def default_threads() -> tuple[int, str]: ...
def openmp_library() -> str: ...
def kept_result_bytes() -> int: ...
def fma_probe(isa: str, dtype: str, threads: int, rounds: int) -> int: ...
def softmax_probe(isa: str, dtype: str, threads: int, rows: int) -> int: ...
def memory_probe(
    isa: str, read: NDArray[Any], write: NDArray[Any], threads: int, passes: int, stream: bool
) -> None: ...
def region_probe(threads: int) -> float: ...
def check_tuned(
    operation: str, isa: str, dtype: str, sizes: Sequence[int], config: dict[str, Any], threads: SupportsIndex = 1
) -> None: ...
def set_tuned(
    operation: str, isa: str, dtype: str, sizes: Sequence[int], config: dict[str, Any], threads: SupportsIndex = 1
) -> None: ...
def set_all_tuned(
    entries: Sequence[tuple[str, str, str, Sequence[int], dict[str, int], SupportsIndex]],
) -> None: ...
def find_tuned(
    operation: str, isa: str, dtype: str, sizes: Sequence[int], threads: SupportsIndex = 1
) -> dict[str, int] | None: ...
def default_config(operation: str, isa: str, dtype: str, sizes: Sequence[int]) -> dict[str, int]: ...
def clear_tuned() -> None: ...
