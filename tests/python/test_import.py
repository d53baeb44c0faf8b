"""What importing transfuse does, and does not."""

import importlib.metadata

import pytest
from processes import run_python

import transfuse


def test_import_is_light():
    program = """
        import sys
        import transfuse
        heavy = {"torch", "jax", "onnx", "ml_dtypes", "typer", "rich", "platformdirs", "filelock", "click", "scipy"}
        print(sorted(heavy & set(sys.modules)))
        import numpy
        print(sorted(name for name in sys.modules if name.partition(".")[0] == "transfuse"))
    """
    lines = run_python(program).stdout.splitlines()
    assert lines[0] == "[]"
    assert "transfuse.cli" not in lines[1]


def test_info_needs_no_command_line():
    program = """
        import sys
        import transfuse
        transfuse.info()
        print(sorted({"torch", "typer", "rich"} & set(sys.modules)))
    """
    assert run_python(program).stdout == "[]\n"


def test_import_starts_no_thread():
    program = """
        import os
        import numpy
        before = len(os.listdir("/proc/self/task"))
        import transfuse
        print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run_python(program).stdout == "0\n"


def test_import_leaves_the_environment_alone():
    program = """
        import os
        before = dict(os.environ)
        import numpy as np, transfuse
        transfuse.matmul_t(np.ones((300, 300)), np.ones((300, 300)), num_threads=2)
        print(before == dict(os.environ))
    """
    assert run_python(program).stdout == "True\n"


def test_version():
    assert transfuse.__version__ == importlib.metadata.version("transfuse")


def test_public_names():
    assert sorted(transfuse.__all__) == ["KVCache", "__version__", "attention", "info", "isa", "matmul_t"]
    assert all(hasattr(transfuse, name) for name in transfuse.__all__)


@pytest.mark.parametrize("first", ["torch", "transfuse"])
def test_one_openmp_runtime_with_torch(first):
    pytest.importorskip("torch")
    pytest.importorskip("threadpoolctl")
    second = {"torch": "transfuse", "transfuse": "torch"}[first]
    program = f"""
        import {first}, {second}
        import numpy as np
        import threadpoolctl
        torch.set_num_threads(2)
        a = np.ones((500, 500), np.float32)
        for library in ("{first}", "{second}", "{first}"):
            if library == "torch":
                assert float((torch.ones(1_000_000) * 2).sum()) == 2_000_000
            else:
                assert (transfuse.matmul_t(a, a, num_threads=2) == 500).all()
        print([pool["prefix"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"])
    """
    assert run_python(program).stdout == "['libgomp']\n"


def test_torch_keeps_its_number_of_threads():
    pytest.importorskip("torch")
    program = """
        import torch, transfuse
        import numpy as np
        torch.set_num_threads(3)
        a = np.ones((500, 500), np.float32)
        transfuse.matmul_t(a, a, num_threads=2)
        print(torch.get_num_threads(), transfuse.info()["threads"]["default"] <= 3)
    """
    assert run_python(program).stdout == "3 True\n"


FAILING_IMPORT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "transfuse._core":
            raise ImportError({message!r})

sys.meta_path.insert(0, Missing())
try:
    import transfuse
except ImportError as error:
    print(error)
    print(repr(error.__cause__))
"""


def test_missing_libgomp():
    message = "libgomp.so.1: cannot open shared object file: No such file or directory"
    text, cause = run_python(FAILING_IMPORT.format(message=message)).stdout.splitlines()
    assert "libgomp.so.1" in text
    assert "apt-get install libgomp1" in text
    assert "dnf install libgomp" in text
    assert message in cause


def test_another_failure_is_left_as_it_is():
    message = "undefined symbol: PyOther"
    assert run_python(FAILING_IMPORT.format(message=message)).stdout == f"{message}\nNone\n"
