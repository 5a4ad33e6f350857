#include "tpc_kernels.h"

#include "../../tpc_kernels/registry.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

const char* name_of(tpc::Dtype dtype) {
  switch (dtype) {
    case tpc::Dtype::f32:
      return "f32";
    case tpc::Dtype::bf16:
      return "bf16";
    case tpc::Dtype::i8:
      return "i8";
    case tpc::Dtype::u8:
      return "u8";
    case tpc::Dtype::i32:
      return "i32";
  }
  return "";
}

const char* name_of(tpc::Access access) {
  switch (access) {
    case tpc::Access::elements:
      return "elements";
    case tpc::Access::rows:
      return "rows";
    case tpc::Access::whole:
      return "whole";
    case tpc::Access::partial:
      return "partial";
    case tpc::Access::scales:
      return "scales";
  }
  return "";
}

py::list describe(const tpc::Operand (&operands)[tpc::kMaxOperands]) {
  py::list result;
  for (const tpc::Operand& operand : operands) {
    if (operand.name == nullptr) break;
    py::dict described;
    described["name"] = operand.name;
    described["dtype"] = name_of(operand.dtype);
    described["access"] = name_of(operand.access);
    described["size"] = operand.size;
    result.append(described);
  }
  return result;
}

py::list tpc_kernels() {
  py::list result;
  for (const tpc::Kernel& kernel : tpc::kKernels) {
    py::dict described;
    described["name"] = kernel.name;
    described["source"] = kernel.source;
    described["defines"] = py::str(kernel.defines).attr("split")();
    described["cpu"] = kernel.cpu;
    described["inputs"] = describe(kernel.inputs);
    described["outputs"] = describe(kernel.outputs);
    described["single_member"] = kernel.single_member;
    result.append(described);
  }
  return result;
}

}  // namespace

void bind_tpc_kernels(py::module_& m) {
  m.attr("TPC_MEMBER_ELEMENTS") = G3RT_MEMBER_ELEMENTS;
  m.attr("TPC_BLOCK_ELEMENTS") = G3RT_BLOCK_ELEMENTS;
  m.attr("TPC_MAX_SHARDS") = G3RT_MAX_SHARDS;
  m.def("tpc_kernels", tpc_kernels, "The TPC kernels: how each is compiled, its tensors, and what a member touches.");
}

}  // namespace gaudi3_rt
