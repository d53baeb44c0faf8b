"""Arrays that are known only through a protocol, written out byte by byte; and what raises instead."""

import ctypes

import numpy as np

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class DLPackProducer:
    """An array that can be had only through DLPack; counts the capsules handed out and destroyed.

    `fields` replace those of the tensor: device_type, code, bits, lanes, data, rank, byte_offset. `strides` are in
    elements, None for the null pointer. With `version` None the producer is from before version 1: it knows no keyword
    and its capsule has the old layout.
    """

    def __init__(self, array, *, version=(1, 0), flags=0, strides=(), **fields):
        self.array = array
        self.handed_out = self.destroyed = 0
        self.last_request = None
        self._version, self._flags = version, flags
        strides = [stride // array.itemsize for stride in array.strides] if strides == () else strides
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * array.ndim)(*strides)
        self._fields = {
            "data": array.ctypes.data,
            "device_type": 1,
            "rank": array.ndim,
            "code": 2,
            "bits": 8 * array.itemsize,
            "lanes": 1,
        } | fields
        self._alive = {}
        self._destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._destroy)

    def _destroy(self, capsule):
        del self._alive[capsule]
        self.destroyed += 1

    def _capsule(self, managed, name):
        tensor = managed.tensor
        tensor.shape = ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64))
        if self._strides is not None:
            tensor.strides = ctypes.cast(self._strides, ctypes.POINTER(ctypes.c_int64))
        for field, value in self._fields.items():
            setattr(tensor, field, value)
        self.handed_out += 1
        capsule = _new_capsule(ctypes.addressof(managed), name, ctypes.cast(self._destructor, ctypes.c_void_p))
        self._alive[id(capsule)] = managed
        return capsule

    def __dlpack_device__(self):
        return self._fields["device_type"], 0

    def __dlpack__(self, **options):
        self.last_request = options
        if self._version is None:
            if options:
                raise TypeError("unexpected keyword")
            return self._capsule(_Managed(), b"dltensor")
        major, minor = self._version
        return self._capsule(_ManagedVersioned(major=major, minor=minor, flags=self._flags), b"dltensor_versioned")


class InterfaceProducer:
    """An array that can be had only through ``__array_interface__``, entries of which may be replaced."""

    def __init__(self, array, **entries):
        self.array = array  # keeps the memory
        self.__array_interface__ = dict(array.__array_interface__) | entries


def huge(dtype):
    """An array of 2^42 rows of one element; nobody can copy it."""
    return np.broadcast_to(np.ones(1, dtype), (1 << 42, 1))


class Raising:
    """Whatever is asked of it raises."""

    def __init__(self, error):
        self.error = error

    def raise_error(self, *_args, **_options):
        raise self.error

    __array__ = __float__ = raise_error
    dtype = property(raise_error)
