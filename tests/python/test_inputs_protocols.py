"""Inputs through DLPack and __array_interface__, from producers good and bad."""

import warnings

import numpy as np
import pytest
from oracle import assert_accurate, integers, normal, product
from producers import DLPackProducer, InterfaceProducer, huge

import transfuse

VERSIONS = [(1, 0), (1, 1), (1, 7), None]


@pytest.fixture
def b(rng, dtype):
    return integers(rng, (4, 5), dtype)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_dlpack(rng, dtype, argument, version):
    arrays = {"a": normal(rng, (3, 4), dtype), "b": normal(rng, (4, 5), dtype), "bias": normal(rng, 5, dtype)}
    producer = DLPackProducer(arrays[argument], version=version)
    assert_accurate(transfuse.matmul_t(**(arrays | {argument: producer})), **arrays)
    assert producer.handed_out == producer.destroyed == 1
    assert producer.last_request == ({"max_version": (1, 0)} if version else {})


@pytest.mark.parametrize("version", VERSIONS)
def test_dlpack_strides(rng, dtype, b, version):
    base = integers(rng, (10, 12), dtype)
    for array in [base[:3, :4], base[::3, ::3], base.T[2:5, 1:5], base[5:2:-1, 9:1:-2], base[:1].repeat(4, 1)[:, :4]]:
        producer = DLPackProducer(array, version=version)
        np.testing.assert_array_equal(transfuse.matmul_t(producer, b), product(array, b))
    assert producer.destroyed == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_dlpack_without_strides_is_c_order(rng, dtype, version):
    array, b = integers(rng, (2, 3, 4), dtype), integers(rng, (2, 4, 5), dtype)
    producer = DLPackProducer(array, version=version, strides=None)
    np.testing.assert_array_equal(transfuse.matmul_t(producer, b), product(array, b))


@pytest.mark.parametrize("version", VERSIONS)
def test_dlpack_byte_offset(rng, dtype, b, version):
    memory = integers(rng, (6, 4), dtype)
    producer = DLPackProducer(memory[:3], version=version, byte_offset=3 * 4 * dtype.itemsize)
    np.testing.assert_array_equal(transfuse.matmul_t(producer, b), product(memory[3:], b))


def test_dlpack_read_only_flag(rng, dtype, b):
    array = integers(rng, (3, 4), dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(DLPackProducer(array, flags=1), b), product(array, b))


@pytest.mark.parametrize("version", [(1, 0), None])
def test_dlpack_empty_with_null_data(dtype, version):
    producer = DLPackProducer(np.ones((0, 4), dtype), version=version, data=None)
    assert transfuse.matmul_t(producer, np.ones((4, 5), dtype)).shape == (5, 0)


@pytest.mark.parametrize("version", [(1, 0), None])
def test_dlpack_reads_the_memory_itself(rng, dtype, b, version):
    array = integers(rng, (3, 4), dtype)
    producer = DLPackProducer(array, version=version)
    transfuse.matmul_t(producer, b)
    array += 1
    np.testing.assert_array_equal(transfuse.matmul_t(producer, b), product(array, b))


@pytest.mark.parametrize(
    "producer",
    [DLPackProducer, lambda array: DLPackProducer(array, version=None), InterfaceProducer],
    ids=["dlpack", "old dlpack", "interface"],
)
def test_nothing_is_copied(dtype, producer):
    rows = huge(dtype)
    result = transfuse.matmul_t(producer(rows), np.ones((1, 0), dtype))
    assert result.shape == (0, rows.shape[0])


@pytest.mark.parametrize("make", [DLPackProducer, InterfaceProducer])
def test_out_may_not_overlap_an_input(rng, dtype, make):
    array = integers(rng, (4, 4), dtype)
    before = array.copy()
    for argument in ("a", "b"):
        arguments = {"a": np.ones((4, 4), dtype), "b": np.ones((4, 4), dtype)} | {argument: make(array)}
        with pytest.raises(ValueError, match=f"out: expected no memory shared with {argument}"):
            transfuse.matmul_t(**arguments, out=array)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device_type": 2}, "expected an array in the CPU's memory, got DLPack device type 2"),
        ({"version": (2, 0)}, "expected DLPack version 1, got 2"),
        ({"version": (0, 8)}, "expected DLPack version 1, got 0"),
        ({"bits": 16}, "expected dtype float32 or float64"),
        ({"lanes": 2}, "expected dtype float32 or float64"),
        ({"code": 0}, "expected dtype float32 or float64"),
        ({"code": 4, "bits": 16}, "expected dtype float32 or float64"),
        ({"code": 5, "bits": 64}, "expected dtype float32 or float64"),
        ({"data": None}, "expected "),  # without memory, as PyTorch's fake tensors are
    ],
)
@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_refused_dlpack_tensors(dtype, argument, changes, message):
    arguments = {"a": np.ones((4, 4), dtype), "b": np.ones((4, 4), dtype), "bias": np.ones(4, dtype)}
    producer = DLPackProducer(arguments[argument], **changes)
    with pytest.raises(TypeError, match=f"^matmul_t: {argument}: {message}"):
        transfuse.matmul_t(**(arguments | {argument: producer}))
    assert producer.handed_out == producer.destroyed


