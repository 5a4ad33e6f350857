// gaudi3_rt._core: the engine as Python sees it. Everything that comes in is checked here, before anything is written;
// the names of kernels, reductions and dtypes come from the registry.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

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
  throw py::value_error(std::string("unknown ") + what + " '" + wanted + "'; known: " +
                        join(names<Id>(count), [](const auto& n) { return n; }));
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

// The tensors of one optimizer step. Keeps the lists it was given alive until clear().
class PyTensorList {
 public:
  PyTensorList(const std::string& isa, py::type tensor_type, bool use_exchange_table)
      : list_(isa_table(isa)), describe_(std::move(tensor_type), use_exchange_table) {}

  std::vector<std::size_t> extend(const std::string& kernel_name, const std::vector<double>& hyper, bool maximize,
                                  const std::vector<py::list>& operands, const py::list& steps) {
    const KernelId id = kernel_id(kernel_name);
    const KernelInfo& kernel = info(id);
    check_hyper(kernel, hyper);
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
    list_.open_group(id, hyper.data(), maximize);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (!append(kernel, operands, steps, i)) left_over.push_back(i);
    }
    return left_over;
  }

  void clear() {
    list_.clear();
    kept_.clear();
  }

  std::size_t size() const { return list_.size(); }
  std::string isa() const { return list_.table().name; }

  std::vector<double> reduce_grads(const std::string& reduction, int n_threads) {
    const ReductionId id = reduction_id(reduction);
    const py::gil_scoped_release release;
    return list_.reduce_grads(id, n_threads);
  }

  py::tuple step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite) {
    if (const auto pair = list_.overlap()) {
      throw py::value_error("tensors " + std::to_string((*pair)[0]) + " and " + std::to_string((*pair)[1]) +
                            " of this step overlap in memory, so the result would depend on the order of updates; use "
                            "one Parameter object for a shared weight");
    }
    StepResult result;
    {
      const py::gil_scoped_release release;
      result = list_.step(n_threads, grad_factor, max_norm, skip_nonfinite);
    }
    return py::make_tuple(max_norm ? py::object(py::float_(result.grad_norm)) : py::none(), result.stepped);
  }

 private:
  // False if some tensor has no plain, dense CPU memory of a dtype that has a codec, or another layout than the first.
  bool append(const KernelInfo& kernel, const std::vector<py::list>& operands, const py::list& steps, std::size_t i) {
    const auto index = static_cast<Py_ssize_t>(i);
    const auto step = describe_(PyList_GET_ITEM(steps.ptr(), index));
    if (!step || step->length() != 1 || step->dtype.code != dlpack::kFloat || step->dtype.bits < 32) return false;
    const Counter counter{step->data, step->dtype.bits == 64};

    Operand memory[kMaxOperands];
    std::optional<Description> first;
    std::vector<std::int64_t> own_shape, own_strides;
    for (std::size_t j = 0; j < operands.size(); ++j) {
      auto tensor = describe_(PyList_GET_ITEM(operands[j].ptr(), index));
      const auto codec = tensor ? tensor->codec() : std::nullopt;
      if (!codec) return false;
      if (!first) {
        first = tensor;
        if (!describe_.keeps_descriptions()) {
          own_shape.assign(tensor->shape, tensor->shape + tensor->ndim);
          own_strides.assign(tensor->strides, tensor->strides + tensor->ndim);
          first->shape = own_shape.data();
          first->strides = own_strides.data();
        }
      } else if (!tensor->has_shape_of(*first)) {
        throw py::value_error(operand_name(kernel, j) + " of tensor " + std::to_string(i) + " has shape " +
                              shape_text(*tensor) + " and dtype " + std::string(name(*codec)) +
                              ", its parameter has shape " + shape_text(*first) + "; they must be equal");
      }
      if (!tensor->is_dense() || !tensor->has_strides_of(*first)) return false;
      memory[j] = {tensor->data, *codec};
    }
    list_.append(first->length(), memory, counter);
    return true;
  }

  TensorList list_;
  Describer describe_;
  std::vector<py::object> kept_;
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
           py::arg("operands"), py::arg("steps"),
           "Appends tensors; returns the indices of those it cannot take (memory not plain, dense and alike).")
      .def("clear", &PyTensorList::clear, "Empties the list and drops the references it held.")
      .def("__len__", &PyTensorList::size)
      .def_property_readonly("isa", &PyTensorList::isa, "The build that runs, in its own compiler's words.")
      .def("reduce_grads", &PyTensorList::reduce_grads, py::arg("reduction"), py::arg("n_threads"),
           "One number per tensor, from its gradient.")
      .def("step", &PyTensorList::step, py::arg("n_threads"), py::arg("grad_factor") = 1.0,
           py::arg("max_norm") = py::none(), py::arg("skip_nonfinite") = false,
           "Takes the step; returns (gradient norm or None, whether it was taken).");
}
