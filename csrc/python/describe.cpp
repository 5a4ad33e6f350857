#include "describe.h"

#include <algorithm>
#include <pybind11/stl.h>

#include <array>
#include <string>

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

// The method's result, or nothing if it raised (a layout without that notion, a tensor without storage).
template <class T>
std::optional<T> ask(PyObject* object, const char* method) {
  const auto result = py::reinterpret_steal<py::object>(PyObject_CallMethod(object, method, nullptr));
  if (!result) {
    PyErr_Clear();
    return std::nullopt;
  }
  return result.cast<T>();
}

dlpack::DataType data_type(const std::string& torch_name) {
  if (torch_name == "torch.float32") return {dlpack::kFloat, 32, 1};
  if (torch_name == "torch.float64") return {dlpack::kFloat, 64, 1};
  if (torch_name == "torch.float16") return {dlpack::kFloat, 16, 1};
  if (torch_name == "torch.bfloat16") return {dlpack::kBfloat, 16, 1};
  if (torch_name == "torch.int16") return {dlpack::kInt, 16, 1};
  if (torch_name == "torch.int8") return {dlpack::kInt, 8, 1};
  if (torch_name == "torch.uint8") return {dlpack::kUInt, 8, 1};
  if (torch_name == "torch.float8_e4m3fn") return {dlpack::kE4m3fn, 8, 1};
  if (torch_name == "torch.float8_e5m2") return {dlpack::kE5m2, 8, 1};
  return {0, 0, 0};
}

}  // namespace

std::int64_t Description::length() const {
  std::int64_t n = 1;
  for (std::int32_t d = 0; d < ndim; ++d) n *= shape[d];
  return n;
}

std::optional<Codec> Description::codec() const {
  if (dtype.lanes != 1) return std::nullopt;
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return Codec::f32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 16) return Codec::f16;
  if (dtype.code == dlpack::kBfloat && dtype.bits == 16) return Codec::bf16;
  return std::nullopt;
}

std::optional<Codec> Description::block_codec(bool positive) const {
  if (dtype.lanes != 1 || dtype.bits != 8) return std::nullopt;
  if (dtype.code == dlpack::kInt && !positive) return Codec::int8_block;
  if (dtype.code == dlpack::kUInt && positive) return Codec::int8_block_positive;
  if (dtype.code == dlpack::kE4m3fn) return positive ? Codec::e4m3_block_positive : Codec::e4m3_block;
  if (dtype.code == dlpack::kE5m2) return positive ? Codec::e5m2_block_positive : Codec::e5m2_block;
  return std::nullopt;
}

