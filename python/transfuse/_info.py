"""What transfuse found on this machine and what it will use."""

import platform
import sys
from typing import TypedDict

from transfuse import _core, _wisdom


class IsaInfo(TypedDict):
    """Tiers, lowest first, and where the current one comes from: "scope", "TRANSFUSE_ISA" or "detected"."""

    built: tuple[str, ...]
    available: tuple[str, ...]
    current: str
    source: str


class CpuInfo(TypedDict):
    """Cache sizes are in bytes, 0 where unknown."""

    model: str
    features: dict[str, bool]
    caches: dict[str, int]


class ThreadInfo(TypedDict):
    """How many threads a call uses by default, and what set the number."""

    default: int
    source: str


class OpenMPInfo(TypedDict):
    """The file of the OpenMP runtime that is loaded."""

    runtime: str


class Info(TypedDict):
    """The result of :func:`info`."""

    isa: IsaInfo
    cpu: CpuInfo
    threads: ThreadInfo
    openmp: OpenMPInfo
    wisdom: str
    versions: dict[str, str]


def info() -> Info:
    """What transfuse found on this machine and what it will use.

    Returns
    -------
    dict
        ``isa`` (tiers built, available, current and its source), ``cpu`` (model, feature bits, cache sizes in bytes),
        ``threads`` (default and what set it), ``openmp`` (the runtime's file), ``wisdom`` (where tuned configurations
        are kept) and ``versions``.

    Raises
    ------
    ValueError
        The environment variable TRANSFUSE_ISA names a tier that does not exist or that this machine cannot run.
    """
    import numpy

    threads, source = _core.default_threads()
    return {
        "isa": {
            "built": _core.BUILT_ISAS,
            "available": _core.available_isas(),
            "current": _core.current_isa(),
            "source": _core.current_isa_source(),
        },
        "cpu": {
            "model": _core.cpu_model(),
            "features": _core.cpu_features(),
            "caches": _core.cache_sizes(),
        },
        "threads": {"default": threads, "source": source},
        "openmp": {"runtime": _core.openmp_library()},
        "wisdom": str(_wisdom.user_path()),
        "versions": {
            "transfuse": _core.__version__,
            "compiler": _core.COMPILER,
            "numpy": numpy.__version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        },
    }
