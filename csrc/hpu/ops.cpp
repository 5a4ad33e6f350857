// torch.ops.gaudi3_rt_hpu.<kernel>: every kernel of the TPC registry as a PyTorch operator on the HPU.
// The operators are functional: what a kernel updates comes back as new tensors, because the bridge has no outputs in
// place. All tensors are contiguous rows; step constants come in a tensor, never in parameters of the graph's node.
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <hpu_custom_op_pt2.h>
#include <torch/library.h>

#include <string>
#include <string_view>
#include <vector>

#include "../../tpc_kernels/glue/sizes.h"

namespace gaudi3_rt {
namespace {

using habana::PartialOutputMetaDataVector;
using habana::custom_op::UserCustomOpDescriptor;

const std::string kNamespace = "gaudi3_rt_hpu";
const std::string kPrefix = "g3rt_";

std::string qualified(const tpc::Kernel& kernel) { return kNamespace + "::" + kernel.name; }

// "adamw_f32(Tensor param, Tensor grad, ...) -> (Tensor, Tensor, Tensor)"
std::string schema(const tpc::Kernel& kernel) {
  std::string text = std::string(kernel.name) + "(";
  for (const tpc::Operand& input : tpc::Operands(kernel.inputs)) {
    text += std::string(text.back() == '(' ? "" : ", ") + "Tensor " + input.name;
  }
  const std::uint32_t outputs = tpc::Operands(kernel.outputs).size();
  text += ") -> (";
  for (std::uint32_t i = 0; i < outputs; ++i) text += i == 0 ? "Tensor" : ", Tensor";
  return text + ")";
}

const tpc::Kernel& kernel_of(const c10::OperatorHandle& op) {
  const std::string& name = op.operator_name().name;
  for (const tpc::Kernel& kernel : tpc::kKernels) {
    if (name == qualified(kernel)) return kernel;
  }
  TORCH_CHECK(false, name, " is not in the table of TPC kernels");
}

at::ScalarType scalar_type(tpc::Dtype dtype) {
  switch (dtype) {
    case tpc::Dtype::f32:
      return at::kFloat;
    case tpc::Dtype::bf16:
      return at::kBFloat16;
    case tpc::Dtype::i8:
      return at::kChar;
    case tpc::Dtype::u8:
      return at::kByte;
    case tpc::Dtype::i32:
      return at::kInt;
  }
  TORCH_CHECK(false, "a dtype of the table of TPC kernels has no torch dtype");
}

// The size of what a kernel knows as dimension 0.
std::int64_t length(const at::Tensor& tensor) { return tensor.dim() == 0 ? 1 : tensor.size(-1); }

// The outputs of a call; refuses inputs with which the kernel cannot run.
PartialOutputMetaDataVector outputs_of(const tpc::Kernel& kernel, const c10::Stack& stack) {
  const tpc::Operands inputs(kernel.inputs);
  const auto tensor = [&](std::uint32_t i) { return stack.at(stack.size() - inputs.size() + i).toTensor(); };
  const tpc::Cut cut = tpc::cut(kernel, [&](std::uint32_t i) { return static_cast<std::uint64_t>(length(tensor(i))); });
  for (std::uint32_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor given = tensor(i);
    const bool in_rows = inputs[i].access == tpc::Access::rows;
    const std::int64_t n = length(given);
    const auto wanted = static_cast<std::int64_t>(cut.size(inputs[i]).value_or(n));
    TORCH_CHECK(given.scalar_type() == scalar_type(inputs[i].dtype), qualified(kernel), ": ", inputs[i].name, " is ",
                given.scalar_type(), "; it must be ", scalar_type(inputs[i].dtype));
    TORCH_CHECK(given.dim() == (in_rows ? 2 : 1) && n == wanted, qualified(kernel), ": ", inputs[i].name, " has shape ",
                given.sizes(), "; it must be ", in_rows ? "[rows, " : "[", wanted, "] (flatten ",
                in_rows ? "each row)" : "it)");
    TORCH_CHECK(!in_rows || tpc::can_add_up(static_cast<std::uint64_t>(given.size(0))), qualified(kernel), ": ",
                inputs[i].name, " has ", given.size(0), " rows; it must have 1 to ", tpc::kMaxShards);
    TORCH_CHECK(static_cast<std::uint64_t>(n) <= tpc::kMaxElements, qualified(kernel), ": ", inputs[i].name, " has ", n,
                " elements; at most ", tpc::kMaxElements, " are possible");
  }
  PartialOutputMetaDataVector result;
  for (const tpc::Operand& output : tpc::Operands(kernel.outputs)) {
    result.push_back({scalar_type(output.dtype), {static_cast<std::int64_t>(*cut.size(output))}});
  }
  return result;
}

void push_instead_of_inputs(const tpc::Kernel& kernel, std::vector<at::Tensor> results, c10::Stack* stack) {
  torch::jit::drop(*stack, tpc::Operands(kernel.inputs).size());
  for (at::Tensor& result : results) stack->emplace_back(std::move(result));
}

void run(const c10::OperatorHandle& op, c10::Stack* stack) {
  const tpc::Kernel& kernel = kernel_of(op);
  outputs_of(kernel, *stack);  // a clear error, before the bridge queues anything
  UserCustomOpDescriptor descriptor = UserCustomOpDescriptor::getUserCustomOpDescriptor(qualified(kernel));
  const auto inputs = static_cast<std::ptrdiff_t>(tpc::Operands(kernel.inputs).size());
  push_instead_of_inputs(kernel, descriptor.execute({stack->end() - inputs, stack->end()}), stack);
}

// Shapes and dtypes alone, for torch.compile.
void run_without_data(const c10::OperatorHandle& op, c10::Stack* stack) {
  const tpc::Kernel& kernel = kernel_of(op);
  const at::Tensor like = stack->back().toTensor();
  std::vector<at::Tensor> results;
  for (const auto& output : outputs_of(kernel, *stack)) results.push_back(like.new_empty(output.shape, output.dtype));
  push_instead_of_inputs(kernel, std::move(results), stack);
}

template <void (*kRun)(const c10::OperatorHandle&, c10::Stack*)>
void implement(torch::Library& library) {
  for (const tpc::Kernel& kernel : tpc::kKernels) {
    library.impl(kernel.name, torch::CppFunction::makeFromBoxedFunction<kRun>());
  }
}

bool register_with_bridge() {
  for (const tpc::Kernel& kernel : tpc::kKernels) {
    const auto outputs = [&kernel](const c10::Stack& stack) { return outputs_of(kernel, stack); };
    habana::custom_op::registerUserCustomOp(qualified(kernel), kPrefix + kernel.name, outputs, nullptr);
  }
  return true;
}

[[maybe_unused]] const bool kRegistered = register_with_bridge();

}  // namespace

TORCH_LIBRARY(gaudi3_rt_hpu, library) {
  for (const tpc::Kernel& kernel : tpc::kKernels) library.def(schema(kernel).c_str());
}

TORCH_LIBRARY_IMPL(gaudi3_rt_hpu, HPU, library) { implement<run>(library); }

TORCH_LIBRARY_IMPL(gaudi3_rt_hpu, Meta, library) { implement<run_without_data>(library); }

}  // namespace gaudi3_rt
