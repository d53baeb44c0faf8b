"""Threads: the same bits for every number of them, calls from many, and the interpreter lock."""

import concurrent.futures
import threading
import time

import numpy as np
import pytest
from layouts import place
from oracle import integers, normal, product
from processes import run_python

import transfuse

SHAPES = {
    "square": ((300, 400), (400, 310)),
    "deep": ((40, 5000), (5000, 30)),
    "flat": ((700, 3), (3, 900)),
    "one row": ((1, 900), (900, 900)),
    "one column": ((900, 900), (900, 1)),
    "outer": ((1, 128, 1), (1, 1, 8192)),
    "small batch": ((500, 20, 30), (500, 30, 10)),
    "large batch": ((3, 170, 180), (3, 180, 190)),
    "broadcast batch": ((5, 1, 60, 70), (4, 70, 50)),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_same_bits_for_every_number_of_threads(rng, dtype, shapes):
    a, b = (normal(rng, shape, dtype) for shape in shapes)
    bias = normal(rng, b.shape[-1], dtype)
    for layout in ("c", "swapped"):
        options = {"bias": bias, "activation": "gelu_tanh"}
        a, b = place(a, layout), place(b, layout)
        one = transfuse.matmul_t(a, b, num_threads=1, **options)
        for num_threads in (None, 2, 3, 8):
            several = transfuse.matmul_t(a, b, num_threads=num_threads, **options)
            assert several.tobytes() == one.tobytes(), f"{num_threads} threads, {layout}"


@pytest.mark.parametrize("config", [{"block_m": 1, "block_n": 3}, {"block_k": 33}, {"block_m": 1 << 20}], ids=str)
def test_the_same_bits_under_a_configuration(rng, dtype, config):
    a, b = normal(rng, (150, 100), dtype), normal(rng, (100, 140), dtype)
    results = {transfuse.matmul_t(a, b, num_threads=n, config=config).tobytes() for n in (1, 2, 3, 8)}
    assert len(results) == 1


def test_repeated_calls_give_the_same_bits(rng, dtype):
    a, b = normal(rng, (200, 300), dtype), normal(rng, (300, 250), dtype)
    assert len({transfuse.matmul_t(a, b, num_threads=3).tobytes() for _ in range(20)}) == 1


def test_more_threads_than_the_machine_could_have():
    # OpenMP ends the process when it cannot create a thread, so such numbers must be cut.
    program = """
        import numpy as np, transfuse
        a = np.ones((300, 300), np.float32)
        alone = transfuse.attention(a, a, a, num_threads=1)
        for n in (100_000, 2**31 - 1, 10**30):
            assert (transfuse.matmul_t(a, a, num_threads=n) == 300).all()
            assert (transfuse.attention(a, a, a, num_threads=n) == alone).all()
            assert (transfuse.matmul_t(a, a, config={"threads": n}) == 300).all()
        print("done")
    """
    assert run_python(program).stdout == "done\n"


@pytest.mark.parametrize("num_threads", [None, 1, 2])
def test_concurrent_calls(num_threads):
    start = threading.Barrier(8)

    def work(seed):
        rng = np.random.default_rng(seed)
        cases = []
        for m, k, n in [(3, 4, 5), (60, 70, 80), (150, 120, 90), (1, 300, 300)]:
            dtype = rng.choice([np.float32, np.float64])
            a, b, bias = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype), integers(rng, n, dtype)
            cases.append((a, b, bias, product(a, b, bias)))
        q, k, v = (normal(rng, (2, length, 40), np.float32) for length in (90, 130, 130))
        attended = transfuse.attention(q, k, v, causal="lower_right", num_threads=1)
        start.wait(timeout=60)
        for _ in range(10):
            for a, b, bias, expected in cases:
                np.testing.assert_array_equal(transfuse.matmul_t(a, b, bias=bias, num_threads=num_threads), expected)
            result = transfuse.attention(q, k, v, causal="lower_right", num_threads=num_threads)
            np.testing.assert_array_equal(result, attended)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_concurrent_errors(rng):
    a, b = normal(rng, (3, 4), np.float32), normal(rng, (5, 6), np.float32)

    def work(_):
        for _ in range(200):
            with pytest.raises(ValueError, match="same K"):
                transfuse.matmul_t(a, b)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_concurrent_changes_of_the_registry(tuned):
    a, b = np.ones((20, 30), np.float32), np.ones((30, 10), np.float32)
    stop = threading.Event()

    def change():
        block = 0
        while not stop.is_set():
            block = block % 60 + 1
            for tier in transfuse.info()["isa"]["available"]:
                tuned.set_tuned("matmul_t", tier, "float32", (1, 20, 30, 10), {"block_k": block, "block_m": block})
            tuned.clear_tuned()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(2000):
                assert (transfuse.matmul_t(a, b) == 30).all()
        finally:
            stop.set()
        changing.result(timeout=60)


@pytest.mark.parametrize("operation", ["matmul_t", "attention"])
def test_other_threads_run_during_a_long_call(rng, operation):
    # While the lock is held nobody else can count. The scheduler may let the counter run between the reading and the
    # call, but not in most of the calls.
    a = normal(rng, (1024, 1024), np.float64)
    call = {
        "matmul_t": lambda: transfuse.matmul_t(a, a, num_threads=1),
        "attention": lambda: transfuse.attention(a, a[:512], a[:512], num_threads=1),
    }[operation]
    ticks, stop = 0, threading.Event()

    def count():
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0002)

    counter = threading.Thread(target=count)
    counter.start()
    seen = []
    try:
        for _ in range(9):
            before = ticks
            call()
            seen.append(ticks - before)
    finally:
        stop.set()
        counter.join()
    assert np.median(seen) > 10, seen


def test_the_default_respects_the_affinity():
    program = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import transfuse
        print(transfuse.info()["threads"]["default"])
    """
    assert run_python(program).stdout == "1\n"


def test_the_default_respects_openmp():
    program = """
        import transfuse
        print(transfuse.info()["threads"])
    """
    assert run_python(program, environment={"OMP_NUM_THREADS": "1"}).stdout == "{'default': 1, 'source': 'OpenMP'}\n"


def test_daemon_threads_at_the_end_of_the_interpreter():
    run_python("""
        import threading, time
        import numpy as np, transfuse
        a = np.ones((700, 700), np.float32)
        def work():
            out = np.empty_like(a)
            while True:
                transfuse.matmul_t(a, a, out=out, num_threads=1)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.3)
    """)
