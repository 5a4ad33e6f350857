// gaudi3_rt._core: the engine as Python sees it. Everything that comes in is checked here, before anything is written;
// the names of kernels, reductions and dtypes come from the registry.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "../dispatch.h"
#include "../formulas.h"
#include "../reduce.h"
#include "../tensor_list.h"
#include "describe.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

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
  throw py::value_error(std::string("unknown ") + what + " '" + wanted +
                        "'; known: " + join(names<Id>(count), [](const auto& n) { return n; }));
}

KernelId kernel_id(const std::string& name) { return find<KernelId>(kKernels, name, "kernel"); }
ReductionId reduction_id(const std::string& name) { return find<ReductionId>(kReductions, name, "reduction"); }

const IsaTable& isa_table(const std::string& wanted) {
  for (const IsaTable* table : isa_tables()) {
    if (wanted == table->name) return *table;
  }
  throw py::value_error("isa '" + wanted + "' cannot run here; possible: " +
                        join(isa_tables(), [](const IsaTable* table) { return table->name; }));
}

void check_hyper(const KernelInfo& kernel, const std::vector<double>& hyper) {
  if (hyper.size() == kernel.hyper.size()) return;
  throw py::value_error("kernel '" + std::string(kernel.name) + "' takes the hyper-parameters (" +
                        join(kernel.hyper, [](auto n) { return n; }) + "), got " + std::to_string(hyper.size()) +
                        " numbers");
}

std::string operand_name(const KernelInfo& kernel, std::size_t j) {
  return j == 0 ? "param" : j == 1 ? "grad" : std::string(kernel.state[j - 2]);
}

std::string shape_text(const Description& tensor) {
  std::string text = "(";
  for (std::int32_t d = 0; d < tensor.ndim; ++d) text += (d > 0 ? ", " : "") + std::to_string(tensor.shape[d]);
  return text + (tensor.ndim == 1 ? ",)" : ")");
}

PyObject* item(const py::list& list, std::size_t i) { return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)); }

// Looks up the parameters of an optimizer's state one after another. State is nearly always in the order of the
// parameters, so the next entry is tried first: hashing a tensor calls back into Python.
class StateWalk {
 public:
  explicit StateWalk(const py::dict& state) : state_(state) { advance(); }

  // The param's own dictionary, or null if it has none or an empty one.
  PyObject* find(PyObject* param) {
    PyObject* found = value_;
    if (param == key_) {
      advance();
    } else {
      found = PyDict_GetItemWithError(state_.ptr(), param);
      if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    }
    return found != nullptr && PyDict_Check(found) && PyDict_GET_SIZE(found) > 0 ? found : nullptr;
  }

 private:
  void advance() {
    if (PyDict_Next(state_.ptr(), &position_, &key_, &value_) == 0) key_ = value_ = nullptr;
  }

  const py::dict& state_;
  Py_ssize_t position_ = 0;
  PyObject* key_ = nullptr;
  PyObject* value_ = nullptr;
};

// The tensors of one optimizer step. Keeps the lists it was given, and the gradients, alive until clear().
class PyTensorList {
 public:
  PyTensorList(const std::string& isa, py::type tensor_type, bool use_exchange_table)
      : list_(isa_table(isa)), describe_(std::move(tensor_type), use_exchange_table) {}