bool Description::is_contiguous() const {
  if (length() == 0) return true;
  std::int64_t expected = 1;
  for (std::int32_t d = ndim - 1; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

bool Description::is_dense() const {
  if (is_contiguous()) return true;

  std::vector<std::array<std::int64_t, 2>> by_stride;
  for (std::int32_t d = 0; d < ndim; ++d) {
    if (shape[d] != 1) by_stride.push_back({strides[d], shape[d]});
  }
  std::sort(by_stride.begin(), by_stride.end());
  std::int64_t expected = 1;
  for (const auto& [stride, size] : by_stride) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

bool Description::has_shape_of(const Description& other) const {
  return ndim == other.ndim && std::equal(shape, shape + ndim, other.shape);
}

bool Description::has_strides_of(const Description& other) const {
  for (std::int32_t d = 0; d < ndim; ++d) {
    if (shape[d] != 1 && strides[d] != other.strides[d]) return false;
  }
  return true;
}

Describer::Describer(py::type tensor_type, bool use_exchange_table)
    : tensor_type_(std::move(tensor_type)), base_dispatch_(tensor_type_.attr("__torch_dispatch__")) {
  layout_ = find_layout();
  if (!use_exchange_table || !py::hasattr(tensor_type_, dlpack::kExchangeAttribute)) return;
  const py::object capsule = tensor_type_.attr(dlpack::kExchangeAttribute);
  table_ = static_cast<const dlpack::ExchangeTable*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsule));
  if (table_ == nullptr) throw py::error_already_set();
  while (table_ != nullptr && table_->major_version != dlpack::kMajorVersion) table_ = table_->previous;
}

std::optional<Describer::Layout> Describer::find_layout() const {
  const py::object sample = tensor_type_();
  if (!py::hasattr(sample, "_cdata") || !py::hasattr(sample, "untyped_storage")) return std::nullopt;
  const auto impl = sample.attr("_cdata").cast<std::uintptr_t>();
  const auto storage = sample.attr("untyped_storage")().attr("_cdata").cast<std::uintptr_t>();
  const auto find = [](std::uintptr_t address, std::size_t bytes, std::uintptr_t wanted) -> std::optional<std::size_t> {
    for (std::size_t offset = 0; offset + sizeof(wanted) <= bytes; offset += sizeof(wanted)) {
      if (*reinterpret_cast<const std::uintptr_t*>(address + offset) == wanted) return offset;
    }
    return std::nullopt;
  };
  const auto size = static_cast<std::size_t>(Py_TYPE(sample.ptr())->tp_basicsize);
  const auto in_object = find(reinterpret_cast<std::uintptr_t>(sample.ptr()), size, impl);
  const auto in_impl = find(impl, 64, storage);
  if (!in_object || !in_impl) return std::nullopt;
  return Layout{*in_object, *in_impl};
}

const char* Describer::impl(PyObject* object) const {
  if (!layout_ || !known_plain(Py_TYPE(object))) return nullptr;
  return *reinterpret_cast<const char* const*>(reinterpret_cast<char*>(object) + layout_->impl_in_object);
}

void Describer::prefetch_tensor(PyObject* object) const {
  const char* const tensor = impl(object);
  for (int line = 0; tensor != nullptr && line < 3; ++line) __builtin_prefetch(tensor + 64 * line);
}

void Describer::prefetch_storage(PyObject* object) const {
  const char* const tensor = impl(object);
  if (tensor != nullptr) __builtin_prefetch(*reinterpret_cast<const char* const*>(tensor + layout_->storage_in_impl));
}

void Describer::prefetch_autograd(PyObject* object) const {
  const char* const tensor = impl(object);
  if (tensor == nullptr) return;
  // The pointer after the one to the storage. Were it another one, this would be a useless hint and no more.
  const char* const* const storage = reinterpret_cast<const char* const*>(tensor + layout_->storage_in_impl);
  __builtin_prefetch(storage[1]);
  __builtin_prefetch(storage[1] + 64);
}

bool Describer::known_plain(PyTypeObject* type) const {
  auto* const object = reinterpret_cast<PyObject*>(type);
  if (object == tensor_type_.ptr()) return true;
  return std::any_of(plain_types_.begin(), plain_types_.end(), [&](const py::object& t) { return t.ptr() == object; });
}

bool Describer::is_plain(PyTypeObject* type) {
  if (known_plain(type)) return true;
  if (PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(tensor_type_.ptr())) == 0) return false;
  const auto handle = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type));
  if (py::object(handle.attr("__torch_dispatch__")).ptr() != base_dispatch_.ptr()) return false;
  plain_types_.push_back(handle);
  return true;
}

std::optional<Description> Describer::operator()(PyObject* object) {
  auto description = describe(object);
  // No process may map its lowest 64 KiB: elements there are those of a storage that was freed, or never allocated.
  const bool nowhere = description && reinterpret_cast<std::uintptr_t>(description->data) < 0x10000;
  return nowhere && description->length() > 0 ? std::nullopt : description;
}

std::optional<Description> Describer::describe(PyObject* object) {
  if (!is_plain(Py_TYPE(object))) return std::nullopt;
  if (table_ == nullptr) return from_attributes(object);
  dlpack::Tensor tensor;
  if (table_->describe(object, &tensor) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  if (tensor.device.type != dlpack::kCpu) return std::nullopt;
  return Description{static_cast<char*>(tensor.data) + tensor.byte_offset, tensor.dtype, tensor.ndim, tensor.shape,
                     tensor.strides};
}

Description Describer::keep(const Description& tensor) {
  if (table_ != nullptr) return tensor;  // DLPack points into the tensor itself
  Description kept = tensor;
  kept_shape_.assign(tensor.shape, tensor.shape + tensor.ndim);
  kept_strides_.assign(tensor.strides, tensor.strides + tensor.ndim);
  kept.shape = kept_shape_.data();
  kept.strides = kept_strides_.data();
  return kept;
}

bool Describer::is_negated(PyObject* object) { return ask<bool>(object, "is_neg").value_or(false); }

std::optional<Description> Describer::from_attributes(PyObject* object) {
  const auto tensor = py::reinterpret_borrow<py::object>(object);
  if (tensor.attr("device").attr("type").cast<std::string>() != "cpu") return std::nullopt;
  const auto data = ask<std::uintptr_t>(object, "data_ptr");
  const auto strides = ask<std::vector<std::int64_t>>(object, "stride");
  if (!data || !strides) return std::nullopt;
  strides_ = *strides;
  shape_ = tensor.attr("shape").cast<std::vector<std::int64_t>>();
  return Description{reinterpret_cast<void*>(*data), data_type(py::str(tensor.attr("dtype")).cast<std::string>()),
                     static_cast<std::int32_t>(shape_.size()), shape_.data(), strides_.data()};
}

}  // namespace gaudi3_rt
