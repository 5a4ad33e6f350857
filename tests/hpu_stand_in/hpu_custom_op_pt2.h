// A stand-in for the header of Habana's bridge: what csrc/hpu/ops.cpp uses of it, by the same names and signatures.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace habana {

struct PartialOutputMetaData {
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<std::int64_t> shape;
};
using PartialOutputMetaDataVector = std::vector<PartialOutputMetaData>;

namespace custom_op {

using OutputMetaFn = std::function<PartialOutputMetaDataVector(const torch::jit::Stack&)>;
using FillParamsFn = std::function<std::shared_ptr<void>(const torch::jit::Stack&, std::size_t&)>;

struct UserCustomOpDescriptor {
  static const UserCustomOpDescriptor& getUserCustomOpDescriptor(const std::string& op);
  std::vector<at::Tensor> execute(const std::vector<c10::IValue>& inputs);

  std::string guid;
  OutputMetaFn outputs;
};

void registerUserCustomOp(const std::string& schema, const std::string& guid, OutputMetaFn output_meta_fn,
                          FillParamsFn fill_params_fn);

}  // namespace custom_op
}  // namespace habana
