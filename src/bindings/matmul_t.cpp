#include "operations/matmul_t.hpp"

#include "bindings/arguments.hpp"
#include "bindings/array.hpp"
#include "bindings/operations.hpp"
#include "bindings/options.hpp"
#include "bindings/wisdom.hpp"
#include "core/constants.hpp"

namespace transfuse::python {
namespace {

constexpr const char* kDocumentation =
    R"(matmul_t(a, b, *, out=None, bias=None, activation=None, num_threads=None, config=None)
--

The transposed matrix product (A·B)ᵀ, with bias and activation, in one pass.

``out[..., n, m] = activation(sum_k a[..., m, k] * b[..., k, n] + bias[n])``

Parameters
----------
a : array (..., M, K)
    float32 or float64, any strides: a numpy.ndarray, or any CPU array with ``__dlpack__`` (PyTorch, JAX) or
    ``__array_interface__``, which are read in place.
b : array (..., K, N)
    Of the dtype of `a`. Batch dimensions broadcast as in numpy.matmul.
out : numpy.ndarray (..., N, M), optional
    Receives the result. Exactly this shape and dtype, any strides; shares memory with no input.
bias : array (N,), optional
    Of the dtype of `a`.
activation : {None, "relu", "gelu", "gelu_tanh", "silu"}
    The formulas are those of PyTorch; "gelu" is the exact one, by erf.
num_threads : int, optional
    Default: the least of OpenMP's maximum, the CPU affinity and the cgroup quota.
config : mapping, optional
    ``block_m``, ``block_n``, ``block_k`` (cache blocking), ``isa`` ("scalar", "avx2", "avx512") and ``threads``. What it
    does not say is the tuned value, else the default. An explicit `num_threads` wins.

Returns
-------
numpy.ndarray (..., N, M)
    `out` if it was given, else a new C-contiguous array. Bitwise the same for every number of threads.

Raises
------
ValueError
    Shapes that do not fit, a value out of range, an unknown activation, config key or tier, or an `out` of another shape
    or dtype, read-only, or overlapping an input or itself.
TypeError
    Another dtype than float32 and float64, mixed dtypes, an object that is no array, a tensor that requires grad.
MemoryError
    The result or the working memory (at most 8 MiB, or 8 MiB a thread for batches and small products) cannot be allocated.

    Nothing has been written to `out` then.

Examples
--------
>>> import numpy as np, transfuse
>>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
>>> transfuse.matmul_t(a, np.ones((3, 1), np.float32))
array([[ 3., 12.]], dtype=float32)
)";

enum Parameter { kA, kB, kOut, kBias, kActivation, kNumThreads, kConfig, kCount };

/// The call that programs make with small matrices, where the checks are what costs: contiguous ones, and nothing else
/// but `out`. Null, with nothing done and no error set, if the call is another one or has a mistake.
PyObject* quick_matmul_t(PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names) {
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const Py_ssize_t keywords = keyword_names == nullptr ? 0 : PyTuple_GET_SIZE(keyword_names);
  if (positional != 2 || keywords > 1 || (keywords == 1 && PyTuple_GET_ITEM(keyword_names, 0) != out_name))
    return nullptr;
  PyArrayObject* const a = plain_matrix(args[0]);
  PyArrayObject* const b = plain_matrix(args[1]);
  if (a == nullptr || b == nullptr || PyArray_TYPE(a) != PyArray_TYPE(b)) return nullptr;
  QuickMatmulT product{.dtype = *computed_dtype(a),
                       .a = bytes_of(a),
                       .b = bytes_of(b),
                       .out = nullptr,
                       .m = PyArray_DIM(a, 0),
                       .k = PyArray_DIM(a, 1),
                       .n = PyArray_DIM(b, 1)};
  if (PyArray_DIM(b, 0) != product.k || !is_quick(product)) return nullptr;
  if (keywords == 0) {
    npy_intp shape[] = {product.n, product.m};
    Object result = Object::checked(PyArray_SimpleNew(2, shape, PyArray_TYPE(a)));
    product.out = bytes_of(reinterpret_cast<PyArrayObject*>(result.get()));
    return run_matmul_t_quick(product) ? result.release() : nullptr;
  }
  PyArrayObject* const out = plain_matrix(args[2]);
  if (out == nullptr || PyArray_TYPE(out) != PyArray_TYPE(a) || !PyArray_ISWRITEABLE(out) ||
      PyArray_DIM(out, 0) != product.n || PyArray_DIM(out, 1) != product.m)
    return nullptr;
  product.out = bytes_of(out);
  if (overlaps(product)) return nullptr;
  return run_matmul_t_quick(product) ? Py_NewRef(args[2]) : nullptr;
}

PyObject* matmul_t(PyObject* /*module*/, PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names) {
  try {
    ensure_wisdom();
    if (PyObject* result = quick_matmul_t(args, positional, keyword_names)) return result;
    static const Signature signature("matmul_t", 2, {"a", "b"}, {"out", "bias", "activation", "num_threads", "config"});
    PyObject* given[kCount];
    signature.parse(args, positional, keyword_names, given);

    MatmulTOptions options;
    if (!is_none(given[kConfig])) {
      const auto config = read_config<MatmulTConfig>(given[kConfig]);
      options.config = config.parameters;
      options.isa = config.isa;
      options.num_threads = config.threads;
    }
    if (!is_none(given[kNumThreads])) options.num_threads = read_threads(given[kNumThreads], "num_threads");
    options.activation = read_activation(given[kActivation]);

    const InputArray a(given[kA], "a");
    const InputArray b(given[kB], "b");
    std::optional<InputArray> bias;
    if (!is_none(given[kBias])) options.bias = bias.emplace(given[kBias], "bias").view();

    const MatmulTCall call = prepare_matmul_t(a.view(), b.view());
    check_matmul_t_options(call, options);
    Object result;
    TensorView out;
    if (is_none(given[kOut])) {
      result = new_array(call.out_shape, call.a.dtype);
      out = view_of(reinterpret_cast<PyArrayObject*>(result.get()), call.a.dtype);
    } else {
      out = output_view(given[kOut], "out");
      check_matmul_t_out(call, out, options);
      result = Object::borrowed(given[kOut]);
    }

    if (call.work() < kReleaseLockWork) {
      run_matmul_t(call, out, options);
    } else {
      const ReleasedLock released;
      run_matmul_t(call, out, options);
    }
    return result.release();
  } catch (...) {
    set_python_error("matmul_t");
    return nullptr;
  }
}

}  // namespace

PyMethodDef matmul_t_method() {
  return {"matmul_t", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(matmul_t)),
          METH_FASTCALL | METH_KEYWORDS, kDocumentation};
}

}  // namespace transfuse::python
