"""The probes of the machine's limits, by which benchmarks divide."""

import numpy as np
import pytest

from transfuse import _core


def test_fma_probe_counts_its_operations(tier, dtype):
    operations = [_core.fma_probe(tier, dtype.name, threads, 1000) for threads in (1, 2)]
    assert operations[0] > 0
    assert operations[1] == 2 * operations[0]


def test_softmax_probe_counts_its_scores(tier, dtype):
    scores = [_core.softmax_probe(tier, dtype.name, threads, 100) for threads in (1, 2)]
    assert scores[0] > 0
    assert scores[0] % 100 == 0
    assert scores[1] == 2 * scores[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("offset", [0, 4, 16, 60])
@pytest.mark.parametrize("size", [0, 63, 64, 65, 1000, 4096, 100_001])
def test_memory_probe_writes_whole_lines_and_nothing_else(tier, size, offset, threads, stream):
    whole = np.zeros(size + 256, np.uint8)
    start = -whole.ctypes.data % 64 + 64 + offset
    _core.memory_probe(tier, np.zeros(size, np.uint8), whole[start : start + size], threads, 2, stream)
    assert not whole[:start].any()
    assert not whole[start + size :].any()
    first = -offset % 64
    written = whole[start + first : start + first + max(0, size - first) // 64 * 64].view(np.float32)
    ones = np.count_nonzero(written == 1)
    assert np.count_nonzero(written) == ones == np.count_nonzero(whole.view(np.uint8)) // 2
    # A thread that starts off a line's boundary leaves out the rest of that line.
    assert written.size - ones <= 16 * threads


def test_memory_probe_leaves_what_it_reads(tier):
    source = np.arange(1000, dtype=np.float32)
    expected = source.copy()
    _core.memory_probe(tier, source, np.empty(0, np.uint8), 2, 3, False)
    np.testing.assert_array_equal(source, expected)


def test_memory_probe_wants_contiguous_arrays_that_it_may_write(tier):
    strided = np.zeros((8, 8), np.float32)[:, ::2]
    with pytest.raises(ValueError, match="read: expected a C-contiguous array"):
        _core.memory_probe(tier, strided, np.empty(0, np.uint8), 1, 1, False)
    with pytest.raises(ValueError, match="write: expected a C-contiguous array"):
        _core.memory_probe(tier, np.zeros(4), strided, 1, 1, False)
    fixed = np.zeros(64, np.uint8)
    fixed.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _core.memory_probe(tier, np.zeros(4), fixed, 1, 1, False)


def test_region_probe_takes_some_time():
    assert 0 < _core.region_probe(1) < 1
    assert 0 < _core.region_probe(2) < 1


def test_wrong_arguments():
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        _core.region_probe(0)
    with pytest.raises(ValueError, match="threads: expected at least 1, got -1"):
        _core.fma_probe("scalar", "float32", -1, 1)
    with pytest.raises(ValueError, match="dtype: expected one of 'float32', 'float64', got 'int8'"):
        _core.fma_probe("scalar", "int8", 1, 1)
