#include "bindings/kv_cache.hpp"

#include "bindings/array.hpp"
#include "bindings/options.hpp"
#include "core/text.hpp"
#include "transfuse/error.hpp"

namespace py = pybind11;

namespace transfuse::python {
namespace {

/// What a Python object that is a KVCache holds: null if its __init__ has not run, or failed.
const KVCache* held_by(const py::handle& cache) {
  const py::detail::type_info* const type = py::detail::get_type_info(typeid(KVCache));
  return reinterpret_cast<py::detail::instance*>(cache.ptr())->get_value_and_holder(type).value_ptr<KVCache>();
}

}  // namespace
}  // namespace transfuse::python

/// How every method and property gets its KVCache: pybind11's own way would provide memory that nobody has initialized.
template <>
struct pybind11::detail::type_caster<transfuse::KVCache> : type_caster_base<transfuse::KVCache> {
  bool load(handle object, bool convert) {
    if (isinstance<transfuse::KVCache>(object) && transfuse::python::held_by(object) == nullptr)
      throw transfuse::TypeError("self: expected a KVCache whose __init__ has run");
    return type_caster_base::load(object, convert);
  }
};

namespace transfuse::python {
namespace {

constexpr const char* kDocumentation =
    R"(Keys and values of a generation so far, for ``attention(q, cache=cache)``.

Appending copies the new tokens only; attention reads them where they are. Memory is laid out as (batch, kv_heads,
capacity, head_dim), each head's tokens one after another, so that a query reads them in one stream. It is taken from the
system as tokens come: of huge pages, where the system has them, 2 MiB at a time for each head.

Parameters
----------
batch : int
    Sequences, each of a length of its own.
kv_heads : int
capacity : int
    Tokens that each sequence may have at most; :meth:`grow` raises it.
head_dim : int
    Of the keys, and of the values unless `v_head_dim` says otherwise.
v_head_dim : int, optional
dtype : {"float32", "float64", "float16", "bfloat16", "int8"}
    A name, PyTorch's, or what ``numpy.dtype()`` takes, in this machine's byte order. int8: each token of each head is
    stored as whole multiples of its own scale, the largest magnitude / 127, so that no element is off by
    more than 1/254 of the token's largest (zeros where that is below 1.5e-36).

Raises
------
ValueError, TypeError, MemoryError

Notes
-----
Any number of threads may attend at the same time. :meth:`append` and :meth:`grow` copy on the calling thread, with the
interpreter lock held, and do not disturb those that have begun;
:meth:`truncate` and :meth:`reset` do not either, but what is appended after them takes the place of what they forgot.
They keep the memory; ``cache.grow(cache.capacity)`` gives that of forgotten tokens back. Caches cannot be copied or
pickled.

Examples
--------
>>> import numpy as np, transfuse
>>> cache = transfuse.KVCache(batch=1, kv_heads=2, capacity=16, head_dim=4)
>>> token = np.ones((1, 2, 1, 4), np.float32)
>>> cache.append(token, token)
>>> cache.lengths
array([1])
>>> transfuse.attention(np.ones((1, 8, 1, 4), np.float32), cache=cache, causal=True).shape
(1, 8, 1, 4)
)";

/// A number for each sequence; an int stands for all of them.
std::vector<std::int64_t> read_lengths(const KVCache& cache, const py::handle& object) {
  const std::int64_t shape[] = {cache.batch()};
  std::vector<std::int64_t> lengths = read_integers(object.ptr(), "lengths", shape);
  if (lengths.size() == 1) lengths.resize(static_cast<std::size_t>(cache.batch()), lengths[0]);
  return lengths;
}

py::object owned(Object object) { return py::reinterpret_steal<py::object>(object.release()); }

ConstTensorView keys_of(const CachedTokens& tokens) { return tokens.keys(); }
ConstTensorView values_of(const CachedTokens& tokens) { return tokens.values(); }

ConstTensorView scales_of(const CachedTokens& tokens, const float* scales) {
  return {reinterpret_cast<const std::byte*>(scales), DType::float32, {tokens.shape, 3}, tokens.scale_strides};
}
ConstTensorView key_scales_of(const CachedTokens& tokens) { return scales_of(tokens, tokens.k_scales); }
ConstTensorView value_scales_of(const CachedTokens& tokens) { return scales_of(tokens, tokens.v_scales); }

/// An array over the cache's memory, which it keeps; None if there is nothing of that kind.
template <ConstTensorView (*Part)(const CachedTokens&)>
py::object view(const KVCache& cache) {
  const CachedTokens tokens = cache.tokens();
  const ConstTensorView part = Part(tokens);
  if (part.data == nullptr) return py::none();
  auto* const memory = new std::shared_ptr<const std::byte>(tokens.memory);
  const py::capsule owner(memory, [](void* p) { delete static_cast<std::shared_ptr<const std::byte>*>(p); });
  return owned(view_array(part, Object::borrowed(owner.ptr())));
}

std::unique_ptr<KVCache> make(const py::handle& batch, const py::handle& kv_heads, const py::handle& capacity,
                              const py::handle& head_dim, const py::handle& v_head_dim, const py::handle& dtype) {
  const std::int64_t depth = read_integer(head_dim.ptr(), "head_dim");
  return std::make_unique<KVCache>(read_integer(batch.ptr(), "batch"), read_integer(kv_heads.ptr(), "kv_heads"),
                                   read_integer(capacity.ptr(), "capacity"), depth,
                                   v_head_dim.is_none() ? depth : read_integer(v_head_dim.ptr(), "v_head_dim"),
                                   read_stored_dtype(dtype.ptr()));
}

void append(KVCache& cache, const py::handle& k, const py::handle& v, const py::handle& lengths) {
  const InputArray keys(k.ptr(), "k", Elements::floating);
  const InputArray values(v.ptr(), "v", Elements::floating);
  std::vector<std::int64_t> counts;
  if (!lengths.is_none()) counts = read_lengths(cache, lengths);
  cache.append(keys.view(), values.view(), counts);
}

std::string representation(const KVCache& cache) {
  return "KVCache(batch=" + std::to_string(cache.batch()) + ", kv_heads=" + std::to_string(cache.kv_heads()) +
         ", capacity=" + std::to_string(cache.capacity()) + ", head_dim=" + std::to_string(cache.head_dim()) +
         (cache.v_head_dim() == cache.head_dim() ? "" : ", v_head_dim=" + std::to_string(cache.v_head_dim())) +
         ", dtype='" + name(cache.dtype()) + "') of lengths " + to_text(cache.lengths());
}

}  // namespace

