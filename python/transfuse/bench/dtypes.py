"""The dtypes of the benchmark's lines: what is stored, what is passed to a library, and what is computed with.

"int8" means a cache of keys and values quantised to 8 bits, for float32 queries and results.
"""

import importlib.util
from typing import Any

import numpy as np

PLAIN = ("float32", "float64")
HALF = ("float16", "bfloat16")
QUANTISED = "int8"


def missing(dtype: str) -> str | None:
    """Why arrays of a dtype cannot be had here, or None."""
    if dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        return "NumPy has it from ml_dtypes, which is not installed (pip install ml-dtypes)"
    return None


def array_dtype(dtype: str) -> np.dtype[Any]:
    """Of the inputs and of the result."""
    if dtype == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype("float32" if dtype == QUANTISED else dtype)


def stored_bytes(dtype: str) -> int:
    """Of a stored number; of a quantised one without its share of the scales."""
    return 1 if dtype == QUANTISED else array_dtype(dtype).itemsize


def arithmetic(dtype: str) -> str:
    """What the sums are kept in: float64 for float64, else float32."""
    return "float64" if dtype == "float64" else "float32"


def epsilon(dtype: str) -> float:
    """Of a float dtype, the distance from 1 to the next number."""
    if dtype == "bfloat16":
        return 2.0**-7
    return float(np.finfo(array_dtype(dtype)).eps)
