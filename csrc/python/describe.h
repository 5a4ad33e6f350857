// Where a torch.Tensor's elements are, asked of the Python object: no torch headers, so one build serves every torch.
#pragma once
#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "dlpack.h"
#include "../table.h"

namespace gaudi3_rt {

// A dense or strided tensor in CPU memory. `shape` and `strides` are valid until the next
// description, or while the tensor lives (Describer::keeps_descriptions).
struct Description {
  void* data;
  dlpack::DataType dtype;
  std::int32_t ndim;
  const std::int64_t* shape;
  const std::int64_t* strides;

  std::int64_t length() const;
  // The codec for this dtype, if there is one.
  std::optional<DType> codec() const;
  // True if the elements fill one stretch of memory without gaps or overlap, in whatever order of dimensions.
  bool is_dense() const;
  bool has_shape_of(const Description& other) const;
  // True if equal indices are at equal distances from the first element; shapes must be equal.
  bool has_strides_of(const Description& other) const;
};

class Describer {
 public:
  // tensor_type is torch.Tensor. Its DLPack exchange table is used if it has one (torch >= 2.10) and
  // use_exchange_table is set; otherwise its Python attributes, which takes about ten times as long.
  Describer(pybind11::type tensor_type, bool use_exchange_table);

  // Nothing if the object is not a tensor with plain CPU memory: another device or layout, no storage, or a subclass
  // that overrides __torch_dispatch__ (DTensor, FakeTensor), whose memory is not what it seems.
  std::optional<Description> operator()(PyObject* object);

  // Whether shape and strides of a description outlive the next one.
  bool keeps_descriptions() const { return table_ != nullptr; }

 private:
  bool is_plain(PyTypeObject* type);
  std::optional<Description> from_attributes(PyObject* object);

  pybind11::type tensor_type_;
  pybind11::object base_dispatch_;
  const dlpack::ExchangeTable* table_ = nullptr;
  std::vector<pybind11::object> plain_types_;
  std::vector<std::int64_t> shape_, strides_;
};

}  // namespace gaudi3_rt
