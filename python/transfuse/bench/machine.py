"""A description of the machine, for the JSON and the tables."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import transfuse


def describe() -> dict[str, Any]:
    """What transfuse found, and what else bears on timings, but where the user keeps wisdom: it is shown to others."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "transparent_hugepages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "transfuse": {name: value for name, value in transfuse.info().items() if name != "wisdom"},
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"
