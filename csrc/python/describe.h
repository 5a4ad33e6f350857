// Where a torch.Tensor's elements are, asked of the Python object: no torch headers, so one build serves every torch.
#pragma once
#include <pybind11/pybind11.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "dlpack.h"
#include "../table.h"

namespace gaudi3_rt {

// A dense or strided tensor in CPU memory. `shape` and `strides` are valid until the next description.
struct Description {
  void* data;
  dlpack::DataType dtype;
  std::int32_t ndim;
  const std::int64_t* shape;
  const std::int64_t* strides;

  std::int64_t length() const;
  // The codec that stores this dtype alone, if there is one.
  std::optional<Codec> codec() const;
  // The codec that stores it in blocks with scales; positive: of what cannot be negative.
  std::optional<Codec> block_codec(bool positive) const;
  bool is_contiguous() const;
  // True if the elements fill one stretch of memory without gaps or overlap, in whatever order of dimensions.
  bool is_dense() const;
  bool has_shape_of(const Description& other) const;
  // True if equal indices are at equal distances from the first element; shapes must be equal.
  bool has_strides_of(const Description& other) const;
};

class Describer {
 public:
  // tensor_type is torch.Tensor. Its DLPack exchange table is used if it has one (torch >= 2.10) and
  // use_exchange_table is set; otherwise its Python attributes, which takes many times as long.
  Describer(pybind11::type tensor_type, bool use_exchange_table);

  // Nothing if the object is not a tensor with plain CPU memory: another device or layout, no
  // storage, or a subclass
  // that overrides __torch_dispatch__ (DTensor, FakeTensor), whose memory is not what it seems.
  std::optional<Description> operator()(PyObject* object);

  // Whether the numbers in memory are the negatives of the tensor's elements (torch's negation bit).
  static bool is_negated(PyObject* object);

  // Hints to the CPU that object will be described soon, each to be given some time after the one before it: first the
  // Python object is fetched into the cache, then what it points to, and so on. A step touches every tensor once and
  // then streams all parameters through the caches, so the next step finds none of this in them.
  void prefetch_object(PyObject* object) const { __builtin_prefetch(object); }
  void prefetch_tensor(PyObject* object) const;
  void prefetch_storage(PyObject* object) const;
  void prefetch_autograd(PyObject* object) const;  // where a parameter's gradient hangs

  // A description that stays valid when others follow, until the next one is kept.
  Description keep(const Description& tensor);

 private:
  // Byte offsets of the pointers that lead from a Python tensor to its storage; found out by looking, for hints only.
  struct Layout {
    std::size_t impl_in_object;
    std::size_t storage_in_impl;
  };

  std::optional<Layout> find_layout() const;
  // torch's own object behind a Python tensor; null if that is not known.
  const char* impl(PyObject* object) const;
  bool known_plain(PyTypeObject* type) const;
  bool is_plain(PyTypeObject* type);
  std::optional<Description> describe(PyObject* object);
  std::optional<Description> from_attributes(PyObject* object);

  pybind11::type tensor_type_;
  pybind11::object base_dispatch_;
  const dlpack::ExchangeTable* table_ = nullptr;
  std::optional<Layout> layout_;
  std::vector<pybind11::object> plain_types_;
  std::vector<std::int64_t> shape_, strides_, kept_shape_, kept_strides_;
};

}  // namespace gaudi3_rt
