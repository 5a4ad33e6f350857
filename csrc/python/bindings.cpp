// gaudi3_rt._core: the engine as Python sees it. Everything that comes in is checked here, before anything is written;
// the names of kernels, reductions and dtypes come from the registry.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "../reduce.h"
#include "describe.h"
#include "grad_list.h"
#include "lookup.h"
#include "py_tensor_list.h"
#include "shards.h"
#include "tpc_kernels.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

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
    memory.push_back({tensor->data, *codec, nullptr});
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

std::vector<float> kernel_constants(const std::string& name, const std::vector<double>& hyper, double t) {
  const KernelInfo& kernel = info(kernel_id(name));
  check_hyper(kernel, hyper);
  return kernel.constants(hyper.data(), t);
}

double reduce_reference(const std::string& reduction, const Doubles& x) {
  return info(reduction_id(reduction)).reference(x.data(), x.size());
}

py::dict describe_kernel(const std::string& name) {
  const KernelInfo& kernel = info(kernel_id(name));
  py::list hyper, state, positive;
  for (const auto n : kernel.hyper) hyper.append(std::string(n));
  for (const auto n : kernel.state) state.append(std::string(n));
  for (const auto n : kernel.state) positive.append(is_positive(n));
  py::dict result;
  result["hyper"] = py::tuple(hyper);
  result["state"] = py::tuple(state);
  result["positive"] = py::tuple(positive);
  result["two_passes"] = kernel.two_passes;
  return result;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> result;
  for (const IsaTable* table : isa_tables()) result.emplace_back(table->name);
  return result;
}

// The memory of a tensor and what its codec keeps besides, both contiguous.
Operand stored(Describer& describe, Codec codec, const py::object& data, const py::object& second) {
  const CodecInfo& its = info(codec);
  const auto tensor = describe(data.ptr());
  if (!tensor || !tensor->is_contiguous() || tensor->dtype.bits != 8 * its.bytes) {
    throw py::value_error("codec '" + std::string(its.name) + "' needs contiguous CPU memory of " +
                          std::to_string(8 * its.bytes) + " bits an element");
  }
  if (its.second_bytes == 0) return {tensor->data, codec, nullptr};
  const std::int64_t n = tensor->length();
  void* const address = tensor->data;
  const auto beside = describe(second.ptr());
  const std::int64_t bytes = (its.in_blocks ? (n + kBlock - 1) / kBlock : n) * its.second_bytes;
  if (!beside || !beside->is_contiguous() || beside->length() * (beside->dtype.bits / 8) != bytes) {
    throw py::value_error("codec '" + std::string(its.name) + "' needs " + std::to_string(bytes) +
                          " contiguous bytes besides its " + std::to_string(n) + " elements");
  }
  return {address, codec, beside->data};
}

// The floats of a contiguous float32 tensor with as many elements as `like`.
float* floats(Describer& describe, const py::object& values, const py::object& like) {
  const auto length = describe(like.ptr());
  const std::int64_t n = length ? length->length() : -1;
  const auto tensor = describe(values.ptr());
  if (!tensor || tensor->codec() != Codec::f32 || !tensor->is_contiguous() || tensor->length() != n) {
    throw py::value_error("values must be contiguous float32 on the CPU, as many as there are stored elements");
  }
  return static_cast<float*>(tensor->data);
}

void decode(const std::string& isa, py::type tensor_type, const std::string& codec, const py::object& data,
            const py::object& second, const py::object& values) {
  Describer describe(std::move(tensor_type), true);
  const Operand operand = stored(describe, codec_id(codec), data, second);
  isa_table(isa).decode(operand, py::len(data.attr("view")(-1)), floats(describe, values, data));
}

void encode(const std::string& isa, py::type tensor_type, const std::string& codec, const py::object& data,
            const py::object& second, const py::object& values, std::uint64_t seed, double t, std::uint64_t number,
            int operand_index, std::array<std::int64_t, 3> elements) {
  Describer describe(std::move(tensor_type), true);
  const Operand operand = stored(describe, codec_id(codec), data, second);
  const Draw draw{draw_key(seed, t, number), {elements[0], elements[1], elements[2]}};
  isa_table(isa).encode(operand, operand_index, py::len(data.attr("view")(-1)), floats(describe, values, data), draw);
}

