// gaudi3_rt._core.GradList, and the maps.
#pragma once
#include <pybind11/pybind11.h>

namespace gaudi3_rt {

void bind_grad_list(pybind11::module_& m);

}  // namespace gaudi3_rt