bool is_cache(PyObject* object) { return py::isinstance<KVCache>(object); }

const KVCache& read_cache(PyObject* object) {
  if (!is_cache(object)) throw TypeError("cache: expected a transfuse.KVCache or None, got " + type_name(object));
  const KVCache* const cache = held_by(object);
  if (cache == nullptr) throw TypeError("cache: expected a KVCache whose __init__ has run");
  return *cache;
}

void define_kv_cache(py::module_& m) {
  py::class_<KVCache> cache(m, "KVCache", kDocumentation);
  cache.attr("__module__") = "transfuse";
  cache
      .def(py::init(&make), py::arg("batch"), py::arg("kv_heads"), py::arg("capacity"), py::arg("head_dim"),
           py::kw_only(), py::arg("v_head_dim") = py::none(), py::arg("dtype") = "float32")
      .def("append", &append, py::arg("k"), py::arg("v"), py::kw_only(), py::arg("lengths") = py::none(),
           R"(Add tokens to the end of each sequence.

Parameters
----------
k : array (batch, kv_heads, T, head_dim)
    Of the cache's dtype; for int8 of float32, float16 or bfloat16, all finite.
v : array (batch, kv_heads, T, v_head_dim)
    Of the dtype of `k`.
lengths : array of ints (batch,), optional
    How many of the T tokens count, for each sequence; an int for all of them. Default: T.

Raises
------
ValueError
    Shapes or lengths that do not fit, a sequence that would exceed the capacity, arrays in the cache's own memory. The
    cache is as before then.
TypeError
    Another dtype.)")
      .def(
          "truncate", [](KVCache& self, const py::handle& lengths) { self.truncate(read_lengths(self, lengths)); },
          py::arg("lengths"),
          "Forget the tokens from ``lengths[b]`` on: (batch,) ints, or an int for all. Their memory stays. ValueError "
          "if a sequence is shorter.")
      .def("reset", &KVCache::reset, "Forget all tokens. Their memory stays.")
      .def(
          "grow",
          [](KVCache& self, const py::handle& capacity) { self.grow(read_integer(capacity.ptr(), "capacity")); },
          py::arg("capacity"),
          "Make room for `capacity` tokens of each sequence, by copying to new memory: until then there are both. "
          "Arrays that were taken from the cache before keep the old memory. To the capacity that it has: copies only "
          "if tokens were forgotten, to give their memory back. ValueError if it is less.")
      .def_property_readonly("batch", &KVCache::batch)
      .def_property_readonly("kv_heads", &KVCache::kv_heads)
      .def_property_readonly("capacity", &KVCache::capacity, "Tokens that each sequence may have at most.")
      .def_property_readonly("head_dim", &KVCache::head_dim)
      .def_property_readonly("v_head_dim", &KVCache::v_head_dim)
      .def_property_readonly(
          "dtype", [](const KVCache& self) { return name(self.dtype()); }, "Its name.")
      .def_property_readonly("nbytes", &KVCache::bytes, "Memory for the whole capacity, in bytes.")
      .def_property_readonly(
          "lengths",
          [](const KVCache& self) {
            const std::int64_t shape[] = {self.batch()};
            const Object array = Object::checked(PyArray_SimpleNew(1, shape, NPY_INT64));
            std::ranges::copy(self.lengths(),
                              static_cast<std::int64_t*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.get()))));
            return py::reinterpret_borrow<py::object>(array.get());
          },
          "(batch,) tokens of each sequence, a copy.")
      .def_property_readonly("keys", &view<&keys_of>,
                             "(batch, kv_heads, longest length, head_dim), a read-only view; int8 without its scales.")
      .def_property_readonly("values", &view<&values_of>, "(batch, kv_heads, longest length, v_head_dim), likewise.")
      .def_property_readonly(
          "key_scales", &view<&key_scales_of>,
          "(batch, kv_heads, longest length), by which keys of int8 are multiplied, a read-only view; else None.")
      .def_property_readonly("value_scales", &view<&value_scales_of>, "The same for values.")
      .def("__repr__", &representation);
}

}  // namespace transfuse::python
