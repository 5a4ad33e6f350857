// A stand-in for the "hpu" device and for Habana's bridge: tensors live in host memory, whatever torch does with them
// is done on the CPU, and a custom operator asks Python for its results (gaudi3_rt_stand_in::execute).
#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <map>

#include "hpu_custom_op_pt2.h"

namespace {

struct HostMemory final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* const data = std::malloc(bytes);
    return {data, data, std::free, at::Device(at::kHPU, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

HostMemory memory;
REGISTER_ALLOCATOR(at::kHPU, &memory)
const c10::impl::NoOpDeviceGuardImpl<at::kHPU> guard;
const c10::impl::DeviceGuardImplRegistrar registrar(at::kHPU, &guard);

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::HPU);

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, kKeys, dtype.value_or(at::kFloat));
}

// The same elements as a tensor on the CPU.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  const std::size_t bytes = c10::multiply_integers(size) * self.element_size();
  if (bytes > self.storage().nbytes()) {
    self.storage().set_data_ptr_noswap(memory.allocate(bytes));  // what was in it is not kept: results are resized
    self.storage().set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) resize(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

void on_host(const c10::OperatorHandle& op, c10::Stack* stack) { at::native::cpu_fallback(op, stack); }

std::map<std::string, habana::custom_op::UserCustomOpDescriptor>& descriptors() {
  static std::map<std::string, habana::custom_op::UserCustomOpDescriptor> all;
  return all;
}

}  // namespace

TORCH_LIBRARY_IMPL(_, HPU, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<on_host>()); }

TORCH_LIBRARY_IMPL(aten, HPU, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize);
  library.impl("copy_", copy);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", at::native::view);
}

TORCH_LIBRARY(gaudi3_rt_stand_in, library) { library.def("execute(str guid, Tensor[] inputs) -> Tensor[]"); }

namespace habana::custom_op {

const UserCustomOpDescriptor& UserCustomOpDescriptor::getUserCustomOpDescriptor(const std::string& op) {
  return descriptors().at(op);
}

void registerUserCustomOp(const std::string& schema, const std::string& guid, OutputMetaFn outputs, FillParamsFn) {
  descriptors()[schema] = {guid, std::move(outputs)};
}

std::vector<at::Tensor> UserCustomOpDescriptor::execute(const std::vector<c10::IValue>& inputs) {
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& input : inputs) tensors.push_back(input.toTensor());
  c10::Stack stack{guid, tensors};
  c10::Dispatcher::singleton().findSchemaOrThrow("gaudi3_rt_stand_in::execute", "").callBoxed(stack);
  const std::vector<at::Tensor> results = stack.at(0).toTensorVector();
  const auto expected = outputs(inputs);
  TORCH_CHECK(results.size() == expected.size(), guid, ": ", results.size(), " results, not ", expected.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    TORCH_CHECK(results[i].sizes() == c10::IntArrayRef(expected[i].shape), guid, ": size of result ", i);
    TORCH_CHECK(results[i].scalar_type() == expected[i].dtype, guid, ": dtype of result ", i);
  }
  return results;
}

}  // namespace habana::custom_op
