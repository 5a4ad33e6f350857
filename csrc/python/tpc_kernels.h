// gaudi3_rt._core.tpc_kernels: the table of tpc_kernels/registry.h as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace gaudi3_rt {

void bind_tpc_kernels(pybind11::module_& m);

}  // namespace gaudi3_rt