def test_too_many_dimensions(dtype):
    shape = (1,) * 64
    producer = DLPackProducer(np.ones(shape, dtype))
    assert transfuse.matmul_t(producer, np.ones((1, 1), dtype)).shape == shape

    class Deeper(DLPackProducer):
        """More dimensions than NumPy has."""

        def __init__(self):
            super().__init__(np.ones(shape, dtype), strides=None)
            self._shape = (type(self._shape)._type_ * 70)(*(1,) * 70)
            self._fields["rank"] = 70

    with pytest.raises(ValueError, match=r"^matmul_t: a: expected at most 64 dimensions, got 70"):
        transfuse.matmul_t(Deeper(), np.ones((1, 1), dtype))


class Answers:
    """Says what it is told to."""

    def __init__(self, capsule=None, device=(1, 0)):
        self._capsule, self._device = capsule, device

    def __dlpack__(self, **options):
        if isinstance(self._capsule, Exception):
            raise self._capsule
        return self._capsule

    def __dlpack_device__(self):
        if isinstance(self._device, Exception):
            raise self._device
        return self._device


@pytest.mark.parametrize("device", [None, 1, [1, 0], (1,), (1, 0, 0), ("cpu", 0), (10**20, 0), ()], ids=repr)
def test_devices_that_make_no_sense(b, device):
    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        transfuse.matmul_t(Answers(device=device), b)


@pytest.mark.parametrize("capsule", [None, 1, "dltensor", np.ones((3, 4))], ids=lambda value: type(value).__name__)
def test_capsules_that_are_none(b, capsule):
    with pytest.raises(TypeError, match=r"^matmul_t: a: expected a DLPack capsule, got "):
        transfuse.matmul_t(Answers(capsule), b)


@pytest.mark.parametrize("error", [BufferError, TypeError, ValueError, RuntimeError])
def test_producers_that_raise(b, error):
    with pytest.raises(TypeError, match=r"^matmul_t: a: .*Answers refuses DLPack: not today"):
        transfuse.matmul_t(Answers(error("not today")), b)
    with pytest.raises(TypeError, match=r"^matmul_t: a: .*not today"):
        transfuse.matmul_t(Answers(device=error("not today")), b)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_are_not_turned_into_errors(b, error):
    class Interrupted(Answers):
        def __dlpack__(self, **options):
            raise error

    with pytest.raises(error):
        transfuse.matmul_t(Interrupted(), b)


def test_attributes_that_raise(b):
    class Broken:
        @property
        def __array_interface__(self):
            raise LookupError("broken")

    with pytest.raises((LookupError, TypeError), match="broken"):
        transfuse.matmul_t(Broken(), b)


def test_a_requires_grad_without_truth_value(rng, dtype, b):
    class Ambiguous(InterfaceProducer):
        requires_grad = np.ones(2)  # its truth value is an error

    with pytest.raises((ValueError, TypeError)):
        transfuse.matmul_t(Ambiguous(integers(rng, (3, 4), dtype)), b)


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_array_interface(rng, dtype, argument):
    arrays = {"a": normal(rng, (3, 4), dtype), "b": normal(rng, (4, 5), dtype), "bias": normal(rng, 5, dtype)}
    wrapped = arrays | {argument: InterfaceProducer(arrays[argument])}
    assert_accurate(transfuse.matmul_t(**wrapped), **arrays)


def test_array_interface_strides(rng, dtype, b):
    base = integers(rng, (10, 12), dtype)
    for array in [base[::3, ::3], base.T[2:5, 1:5], base[5:2:-1, 9:1:-2], np.broadcast_to(base[:1, :4], (3, 4))]:
        np.testing.assert_array_equal(transfuse.matmul_t(InterfaceProducer(array), b), product(array, b))


def test_array_interface_reads_the_memory_itself(rng, dtype, b):
    array = integers(rng, (3, 4), dtype)
    producer = InterfaceProducer(array)
    transfuse.matmul_t(producer, b)
    array += 1
    np.testing.assert_array_equal(transfuse.matmul_t(producer, b), product(array, b))


@pytest.mark.parametrize(
    "entries",
    [
        {"typestr": "<i4"},
        {"typestr": "<V2"},
        {"typestr": ">f4"},
        {"typestr": "<f2"},
        {"typestr": "nonsense"},
        {"shape": (3, -4)},
        {"shape": "wide"},
        {"strides": (4,)},
        {"data": None},
        {"data": ("here", False)},
    ],
    ids=str,
)
def test_refused_interfaces(dtype, b, entries):
    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        transfuse.matmul_t(InterfaceProducer(np.ones((3, 4), dtype), **entries), b)


def test_an_interface_that_is_no_dict(b):
    class Odd:
        __array_interface__ = 7

    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        transfuse.matmul_t(Odd(), b)


def test_dlpack_comes_before_the_interface(rng, dtype, b):
    class Both(DLPackProducer):
        __array_interface__ = None

    array = integers(rng, (3, 4), dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(Both(array), b), product(array, b))


def test_a_producer_that_reshapes_another_argument(dtype):
    a, b = np.ones((30, 40), dtype), np.ones((40, 5), dtype)

    class Reshaping(DLPackProducer):
        """Gives `a` another shape while `b` is read."""

        def __dlpack__(self, **keywords):
            a.shape = a.size
            return super().__dlpack__(**keywords)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2.5 would rather not have shapes set
        result = transfuse.matmul_t(a, Reshaping(b))
    np.testing.assert_array_equal(result, np.full((5, 30), 40))