  std::vector<std::size_t> extend(const std::string& kernel_name, const std::vector<double>& hyper, bool maximize,
                                  const std::vector<py::list>& operands, const py::list& steps, std::size_t group,
                                  std::size_t first_index) {
    const KernelInfo& kernel = open_group(kernel_name, hyper, maximize);
    if (operands.size() != static_cast<std::size_t>(kernel.operands())) {
      throw py::value_error("kernel '" + kernel_name + "' takes the operands (param, grad, " +
                            join(kernel.state, [](auto n) { return n; }) + "), got " + std::to_string(operands.size()) +
                            " lists");
    }
    for (std::size_t j = 0; j < operands.size(); ++j) {
      if (operands[j].size() != steps.size()) {
        throw py::value_error("the list of " + operand_name(kernel, j) + " has " + std::to_string(operands[j].size()) +
                              " tensors, the list of steps " + std::to_string(steps.size()));
      }
      kept_.push_back(operands[j]);
    }
    kept_.push_back(steps);

    std::vector<std::size_t> left_over;
    std::vector<Row> rows;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      Row& row = rows.emplace_back(Row{group, first_index + i, {}, nullptr});
      for (std::size_t j = 0; j < operands.size(); ++j) row.objects[j] = item(operands[j], i);
      row.objects[operands.size()] = item(steps, i);
      if (rows.size() == kBlock || i + 1 == steps.size()) append(kernel, rows, left_over);
    }
    return left_over;
  }

  std::vector<std::size_t> extend_from_state(const std::string& kernel_name, const std::vector<double>& hyper,
                                             bool maximize, const py::list& params, const py::dict& state,
                                             std::size_t group) {
    const KernelInfo& kernel = open_group(kernel_name, hyper, maximize);
    std::vector<py::object> keys;
    for (const auto key : kernel.state) keys.push_back(interned(key));
    keys.push_back(interned("step"));
    const py::object grad_name = interned("grad");
    py::list grads;
    kept_.push_back(params);
    kept_.push_back(grads);

    std::vector<std::size_t> left_over;
    std::vector<Row> rows;
    StateWalk walk(state);
    for (std::size_t i = 0; i < params.size(); ++i) {
      const auto ahead = [&](std::size_t distance) { return item(params, std::min(i + distance, params.size() - 1)); };
      describe_.prefetch_object(ahead(kBlock));
      describe_.prefetch_tensor(ahead(kBlock / 2));
      describe_.prefetch_autograd(ahead(kBlock / 4));
      const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(item(params, i), grad_name.ptr()));
      if (!grad) throw py::error_already_set();
      if (!grad.is_none()) {
        grads.append(grad);
        PyObject* const of_param = walk.find(item(params, i));
        __builtin_prefetch(of_param);
        rows.push_back({group, i, {item(params, i), grad.ptr()}, of_param});
      }
      if (rows.size() == kBlock || i + 1 == params.size()) {
        for (const Row& row : rows) prefetch_entries(row.state);
        find_states(keys, rows, left_over);
        append(kernel, rows, left_over);
      }
    }
    return left_over;
  }

  void clear() {
    list_.clear();
    kept_.clear();
    labels_.clear();
    params_ = py::list();
  }

  std::size_t size() const { return list_.size(); }
  py::list params() const { return params_; }
  std::string isa() const { return list_.table().name; }

  std::vector<double> reduce_grads(const std::string& reduction, int n_threads) {
    const ReductionId id = reduction_id(reduction);
    const py::gil_scoped_release release;
    return list_.reduce_grads(id, n_threads);
  }

  py::tuple step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite) {
    if (const auto pair = list_.overlap()) {
      throw py::value_error(
          label((*pair)[0]) + " and " + label((*pair)[1]) +
          " (or their states or gradients) overlap in memory, so the result would depend on the order of updates; "
          "use one Parameter object for a shared weight");
    }
    StepResult result;
    {
      const py::gil_scoped_release release;
      result = list_.step(n_threads, grad_factor, max_norm, skip_nonfinite);
    }
    return py::make_tuple(max_norm ? py::object(py::float_(result.grad_norm)) : py::none(), result.stepped);
  }

 private:
  // Tensors whose memory is asked for together, so that the waits for it overlap.
  static constexpr std::size_t kBlock = 32;

  // One tensor with all that belongs to it: param, grad, states..., step (borrowed references).
  struct Row {
    std::size_t group;
    std::size_t index;
    std::array<PyObject*, kMaxOperands + 1> objects;
    PyObject* state;  // the parameter's dictionary of states, if that is where they are looked up
  };

  const KernelInfo& open_group(const std::string& name, const std::vector<double>& hyper, bool maximize) {
    const KernelId id = kernel_id(name);
    check_hyper(info(id), hyper);
    list_.open_group(id, hyper.data(), maximize);
    return info(id);
  }

  static py::object interned(std::string_view name) {
    return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(std::string(name).c_str()));
  }

  static void prefetch_entries(PyObject* dict) {
    if (dict == nullptr) return;
    const char* const entries = reinterpret_cast<const char*>(reinterpret_cast<PyDictObject*>(dict)->ma_keys);
    __builtin_prefetch(entries);
    __builtin_prefetch(entries + 64);
  }

  // Fills in states and step from the parameters' dictionaries; rows that lack something go to left_over.
  static void find_states(const std::vector<py::object>& keys, std::vector<Row>& rows,
                          std::vector<std::size_t>& left_over) {
    const auto is_incomplete = [&](Row& row) {
      for (std::size_t k = 0; k < keys.size(); ++k) {
        row.objects[2 + k] = row.state == nullptr ? nullptr : PyDict_GetItemWithError(row.state, keys[k].ptr());
        if (row.objects[2 + k] == nullptr) {
          left_over.push_back(row.index);
          return true;
        }
      }
      return false;
    };
    rows.erase(std::remove_if(rows.begin(), rows.end(), is_incomplete), rows.end());
  }

  // Appends the rows that it can and empties them; the others' indices go to left_over.
  void append(const KernelInfo& kernel, std::vector<Row>& rows, std::vector<std::size_t>& left_over) {
    const auto n = static_cast<std::size_t>(kernel.operands()) + 1;
    const auto for_each_object = [&](auto hint) {
      for (const Row& row : rows) {
        for (std::size_t j = 0; j < n; ++j) hint(row.objects[j]);
      }
    };
    for_each_object([&](PyObject* object) { describe_.prefetch_object(object); });
    for_each_object([&](PyObject* object) { describe_.prefetch_tensor(object); });
    for_each_object([&](PyObject* object) { describe_.prefetch_storage(object); });
    for (const Row& row : rows) {
      if (!append(kernel, row)) left_over.push_back(row.index);
    }
    rows.clear();
  }

  // False if some tensor has no plain, dense CPU memory of a dtype that has a codec, or another layout than the first.
  // Gradients with torch's negation bit come out of complex autograd. They are views of an imaginary part, with gaps
  // between elements, so that only a single element can pass for dense and needs to be asked.
  bool append(const KernelInfo& kernel, const Row& row) {
    const auto n = static_cast<std::size_t>(kernel.operands());
    const auto step = describe_(row.objects[n]);
    if (!step || step->length() != 1 || step->dtype.code != dlpack::kFloat || step->dtype.bits < 32) return false;
    const Counter counter{step->data, step->dtype.bits == 64};

    Operand memory[kMaxOperands];
    std::optional<Description> param;
    for (std::size_t j = 0; j < n; ++j) {
      auto tensor = describe_(row.objects[j]);
      const auto codec = tensor ? tensor->codec() : std::nullopt;
      if (!codec || (tensor->length() == 1 && describe_.is_negated(row.objects[j]))) return false;
      memory[j] = {tensor->data, *codec};
      if (j == 0) {
        if (!tensor->is_dense()) return false;
        param = describe_.keep(*tensor);
        continue;
      }
      if (!tensor->has_shape_of(*param)) {
        throw py::value_error(operand_name(kernel, j) + " of " + label({row.group, row.index}) + " has shape " +
                              shape_text(*tensor) + " and dtype " + std::string(name(*codec)) +
                              ", its parameter has shape " + shape_text(*param) + "; shapes must be equal");
      }
      if (!tensor->has_strides_of(*param)) return false;
    }
    list_.append(param->length(), memory, counter);
    labels_.push_back({row.group, row.index});
    params_.append(py::handle(row.objects[0]));
    return true;
  }

  // How errors call a parameter: by its group and its place in the group.
  using Label = std::array<std::size_t, 2>;
  static std::string label(const Label& label) {
    return "parameter " + std::to_string(label[1]) + " of group " + std::to_string(label[0]);
  }
  std::string label(std::size_t tensor) const { return label(labels_[tensor]); }

  TensorList list_;
  Describer describe_;
  std::vector<py::object> kept_;
  std::vector<Label> labels_;
  py::list params_;
};

