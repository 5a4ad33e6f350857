#include "grad_list.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "../grad_list.h"
#include "describe.h"
#include "lookup.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

// The gradients of one call. Keeps them alive as long as it lives.
class PyGradList {
 public:
  PyGradList(const std::string& isa, py::type tensor_type, bool use_exchange_table)
      : list_(isa_table(isa)), describe_(std::move(tensor_type), use_exchange_table) {}

  std::vector<std::size_t> extend(const py::list& tensors, std::size_t first_index) {
    std::vector<Row> rows;
    std::vector<std::size_t> left_over;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      describe_.prefetch_object(item(tensors, std::min(i + kBlock, tensors.size() - 1)));
      rows.push_back({first_index + i, py::reinterpret_borrow<py::object>(item(tensors, i))});
      if (rows.size() == kBlock || i + 1 == tensors.size()) append(rows, left_over);
    }
    return left_over;
  }

  std::vector<std::size_t> extend_from_params(const py::list& params) {
    const auto grad_name = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("grad"));
    std::vector<Row> rows;
    std::vector<std::size_t> left_over;
    for (std::size_t i = 0; i < params.size(); ++i) {
      const auto ahead = [&](std::size_t distance) { return item(params, std::min(i + distance, params.size() - 1)); };
      describe_.prefetch_object(ahead(kBlock));
      describe_.prefetch_tensor(ahead(kBlock / 2));
      describe_.prefetch_autograd(ahead(kBlock / 4));
      auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(item(params, i), grad_name.ptr()));
      if (!grad && PyErr_ExceptionMatches(PyExc_AttributeError) != 0) {
        PyErr_Clear();
        throw py::type_error("parameter " + std::to_string(i) + " is of type " + Py_TYPE(item(params, i))->tp_name +
                             "; expected a tensor");
      }
      if (!grad) throw py::error_already_set();
      if (!grad.is_none()) rows.push_back({i, std::move(grad)});
      if (rows.size() == kBlock || i + 1 == params.size()) append(rows, left_over);
    }
    return left_over;
  }

  std::size_t size() const { return list_.size(); }
  std::string isa() const { return list_.table().name; }
  py::list tensors() const { return tensors_; }
  const std::vector<std::size_t>& indices() const { return indices_; }

  std::vector<double> reduce(const std::string& reduction, int n_threads) const {
    const ReductionId id = reduction_id(reduction);
    const py::gil_scoped_release release;
    return list_.reduce(id, n_threads);
  }

  py::tuple clip(const std::string& reduction, double max_norm, bool skip_nonfinite, int n_threads) {
    const ReductionId id = reduction_id(reduction);
    ClipResult result;
    {
      const py::gil_scoped_release release;
      result = list_.clip(id, max_norm, skip_nonfinite, n_threads);
    }
    return py::make_tuple(result.norm, result.scaled);
  }

  void map(const std::string& name, const std::vector<float>& parameters, int n_threads) {
    const MapId id = map_id(name);
    check_parameters(info(id), parameters.size());
    const py::gil_scoped_release release;
    list_.map(id, parameters.data(), n_threads);
  }

  bool unscale(float inv_scale, int n_threads) {
    const py::gil_scoped_release release;
    return list_.unscale(inv_scale, n_threads);
  }

  static void check_parameters(const MapInfo& map, std::size_t count) {
    if (count == map.parameters.size()) return;
    throw py::value_error("map '" + std::string(map.name) + "' takes the parameters (" +
                          join(map.parameters, [](auto n) { return n; }) + "), got " + std::to_string(count) +
                          " numbers");
  }

 private:
  // Tensors whose memory is asked for together, so that the waits for it overlap.
  static constexpr std::size_t kBlock = 32;

  struct Row {
    std::size_t index;
    py::object tensor;
  };

  // Appends the rows that it can and empties them; the others' indices go to left_over.
  void append(std::vector<Row>& rows, std::vector<std::size_t>& left_over) {
    for (const Row& row : rows) describe_.prefetch_tensor(row.tensor.ptr());
    for (const Row& row : rows) describe_.prefetch_storage(row.tensor.ptr());
    for (const Row& row : rows) {
      const auto tensor = describe_(row.tensor.ptr());
      const auto codec = tensor ? tensor->codec() : std::nullopt;
      // Of the tensors with torch's negation bit, which are views with gaps, only a single element can pass for dense.
      const bool plain =
          codec && tensor->is_dense() && !(tensor->length() == 1 && describe_.is_negated(row.tensor.ptr()));
      if (!plain) {
        left_over.push_back(row.index);
        continue;
      }
      list_.append(tensor->length(), {tensor->data, *codec, nullptr});
      tensors_.append(row.tensor);
      indices_.push_back(row.index);
    }
    rows.clear();
  }

  GradList list_;
  Describer describe_;
  py::list tensors_;
  std::vector<std::size_t> indices_;
};

