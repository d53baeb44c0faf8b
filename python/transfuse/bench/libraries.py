"""The libraries that are compared. Each runs in a worker process of its own, which loads only that library."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfuse.bench.dtypes import array_dtype


class Library:
    """A library as a worker uses it, and what is known of it without importing it."""

    name = "numpy"
    label = "NumPy"
    distribution = "numpy"  # its name in the package index
    module: str = "numpy"

    def missing(self) -> str | None:
        """Why it cannot be used here, or None. Does not import it."""
        if importlib.util.find_spec(self.module) is None:
            return f"not installed (pip install {self.distribution})"
        return None

    def version(self) -> str:
        """Its version, or "unknown"."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def environment(self, threads: int) -> dict[str, str]:
        """Variables that its worker needs from the start."""
        return {
            name: str(threads)
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        }

    def load(self, threads: int) -> dict[str, Any]:
        """Import it and limit its threads. Returns the names that the forms use."""
        return {"np": np}

    def from_numpy(self, array: NDArray[Any]) -> Any:
        """The array as the library's own, with the same strides if it can."""
        return array

    def to_numpy(self, result: Any) -> NDArray[Any]:
        """A result of the library as a NumPy array."""
        return np.asarray(result)


class Transfuse(Library):
    """Ours."""

    name = label = distribution = module = "transfuse"

    def load(self, threads: int) -> dict[str, Any]:
        import transfuse

        return {"transfuse": transfuse}


class Torch(Library):
    """PyTorch, without autograd."""

    name, label, distribution, module = "torch", "PyTorch", "torch", "torch"

    def load(self, threads: int) -> dict[str, Any]:
        import torch

        torch.set_num_threads(threads)
        self._mode = torch.inference_mode()
        self._mode.__enter__()
        return {"torch": torch}

    def from_numpy(self, array: NDArray[Any]) -> Any:
        import torch

        if array.dtype.kind == "V":  # bfloat16, which torch.from_numpy does not know
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def to_numpy(self, result: Any) -> NDArray[Any]:
        import torch

        if result.dtype == torch.bfloat16:
            return np.asarray(result.contiguous().view(torch.int16).numpy()).view(array_dtype("bfloat16"))
        return np.asarray(result.numpy())


class Numba(Library):
    """Numba, with kernels of transfuse.bench.peers."""

    name, label, distribution, module = "numba", "Numba", "numba", "numba"

    def load(self, threads: int) -> dict[str, Any]:
        import numba

        from transfuse.bench.peers import numba_kernels

        numba.set_num_threads(threads)
        return {"numba": numba, "kernels": numba_kernels, "np": np}


class Cython(Library):
    """Cython, with blocked loops in parallel; compiled when first needed."""

    name, label, distribution, module = "cython", "Cython, blocked", "Cython", "Cython"

    def load(self, threads: int) -> dict[str, Any]:
        from transfuse.bench.peers import cython_build

        return {"kernels": cython_build.kernels(), "np": np}


class CythonLoops(Cython):
    """Cython, three plain loops."""

    name, label = "cython-loops", "Cython, plain loops"


class TensorFlow(Library):
    """TensorFlow."""

    name, label, distribution, module = "tensorflow", "TensorFlow", "tensorflow-cpu", "tensorflow"

    def version(self) -> str:
        found = super().version()
        return importlib.metadata.version("tensorflow") if found == "unknown" else found

    def environment(self, threads: int) -> dict[str, str]:
        return super().environment(threads) | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

    def load(self, threads: int) -> dict[str, Any]:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        return {"tf": tf}

    def from_numpy(self, array: NDArray[Any]) -> Any:
        import tensorflow as tf

        return tf.constant(array)

    def to_numpy(self, result: Any) -> NDArray[Any]:
        return np.asarray(result.numpy())


class Jax(Library):
    """JAX, compiled."""

    name, label, distribution, module = "jax", "JAX", "jax", "jax"

    def environment(self, threads: int) -> dict[str, str]:
        return super().environment(threads) | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}

    def load(self, threads: int) -> dict[str, Any]:
        import jax

        return {"jax": jax, "jnp": jax.numpy}

    def from_numpy(self, array: NDArray[Any]) -> Any:
        import jax

        return jax.device_put(array)


class OnnxRuntime(Library):
    """ONNX Runtime."""

    name, label, distribution, module = "onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime"

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnx") is None:
            return "onnx, with which its models are made, is not installed (pip install onnx)"
        return super().missing()

    def load(self, threads: int) -> dict[str, Any]:
        from transfuse.bench.peers import onnx_attention

        return {"onnx_attention": onnx_attention, "threads": threads, "np": np}


PATHS = {
    library.name: f"{__name__}:{library.__name__}"
    for library in (Transfuse, Library, Torch, Numba, TensorFlow, Jax, OnnxRuntime, Cython, CythonLoops)
}


def default_threads() -> int:
    """As many as transfuse uses by default."""
    from transfuse import _core

    return _core.default_threads()[0]


def most_threads() -> int:
    """As many as there are CPUs for this process: allowed by its affinity and paid for by its cgroup."""
    from transfuse import _core

    count, source = _core.default_threads()
    allowed = len(os.sched_getaffinity(0))
    return min(count, allowed) if "cgroup" in source else allowed


def pin_to(threads: int) -> set[int] | None:
    """The CPUs for a worker of so many threads, one of each core before second ones; None for all.

    Pinning is what limits libraries whose pools cannot be told.
    """
    allowed = sorted(os.sched_getaffinity(0), reverse=True)  # the first CPU serves most interrupts
    return set(sorted(allowed, key=_place_in_core)[:threads]) if threads < len(allowed) else None


def _place_in_core(cpu: int) -> int:
    """0 for the first hardware thread of a core, 1 for the second."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        return int(cpu != int(re.split("[,-]", text)[0]))
    except (OSError, ValueError):
        return 0
