"""Fused transformer kernels for CPUs.

>>> import numpy as np, transfuse
>>> a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
>>> transfuse.matmul_t(a, b).shape
(4, 2)
"""

try:
    from transfuse._core import KVCache, __version__, attention, matmul_t
except ImportError as error:
    if "libgomp" in str(error):
        raise ImportError(
            "transfuse needs the GNU OpenMP runtime, libgomp.so.1, which this system lacks. Install it with "
            "'apt-get install libgomp1' (Debian, Ubuntu) or 'dnf install libgomp' (Fedora)."
        ) from error
    raise

from transfuse import _wisdom as _wisdom  # the operations load it, see there
from transfuse._info import info
from transfuse._isa import isa

__all__ = ["KVCache", "__version__", "attention", "info", "isa", "matmul_t"]
