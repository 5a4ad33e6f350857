// gaudi3_rt._core.{reduce_nodes,transfer,compress,decompress}: csrc/shards.h as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace gaudi3_rt {

void bind_shards(pybind11::module_& m);

}  // namespace gaudi3_rt
