// What a name that comes from Python stands for; an unknown one is refused with those that exist.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../dispatch.h"
#include "../formulas.h"

namespace gaudi3_rt {

template <class Range, class Name>
std::string join(const Range& items, Name name) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + std::string(name(item));
  return text;
}

template <class Id>
std::vector<std::string> names(int count) {
  std::vector<std::string> all;
  for (int i = 0; i < count; ++i) all.emplace_back(info(static_cast<Id>(i)).name);
  return all;
}

template <class Id>
Id find(int count, const std::string& wanted, const char* what) {
  for (int i = 0; i < count; ++i) {
    if (info(static_cast<Id>(i)).name == wanted) return static_cast<Id>(i);
  }
  throw pybind11::value_error(std::string("unknown ") + what + " '" + wanted +
                              "'; known: " + join(names<Id>(count), [](const auto& n) { return n; }));
}

inline KernelId kernel_id(const std::string& name) { return find<KernelId>(kKernels, name, "kernel"); }
inline ReductionId reduction_id(const std::string& name) { return find<ReductionId>(kReductions, name, "reduction"); }
inline TransferId transfer_id(const std::string& name) { return find<TransferId>(kTransfers, name, "transfer"); }
inline WireId wire_id(const std::string& name) { return find<WireId>(kWires, name, "wire"); }
inline MapId map_id(const std::string& name) { return find<MapId>(kMaps, name, "map"); }

inline Codec codec_id(const std::string& name) { return find<Codec>(kCodecs, name, "codec"); }

inline void check_hyper(const KernelInfo& kernel, const std::vector<double>& hyper) {
  if (hyper.size() == kernel.hyper.size()) return;
  throw pybind11::value_error("kernel '" + std::string(kernel.name) + "' takes the hyper-parameters (" +
                              join(kernel.hyper, [](auto n) { return n; }) + "), got " + std::to_string(hyper.size()) +
                              " numbers");
}

inline const IsaTable& isa_table(const std::string& wanted) {
  for (const IsaTable* table : isa_tables()) {
    if (wanted == table->name) return *table;
  }
  throw pybind11::value_error("isa '" + wanted + "' cannot run here; possible: " +
                              join(isa_tables(), [](const IsaTable* table) { return table->name; }));
}

// Borrowed.
inline PyObject* item(const pybind11::list& list, std::size_t i) {
  return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
}

}  // namespace gaudi3_rt