// One number per tensor, or None for a tensor without plain, dense CPU memory of a dtype that has a codec.
std::vector<std::optional<double>> reduce_tensors(const std::string& isa, py::type tensor_type,
                                                  const std::string& reduction, const py::list& tensors, int n_threads,
                                                  bool use_exchange_table) {
  const IsaTable& table = isa_table(isa);
  const ReductionId id = reduction_id(reduction);
  Describer describe(std::move(tensor_type), use_exchange_table);
  Chunks chunks;
  std::vector<Operand> memory;
  std::vector<std::size_t> taken;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto tensor = describe(PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i)));
    const auto codec = tensor ? tensor->codec() : std::nullopt;
    if (!codec || !tensor->is_dense()) continue;
    chunks.add(tensor->length());
    memory.push_back({tensor->data, *codec});
    taken.push_back(i);
  }
  std::vector<double> values;
  {
    const py::gil_scoped_release release;
    values = reduce(table, id, chunks, memory, n_threads);
  }
  std::vector<std::optional<double>> result(tensors.size());
  for (std::size_t i = 0; i < taken.size(); ++i) result[taken[i]] = values[i];
  return result;
}

using Doubles = py::array_t<double, py::array::c_style>;

void reference(const std::string& kernel_name, const std::vector<double>& hyper, double t,
               std::vector<Doubles>& operands) {
  const KernelInfo& kernel = info(kernel_id(kernel_name));
  check_hyper(kernel, hyper);
  if (operands.size() != static_cast<std::size_t>(kernel.operands())) {
    throw py::value_error("kernel '" + kernel_name + "' takes " + std::to_string(kernel.operands()) + " arrays, got " +
                          std::to_string(operands.size()));
  }
  std::vector<double*> data;
  for (Doubles& operand : operands) {
    if (operand.size() != operands[0].size()) throw py::value_error("all arrays must have the same length");
    data.push_back(operand.mutable_data());
  }
  kernel.reference(hyper.data(), t, data.data(), operands[0].size());
}

