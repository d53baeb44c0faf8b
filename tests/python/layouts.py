"""Arrays of every memory layout, in a memory that shows whether more than their elements was written."""

import math

import numpy as np

FILL = 0xA5

LAYOUTS = (
    "c",  # rows one after the other
    "fortran",  # first index fastest
    "swapped",  # last two dimensions exchanged: a transposed view
    "heads",  # (batch, heads, rows, columns) seen in (batch, rows, heads, columns): second and third from the end
    "padded",  # rows longer than needed
    "step",  # every second element
    "negative",  # backwards in every dimension
    "misaligned",  # starts at an odd address
    "record",  # a field of a packed structure: strides that are no multiple of the element size
)


class Placed:
    """An array of the given layout, and the memory around it."""

    def __init__(self, shape, dtype, layout):
        dtype = np.dtype(dtype)
        strides = _strides(shape, dtype.itemsize, layout)
        spans = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)] if 0 not in shape else []
        lowest = sum(span for span in spans if span < 0)
        offset = 1 if layout in ("misaligned", "record") else 0
        size = sum(abs(span) for span in spans) + dtype.itemsize + offset + 8
        self.memory = np.full(size, FILL, np.uint8)
        self.array = np.ndarray(shape, dtype, self.memory, offset - lowest, strides)

    def only_elements_written(self):
        """Whether every byte that belongs to no element is as it was. Destroys the elements."""
        self.array[...] = np.frombuffer(bytes([FILL]) * self.array.itemsize, self.array.dtype)[0]
        return bool((self.memory == FILL).all())


def _strides(shape, itemsize, layout):
    rank = len(shape)
    order = list(range(rank))[::-1]  # fastest first
    if layout == "fortran":
        order.reverse()
    elif layout == "swapped" and rank >= 2:
        order[0], order[1] = order[1], order[0]
    elif layout == "heads" and rank >= 3:
        order[1], order[2] = order[2], order[1]
    step = {"step": 2 * itemsize, "record": itemsize + 3}.get(layout, itemsize)
    strides = [0] * rank
    for position, axis in enumerate(order):
        strides[axis] = -step if layout == "negative" else step
        step *= max(1, shape[axis])
        if layout == "padded" and position == 0:
            step += 3 * itemsize
    return strides


def place(values, layout):
    """A copy of `values` in the given layout."""
    values = np.asarray(values)
    array = Placed(values.shape, values.dtype, layout).array
    array[...] = values
    return array


class Unchanged:
    """A context in which the arrays keep every bit."""

    def __init__(self, *arrays):
        self._arrays = [array for array in arrays if isinstance(array, np.ndarray) and math.prod(array.shape) < 1 << 24]

    def __enter__(self):
        self._before = [array.tobytes() for array in self._arrays]
        return self

    def __exit__(self, *exception):
        assert [array.tobytes() for array in self._arrays] == self._before