std::vector<std::string> parameter_names(const std::string& map) {
  const auto& names = info(map_id(map)).parameters;
  return {names.begin(), names.end()};
}

void map_reference(const std::string& name, const std::vector<double>& parameters,
                   py::array_t<double, py::array::c_style>& x) {
  const MapInfo& map = info(map_id(name));
  PyGradList::check_parameters(map, parameters.size());
  double* const data = x.mutable_data();
  for (py::ssize_t i = 0; i < x.size(); ++i) data[i] = map.reference(parameters.data(), data[i]);
}

double fold_values(const std::string& reduction, const std::vector<double>& values) {
  const ReductionInfo& how = info(reduction_id(reduction));
  double result = how.identity;
  for (const double value : values) result = how.fold(result, value);
  return result;
}

}  // namespace

void bind_grad_list(py::module_& m) {
  m.def("maps", [] { return names<MapId>(kMaps); }, "Names of the maps.");
  m.def("map_parameters", parameter_names, py::arg("name"), "Names of the numbers that a map takes, in order.");
  m.def("map_reference", map_reference, py::arg("name"), py::arg("parameters"), py::arg("x"),
        "Replaces the elements of a float64 array by the definition of the map.");
  m.def("fold", fold_values, py::arg("reduction"), py::arg("values"),
        "One number from the numbers that a reduction gave for parts of a whole, in order.");
  py::class_<PyGradList>(m, "GradList", "The gradients of one call.")
      .def(py::init<const std::string&, py::type, bool>(), py::arg("isa"), py::arg("tensor_type"),
           py::arg("use_exchange_table") = true)
      .def("extend", &PyGradList::extend, py::arg("tensors"), py::arg("first_index") = 0,
           "Appends tensors; returns the indices of those it cannot take (memory not plain and dense).")
      .def("extend_from_params", &PyGradList::extend_from_params, py::arg("params"),
           "Appends the gradients of those parameters that have one; returns the indices of those it cannot take.")
      .def("__len__", &PyGradList::size)
      .def_property_readonly("isa", &PyGradList::isa, "The build that runs, in its own compiler's words.")
      .def_property_readonly("tensors", &PyGradList::tensors, "The tensors appended so far.")
      .def_property_readonly("indices", &PyGradList::indices, "Their indices in the lists that they came from.")
      .def("reduce", &PyGradList::reduce, py::arg("reduction"), py::arg("n_threads"), "One number per tensor.")
      .def("clip", &PyGradList::clip, py::arg("reduction"), py::arg("max_norm"), py::arg("skip_nonfinite"),
           py::arg("n_threads"), "Clips all tensors together; returns (norm before, whether anything was written).")
      .def("map", &PyGradList::map, py::arg("name"), py::arg("parameters"), py::arg("n_threads"),
           "Replaces every element by what the map makes of it.")
      .def("unscale", &PyGradList::unscale, py::arg("inv_scale"), py::arg("n_threads"),
           "Multiplies by inv_scale; returns whether all elements were finite before.");
}

}  // namespace gaudi3_rt
