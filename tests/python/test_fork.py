"""A child made by fork() computes on one thread, and never hangs."""

import textwrap

import pytest
from processes import run_python

# Python 3.12 warns of every fork in a process with threads; that such a fork works is what is tested here.
PRELUDE = """
import multiprocessing, os, signal, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
import numpy as np, transfuse

a = np.arange(300 * 200, dtype=np.float32).reshape(300, 200) % 7
b = np.arange(200 * 250, dtype=np.float32).reshape(200, 250) % 5
expected = (a.astype(np.float64) @ b).T
q = np.zeros((4, 256, 64), np.float32)  # every key counts as much, and the means of 256 small numbers are exact
v = np.arange(q.size, dtype=np.float32).reshape(q.shape) % 7
means = v.mean(axis=1, keepdims=True)

def right():
    return all(
        (transfuse.matmul_t(a, b, num_threads=n) == expected).all()
        and (transfuse.attention(q, q, v, num_threads=n) == means).all()
        for n in (None, 1, 2, 8)
    )

def child():
    signal.alarm(30)  # a child that hangs dies, and its exit code tells
    default = transfuse.info()["threads"]
    return right() and default == {"default": 1, "source": "forked process"}

def fork(body=child):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if body() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(program):
    done = run_python(PRELUDE + textwrap.dedent(program))
    assert done.stdout == "done\n"


def test_fork_before_use():
    run("""
        assert fork() == 0
        assert right()
        print("done")
    """)


def test_fork_after_use():
    run("""
        assert right()
        for _ in range(5):
            assert fork() == 0
            assert right()  # the parent keeps its threads
        assert transfuse.info()["threads"]["source"] != "forked process"
        print("done")
    """)


def test_fork_of_a_child():
    run("""
        assert right()
        assert fork(lambda: child() and fork() == 0) == 0
        print("done")
    """)


def test_commands_started_by_a_child():
    # Popen forks where it has something to do between fork and exec.
    run("""
        import subprocess, sys
        assert right()
        assert fork(lambda: child() and subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0) == 0
        print("done")
    """)


def test_fork_during_calls_of_other_threads():
    run("""
        stop = threading.Event()
        def work():
            while not stop.is_set():
                assert right()
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        codes = [fork() for _ in range(10)]
        stop.set()
        for thread in threads:
            thread.join()
        assert codes == [0] * 10, codes
        print("done")
    """)


def test_fork_with_tuned_configurations():
    run("""
        from transfuse import _core
        _core.set_tuned("matmul_t", "scalar", "float32", (1, 300, 200, 250), {"block_k": 7})
        def body():
            signal.alarm(30)
            _core.set_tuned("matmul_t", "scalar", "float32", (1, 1, 1, 1), {"block_k": 7})
            return child() and _core.find_tuned("matmul_t", "scalar", "float32", (1, 300, 200, 250)) == {"block_k": 7}
        assert right()
        assert fork(body) == 0
        assert _core.find_tuned("matmul_t", "scalar", "float32", (1, 1, 1, 1)) is None
        print("done")
    """)


def test_multiprocessing_processes():
    run("""
        assert right()
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=lambda: os._exit(0 if child() else 1)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 3
        print("done")
    """)


def test_multiprocessing_pool():
    run("""
        def work(n):
            signal.alarm(30)
            return float(transfuse.matmul_t(a[:n], b).sum())
        assert right()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            sums = pool.map(work, range(1, 9))
        assert sums == [float(expected[:, :n].sum()) for n in range(1, 9)]
        print("done")
    """)


@pytest.mark.parametrize("order", ["torch, transfuse", "transfuse, torch"])
def test_fork_after_torch_used_openmp(order):
    pytest.importorskip("torch")
    run(f"""
        import {order}
        torch.set_num_threads(2)
        x = torch.ones(1_000_000)
        assert float((x * 2).sum()) == 2_000_000  # in parallel
        assert fork() == 0
        assert right()
        assert float((x * 2).sum()) == 2_000_000
        assert fork() == 0
        print("done")
    """)
