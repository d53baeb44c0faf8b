"""Memory of large results is kept for the next ones."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy._core import _multiarray_umath
from numpy._core.multiarray import get_handler_name

import transfuse
from transfuse import _core

MIB = 1 << 20
LIMIT = 256 * MIB


def result(mebibytes: int) -> np.ndarray:
    """An outer product of so many MiB, whose element (n, m) is m + n."""
    columns = mebibytes * MIB // 4 // 1024
    a = np.stack([np.arange(1024), np.ones(1024)], axis=1).astype(np.float32)
    b = np.stack([np.ones(columns), np.arange(columns)]).astype(np.float32)
    return transfuse.matmul_t(a, b)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def check(array: np.ndarray) -> None:
    n, m = np.ogrid[: array.shape[0], : array.shape[1]]
    np.testing.assert_array_equal(array, m + n)


def test_small_results_are_numpys_own():
    out = result(31)
    assert get_handler_name(out) == "default_allocator"


def test_a_freed_result_is_used_again():
    out = result(40)
    assert get_handler_name(out) == "transfuse"
    assert address(out) % 64 == 0
    check(out)
    first = address(out)
    out[:] = np.nan
    del out
    assert _core.kept_result_bytes() >= 40 * MIB
    again = result(36)
    assert address(again) == first
    check(again)


def test_a_result_in_use_is_left_alone():
    first = result(40)
    view = first[5:7]
    where = address(first)
    del first
    second = result(40)
    assert address(second) != where
    np.testing.assert_array_equal(view, np.arange(5, 7)[:, None] + np.arange(1024))


def test_attention_uses_it_too():
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((1, 1, rows, 1024), np.float32) for rows in (8192, 2))
    out = transfuse.attention(q, k, k)
    assert get_handler_name(out) == "transfuse"
    expected = transfuse.attention(q[:, :, :4], k, k)
    np.testing.assert_allclose(out[:, :, :4], expected, rtol=1e-5)


def test_a_small_result_does_not_take_a_large_block():
    large = result(200)
    del large
    small = result(40)
    assert _core.kept_result_bytes() >= 200 * MIB
    check(small)


def test_what_is_kept_is_bounded():
    arrays = [result(size) for size in (100, 60, 90, 70, 50)]
    arrays.clear()
    assert 0 < _core.kept_result_bytes() <= LIMIT
    big = result(300)
    before = _core.kept_result_bytes()
    assert before > 0
    check(big)
    del big
    assert _core.kept_result_bytes() == before  # larger than what may be kept


def test_a_result_can_be_resized():
    out = result(40)
    rows = out.shape[0]
    out.resize((2 * rows, 1024), refcheck=False)
    check(out[:rows])
    assert not out[rows:].any()
    out.resize((rows // 2, 1024), refcheck=False)
    check(out)


def test_a_result_that_shrinks_gives_its_memory_back():
    out = result(100)
    before = _core.kept_result_bytes()
    out.resize((2, 3), refcheck=False)
    np.testing.assert_array_equal(out, [[0, 1, 2], [3, 4, 5]])
    assert _core.kept_result_bytes() > before or before == LIMIT
    del out


def test_what_is_kept_gives_way_before_memory_runs_out():
    code = (
        "import numpy as np, resource, transfuse\n"
        "a = np.ones((1024, 1), np.float32)\n"
        "def result(mib): return transfuse.matmul_t(a, np.ones((1, mib << 8), np.float32))\n"
        "result(1), result(250)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (60 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "print(result(100).nbytes >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("100\n", "")


def test_an_allocator_of_the_users_own_is_left_alone():
    """NumPy has no Python function for it, so through its C API."""
    api = ctypes.cast(
        ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )(_multiarray_umath._ARRAY_API, None),
        ctypes.POINTER(ctypes.c_void_p),
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(api[304])
    default = ctypes.cast(api[306], ctypes.POINTER(ctypes.py_object)).contents.value
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )(default, b"mem_handler")
    handler = ctypes.create_string_buffer(ctypes.string_at(pointer, 168), 168)  # NumPy's, under another name
    handler[:5] = b"mine\0"
    capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    )(ctypes.addressof(handler), b"mem_handler", None)
    previous = set_handler(capsule)
    try:
        names = get_handler_name(result(40)), get_handler_name()
    finally:
        set_handler(previous)
    assert names == ("mine", "mine")
    assert get_handler_name(result(40)) == "transfuse"


def test_threads_may_allocate_at_once():
    with ThreadPoolExecutor(6) as pool:
        for out in pool.map(result, [33, 40, 35, 50, 36, 34] * 3):
            check(out)


def test_numpys_allocator_is_back_afterwards():
    result(40)
    assert get_handler_name() == "default_allocator"
    column = np.broadcast_to(np.float32(1), (1 << 24, 1))
    with pytest.raises(MemoryError):
        transfuse.matmul_t(column, column.T)  # 1 PiB
    assert get_handler_name() == "default_allocator"


def test_arrays_may_outlive_the_module():
    code = (
        "import sys, numpy as np, transfuse\n"
        "a = np.ones((1024, 1), np.float32); b = np.ones((1, 10240), np.float32)\n"
        "sys.kept = [transfuse.matmul_t(a, b) for _ in range(3)]; sys.kept.pop()\n"
        "del sys.modules['transfuse'], transfuse\n"
        "print(int(sys.kept[0].sum()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10485760\n", "")
