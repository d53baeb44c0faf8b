"""Compiles the Cython kernels when they are first needed, into the user's cache directory."""

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from transfuse import _core

SOURCE = Path(__file__).with_name("cython_kernels.pyx")
FLAGS = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-w"]


def kernels() -> Any:
    """The compiled module.

    Raises
    ------
    RuntimeError
        There is no C compiler, or it fails.
    """
    import filelock
    import platformdirs

    key = "\n".join([SOURCE.read_text(), _core.cpu_model(), importlib.metadata.version("Cython"), sys.version, *FLAGS])
    folder = platformdirs.user_cache_path("transfuse") / "cython" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        found = sorted(folder.glob("cython_kernels*.so")) or [_build(folder)]
    return _load(found[0])


def _build(folder: Path) -> Path:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extension = Extension(
        "cython_kernels", [os.fspath(SOURCE)], extra_compile_args=FLAGS, extra_link_args=FLAGS, libraries=["m"]
    )
    try:
        distribution = Distribution(
            {"ext_modules": cythonize([extension], build_dir=os.fspath(folder / "build"), quiet=True)}
        )
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = os.fspath(folder), os.fspath(folder / "build")
        command.ensure_finalized()
        command.run()
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"compiling {SOURCE.name} failed: {error}") from error
    return Path(command.get_ext_fullpath("cython_kernels"))


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cython_kernels", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