py::dict describe_codec(const std::string& name) {
  const CodecInfo& codec = info(codec_id(name));
  py::dict result;
  result["bytes"] = codec.bytes;
  result["second_bytes"] = codec.second_bytes;
  result["in_blocks"] = codec.in_blocks;
  return result;
}

}  // namespace
}  // namespace gaudi3_rt

PYBIND11_MODULE(_core, m) {
  using namespace gaudi3_rt;
  m.doc() = "The kernel engine. Internal: use the classes of gaudi3_rt.optim.";
  m.attr("CHUNK") = kChunk;
  m.attr("BLOCK") = kBlock;
  m.attr("COMPILER") = GAUDI3_RT_COMPILER;
  m.attr("TPC_COMPILER") = GAUDI3_RT_TPC_COMPILER;
  m.def("isas", isa_names, "Builds that this CPU can run, fastest first.");
  m.def("kernels", [] { return names<KernelId>(kKernels); }, "Names of the elementwise kernels.");
  m.def("reductions", [] { return names<ReductionId>(kReductions); }, "Names of the reductions.");
  m.def("codecs", [] { return names<Codec>(kCodecs); }, "Names of the ways in which operands may be stored.");
  m.def("describe_kernel", describe_kernel, py::arg("kernel"),
        "Names of the kernel's hyper-parameters and of its state tensors, in order; which states cannot be negative; "
        "whether it needs norms of the whole tensor.");
  m.def("describe_codec", describe_codec, py::arg("codec"),
        "Bytes of an element, and bytes besides: of an element, or of a block.");
  m.def("decode", decode, py::arg("isa"), py::arg("tensor_type"), py::arg("codec"), py::arg("data"), py::arg("second"),
        py::arg("values"), "Fills the float32 tensor `values` with what is stored.");
  m.def("encode", encode, py::arg("isa"), py::arg("tensor_type"), py::arg("codec"), py::arg("data"), py::arg("second"),
        py::arg("values"), py::arg("seed") = 0, py::arg("t") = 0.0, py::arg("number") = 0, py::arg("operand") = 0,
        py::arg("elements") = std::array<std::int64_t, 3>{0, Elements().run, 0},
        "Stores the float32 tensor `values` as a step number t of parameter `number` would store that operand.");
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
      .def("extend", &PyTensorList::extend, py::arg("rule"), py::arg("keys"), py::arg("operands"), py::arg("steps"),
           py::arg("numbers"), py::arg("elements") = py::none(),
           "Appends tensors; returns the indices of those it cannot take (memory not plain, dense and alike).")
      .def("extend_from_state", &PyTensorList::extend_from_state, py::arg("rule"), py::arg("params"), py::arg("state"),
           "Appends the parameters that have a gradient, with their entries of an optimizer's state; returns the "
           "indices of those it cannot take or that have no state yet.")
      .def("clear", &PyTensorList::clear, "Empties the list and drops the references it held.")
      .def("__len__", &PyTensorList::size)
      .def_property_readonly("params", &PyTensorList::params, "The parameters appended so far.")
      .def_property_readonly("isa", &PyTensorList::isa, "The build that runs, in its own compiler's words.")
      .def("reduce_grads", &PyTensorList::reduce_grads, py::arg("reduction"), py::arg("n_threads"),
           "One number per tensor, from its gradient.")
      .def("measure", &PyTensorList::measure, py::arg("n_threads"), py::arg("grad_factor") = 1.0,
           "The first pass of kernels that need norms: two sums of squares per tensor.")
      .def("check_overlap", &PyTensorList::check_overlap,
           "Raises what step() would raise if tensors that are written overlap.")
      .def("step", &PyTensorList::step, py::arg("n_threads"), py::arg("grad_factor") = 1.0,
           py::arg("max_norm") = py::none(), py::arg("skip_nonfinite") = false, py::arg("sum_squares") = py::none(),
           py::arg("measurement") = py::none(),
           "Takes the step; returns (gradient norm or None, whether it was taken).");
  m.def("kernel_constants", kernel_constants, py::arg("kernel"), py::arg("hyper"), py::arg("t"),
        "The floats from which the kernel forms its step number t, as a TPC kernel of the same formula takes them.");
  m.def(
      "draw_keys", draw_keys, py::arg("seed"), py::arg("t"), py::arg("number"), py::arg("operand"),
      "Two keys and a shift, from which a TPC kernel draws what encode() draws for a parameter's first 2^32 elements.");
  bind_grad_list(m);
  bind_shards(m);
  bind_tpc_kernels(m);
}