double reduce_reference(const std::string& reduction, const Doubles& x) {
  return info(reduction_id(reduction)).reference(x.data(), x.size());
}

py::dict describe_kernel(const std::string& name) {
  const KernelInfo& kernel = info(kernel_id(name));
  py::list hyper, state;
  for (const auto n : kernel.hyper) hyper.append(std::string(n));
  for (const auto n : kernel.state) state.append(std::string(n));
  py::dict result;
  result["hyper"] = py::tuple(hyper);
  result["state"] = py::tuple(state);
  return result;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> result;
  for (const IsaTable* table : isa_tables()) result.emplace_back(table->name);
  return result;
}

std::vector<std::string> dtype_names() {
  std::vector<std::string> result;
  for (int i = 0; i < kDTypes; ++i) result.emplace_back(name(static_cast<DType>(i)));
  return result;
}

}  // namespace
}  // namespace gaudi3_rt

PYBIND11_MODULE(_core, m) {
  using namespace gaudi3_rt;
  m.doc() = "The kernel engine. Internal: use the classes of gaudi3_rt.optim.";
  m.attr("CHUNK") = kChunk;
  m.attr("COMPILER") = GAUDI3_RT_COMPILER;
  m.def("isas", isa_names, "Builds that this CPU can run, fastest first.");
  m.def("kernels", [] { return names<KernelId>(kKernels); }, "Names of the elementwise kernels.");
  m.def("reductions", [] { return names<ReductionId>(kReductions); }, "Names of the reductions.");
  m.def("dtypes", dtype_names, "Names of the dtypes that operands may be stored in.");
  m.def("describe_kernel", describe_kernel, py::arg("kernel"),
        "Names of the kernel's hyper-parameters and of its state tensors, in order.");
  m.def("reference", reference, py::arg("kernel"), py::arg("hyper"), py::arg("t"), py::arg("operands"),
        "Updates float64 arrays (param, grad, states...) in place by the definition of the kernel.");
  m.def("reduce_reference", reduce_reference, py::arg("reduction"), py::arg("x"),
        "The reduction of a float64 array by its definition.");
  m.def("reduce", reduce_tensors, py::arg("isa"), py::arg("tensor_type"), py::arg("reduction"), py::arg("tensors"),
        py::arg("n_threads"), py::arg("use_exchange_table") = true,
        "One number per tensor; None for those whose memory the kernels cannot read.");
  py::class_<PyTensorList>(m, "TensorList", "The tensors of one optimizer step.")
      .def(py::init<const std::string&, py::type, bool>(), py::arg("isa"), py::arg("tensor_type"),
           py::arg("use_exchange_table") = true)
      .def("extend", &PyTensorList::extend, py::arg("kernel"), py::arg("hyper"), py::arg("maximize"),
           py::arg("operands"), py::arg("steps"), py::arg("group") = 0, py::arg("first_index") = 0,
           "Appends tensors; returns the indices of those it cannot take (memory not plain, dense and alike).")
      .def("extend_from_state", &PyTensorList::extend_from_state, py::arg("kernel"), py::arg("hyper"),
           py::arg("maximize"), py::arg("params"), py::arg("state"), py::arg("group") = 0,
           "Appends the parameters that have a gradient, with their entries of an optimizer's state; returns the "
           "indices of those it cannot take or that have no state yet.")
      .def("clear", &PyTensorList::clear, "Empties the list and drops the references it held.")
      .def("__len__", &PyTensorList::size)
      .def_property_readonly("params", &PyTensorList::params, "The parameters appended so far.")
      .def_property_readonly("isa", &PyTensorList::isa, "The build that runs, in its own compiler's words.")
      .def("reduce_grads", &PyTensorList::reduce_grads, py::arg("reduction"), py::arg("n_threads"),
           "One number per tensor, from its gradient.")
      .def("step", &PyTensorList::step, py::arg("n_threads"), py::arg("grad_factor") = 1.0,
           py::arg("max_norm") = py::none(), py::arg("skip_nonfinite") = false,
           "Takes the step; returns (gradient norm or None, whether it was taken).");
}
