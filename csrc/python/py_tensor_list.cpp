#include "py_tensor_list.h"

#include <algorithm>

#include "lookup.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

py::object interned(const std::string& name) {
  return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str()));
}

std::string operand_name(const KernelInfo& kernel, std::size_t j) {
  return j == 0 ? "param" : j == 1 ? "grad" : std::string(kernel.state[j - 2]);
}

std::string shape_text(const Description& tensor) {
  std::string text = "(";
  for (std::int32_t d = 0; d < tensor.ndim; ++d) text += (d > 0 ? ", " : "") + std::to_string(tensor.shape[d]);
  return text + (tensor.ndim == 1 ? ",)" : ")");
}

PyObject* look_up(PyObject* dict, const py::object& key) {
  PyObject* const found = PyDict_GetItemWithError(dict, key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

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
      found = look_up(state_.ptr(), py::reinterpret_borrow<py::object>(param));
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

void prefetch_entries(PyObject* dict) {
  if (dict == nullptr) return;
  const char* const entries = reinterpret_cast<const char*>(reinterpret_cast<PyDictObject*>(dict)->ma_keys);
  __builtin_prefetch(entries);
  __builtin_prefetch(entries + 64);
}

constexpr char kCodes[] = "_codes";
constexpr char kScales[] = "_scales";

}  // namespace

PyTensorList::PyTensorList(const std::string& isa, py::type tensor_type, bool use_exchange_table)
    : list_(isa_table(isa)), describe_(std::move(tensor_type), use_exchange_table) {}

PyTensorList::Rule PyTensorList::open_group(const py::object& rule) {
  const KernelId id = kernel_id(rule.attr("kernel").cast<std::string>());
  const auto hyper = rule.attr("hyper").cast<std::vector<double>>();
  check_hyper(info(id), hyper);
  const auto average = rule.attr("average_weight").cast<std::optional<float>>();
  list_.open_group({id, hyper, rule.attr("maximize").cast<bool>() ? -1.0f : 1.0f,
                    rule.attr("seed").cast<std::uint64_t>(), average.value_or(0)});
  Rule opened{&info(id),
              rule.attr("group").cast<std::size_t>(),
              rule.attr("first_number").cast<std::uint64_t>(),
              {},
              rule.attr("beside_param").cast<std::optional<std::string>>().value_or(""),
              average.has_value(),
              {}};
  const auto stochastic = rule.attr("stochastic").cast<std::vector<std::string>>();
  for (int j = 0; j < opened.kernel->operands(); ++j) {
    const std::string name = operand_name(*opened.kernel, static_cast<std::size_t>(j));
    opened.stochastic.push_back(std::find(stochastic.begin(), stochastic.end(), name) != stochastic.end());
  }
  return opened;
}

std::vector<std::size_t> PyTensorList::extend(const py::object& rule, const std::vector<std::string>& keys,
                                              const std::vector<py::list>& operands, const py::list& steps,
                                              const std::vector<std::size_t>& numbers,
                                              std::optional<std::array<std::int64_t, 3>> elements) {
  Rule opened = open_group(rule);
  if (elements) opened.elements = {(*elements)[0], (*elements)[1], (*elements)[2]};
  const KernelInfo& kernel = *opened.kernel;
  const auto text = [](const auto& n) { return n; };
  if (operands.size() != keys.size() + 2) {
    throw py::value_error("params, grads and the keys (" + join(keys, text) + ") need as many lists, got " +
                          std::to_string(operands.size()));
  }
  std::vector<std::size_t> slots = {0, 1};
  for (const std::string& key : keys) {
    std::size_t slot = key == "ema" ? kAverage : key == "param_low" || key == "param_master" ? kSeconds : kSlots;
    for (std::size_t k = 0; k < kernel.state.size(); ++k) {
      const std::string name(kernel.state[k]);
      if (key == name || key == name + kCodes) slot = 2 + k;
      if (key == name + kScales) slot = kSeconds + 2 + k;
    }
    if (slot == kSlots || std::find(slots.begin(), slots.end(), slot) != slots.end()) {
      throw py::value_error("kernel '" + std::string(kernel.name) + "' keeps (" + join(kernel.state, text) +
                            "), so it has no use for a list of '" + key + "'");
    }
    slots.push_back(slot);
  }
  for (std::size_t j = 0; j < 2 + kernel.state.size(); ++j) {
    if (std::find(slots.begin(), slots.end(), j) == slots.end()) {
      throw py::value_error("kernel '" + std::string(kernel.name) + "' needs a list of " + operand_name(kernel, j) +
                            "; given are param, grad, " + join(keys, text));
    }
  }
  for (std::size_t k = 0; k < operands.size(); ++k) {
    if (operands[k].size() != steps.size()) {
      throw py::value_error("the list of " + (k < 2 ? operand_name(kernel, k) : keys[k - 2]) + " has " +
                            std::to_string(operands[k].size()) + " tensors, the list of steps " +
                            std::to_string(steps.size()));
    }
    kept_.push_back(operands[k]);
  }
  if (numbers.size() != steps.size()) throw py::value_error("every tensor needs a number");
  kept_.push_back(steps);

  std::vector<std::size_t> left_over;
  std::vector<Row> rows;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Row& row = rows.emplace_back(Row{i, numbers[i], {}, nullptr});
    for (std::size_t k = 0; k < operands.size(); ++k) row.objects[slots[k]] = item(operands[k], i);
    row.objects[kCounter] = item(steps, i);
    if (rows.size() == kBlockOfRows || i + 1 == steps.size()) append(opened, rows, left_over);
  }
  return left_over;
}

std::vector<std::size_t> PyTensorList::extend_from_state(const py::object& rule, const py::list& params,
                                                         const py::dict& state) {
  const Rule opened = open_group(rule);
  const py::object grad_name = interned("grad");
  py::list grads;
  kept_.push_back(params);
  kept_.push_back(grads);

  std::vector<std::size_t> left_over;
  std::vector<Row> rows;
  StateWalk walk(state);
  for (std::size_t i = 0; i < params.size(); ++i) {
    const auto ahead = [&](std::size_t distance) { return item(params, std::min(i + distance, params.size() - 1)); };
    describe_.prefetch_object(ahead(kBlockOfRows));
    describe_.prefetch_tensor(ahead(kBlockOfRows / 2));
    describe_.prefetch_autograd(ahead(kBlockOfRows / 4));
    const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(item(params, i), grad_name.ptr()));
    if (!grad) throw py::error_already_set();
    if (!grad.is_none()) {
      grads.append(grad);
      PyObject* const of_param = walk.find(item(params, i));
      __builtin_prefetch(of_param);
      rows.push_back({i, i, {item(params, i), grad.ptr()}, of_param});
    }
    if (rows.size() == kBlockOfRows || i + 1 == params.size()) {
      for (const Row& row : rows) prefetch_entries(row.state);
      find_states(opened, rows, left_over);
      append(opened, rows, left_over);
    }
  }
  return left_over;
}

// Fills in states and counter from the parameters' dictionaries; rows that lack something go to left_over.
void PyTensorList::find_states(const Rule& rule, std::vector<Row>& rows, std::vector<std::size_t>& left_over) {
  const std::size_t n = rule.kernel->state.size();
  std::vector<std::array<py::object, 3>> keys;  // of a state alone, of its codes, of their scales
  for (const std::string_view state : rule.kernel->state) {
    const std::string name(state);
    keys.push_back({interned(name), interned(name + kCodes), interned(name + kScales)});
  }
  const py::object step = interned("step"), average = interned("ema"), beside = interned(rule.beside_param);
  const auto find = [&](Row& row) {
    if (row.state == nullptr) return false;
    for (std::size_t k = 0; k < n; ++k) {
      PyObject*& operand = row.objects[2 + k];
      operand = look_up(row.state, keys[k][0]);
      if (operand != nullptr) continue;
      operand = look_up(row.state, keys[k][1]);
      PyObject*& scales = row.objects[kSeconds + 2 + k];
      scales = look_up(row.state, keys[k][2]);
      if (operand == nullptr || scales == nullptr) return false;
    }
    if (!rule.beside_param.empty()) row.objects[kSeconds] = look_up(row.state, beside);
    if (rule.has_average) {
      row.objects[kAverage] = look_up(row.state, average);
      if (row.objects[kAverage] == nullptr) return false;
    }
    row.objects[kCounter] = look_up(row.state, step);
    return row.objects[kCounter] != nullptr;
  };
  const auto is_incomplete = [&](Row& row) {
    const bool found = find(row);
    if (!found) left_over.push_back(row.position);
    return !found;
  };
  rows.erase(std::remove_if(rows.begin(), rows.end(), is_incomplete), rows.end());
}

// Appends the rows that it can and empties them; the others' indices go to left_over.
void PyTensorList::append(const Rule& rule, std::vector<Row>& rows, std::vector<std::size_t>& left_over) {
  const auto for_each_object = [&](auto hint) {
    for (const Row& row : rows) {
      for (PyObject* const object : row.objects) {
        if (object != nullptr) hint(object);
      }
    }
  };
  for_each_object([&](PyObject* object) { describe_.prefetch_object(object); });
  for_each_object([&](PyObject* object) { describe_.prefetch_tensor(object); });
  for_each_object([&](PyObject* object) { describe_.prefetch_storage(object); });
  for (const Row& row : rows) {
    if (!append(rule, row)) left_over.push_back(row.position);
  }
  rows.clear();
}

// False if some tensor has no plain, dense CPU memory of a dtype that has a codec, or another layout than the first.
bool PyTensorList::append(const Rule& rule, const Row& row) {
  const auto step = describe_(row.objects[kCounter]);
  if (!step || step->length() != 1 || step->dtype.code != dlpack::kFloat || step->dtype.bits < 32) return false;
  const Counter counter{step->data, step->dtype.bits == 64};

  const auto described = describe_(row.objects[0]);
  if (!described || !described->is_dense()) return false;
  const Description param = describe_.keep(*described);
  Operand operands[kMaxOperands];
  for (std::size_t j = 0; j < static_cast<std::size_t>(rule.kernel->operands()); ++j) {
    const auto found = operand(rule, row, j, param);
    if (!found) return false;
    operands[j] = *found;
  }
  Operand average{};
  if (row.objects[kAverage] != nullptr) {
    const auto found = operand(rule, row, kAverage, param);
    if (!found) return false;
    average = *found;
  }
  list_.append({param.length(), operands, average, counter, rule.first_number + row.number, rule.elements});
  labels_.push_back({rule.group, row.number});
  params_.append(py::handle(row.objects[0]));
  return true;
}

// Gradients with torch's negation bit come out of complex autograd. They are views of an imaginary part, with gaps
// between elements, so that only a single element can pass for dense and needs to be asked.
std::optional<Operand> PyTensorList::operand(const Rule& rule, const Row& row, std::size_t j,
                                             const Description& param) {
  const auto tensor = describe_(row.objects[j]);
  const auto codec = tensor ? codec_of(rule, row, j, *tensor) : std::nullopt;
  if (!codec || (tensor->length() == 1 && describe_.is_negated(row.objects[j]))) return std::nullopt;
  if (!tensor->has_shape_of(param)) {
    const std::string name = j == kAverage ? "ema" : operand_name(*rule.kernel, j);
    throw py::value_error(name + " of " + label({rule.group, row.number}) + " has shape " + shape_text(*tensor) +
                          " and storage " + std::string(info(*codec).name) + ", its parameter has shape " +
                          shape_text(param) + "; shapes must be equal");
  }
  if (!tensor->has_strides_of(param)) return std::nullopt;
  void* const data = tensor->data;
  if (info(*codec).second_bytes == 0) return Operand{data, *codec, nullptr};
  const auto beside = second(rule, row, j, *codec, param);
  return beside ? std::optional<Operand>({data, *codec, *beside}) : std::nullopt;
}

// The codec of a tensor by its dtype, by what is kept besides, and by what the rule says of its rounding.
std::optional<Codec> PyTensorList::codec_of(const Rule& rule, const Row& row, std::size_t j,
                                            const Description& tensor) {
  const bool has_second = j < kMaxOperands && row.objects[kSeconds + j] != nullptr;
  const bool positive = j >= 2 && j < kMaxOperands && is_positive(rule.kernel->state[j - 2]);
  const auto codec = tensor.codec();
  if (!has_second) {
    if (codec == Codec::bf16 && j == 0 && !rule.beside_param.empty()) return std::nullopt;  // it is still to be made
    if (codec == Codec::bf16 && j < kMaxOperands && rule.stochastic[j]) return Codec::bf16_stochastic;
    return codec;
  }
  if (j == 0) {
    if (codec != Codec::bf16) return std::nullopt;
    return rule.beside_param == "param_low" ? Codec::bf16_split : Codec::bf16_master;
  }
  return tensor.block_codec(positive);
}

// Checked against the tensor that it belongs to.
std::optional<void*> PyTensorList::second(const Rule& rule, const Row& row, std::size_t j, Codec codec,
                                          const Description& param) {
  const auto tensor = describe_(row.objects[kSeconds + j]);
  if (!tensor) return std::nullopt;
  const CodecInfo& its = info(codec);
  const auto refuse = [&](const std::string& name, const std::string& wanted) {
    throw py::value_error(name + " of " + label({rule.group, row.number}) + " has shape " + shape_text(*tensor) +
                          " and " + std::to_string(tensor->dtype.bits) + " bits an element; needed are " + wanted);
  };
  if (its.in_blocks) {
    const std::int64_t blocks = (param.length() + kBlock - 1) / kBlock;
    const bool fits = tensor->dtype.code == dlpack::kFloat && tensor->dtype.bits == 32 && tensor->is_contiguous() &&
                      tensor->length() * 4 == blocks * its.second_bytes;
    if (!fits) {
      refuse(operand_name(*rule.kernel, j) + kScales, std::to_string(its.second_bytes / 4) +
                                                          " contiguous float32 for each of " + std::to_string(blocks) +
                                                          " blocks of " + std::to_string(kBlock) + " elements");
    }
  } else {
    const std::uint8_t wanted = codec == Codec::bf16_split ? dlpack::kInt : dlpack::kFloat;
    const bool fits = tensor->dtype.code == wanted && tensor->dtype.bits == 8 * its.second_bytes &&
                      tensor->has_shape_of(param) && tensor->has_strides_of(param);
    if (!fits) {
      refuse(rule.beside_param, "the shape and strides of the parameter, " + shape_text(param) + ", and " +
                                    std::to_string(8 * its.second_bytes) + " bits (" +
                                    (wanted == dlpack::kInt ? "integers)" : "floats)"));
    }
  }
  return tensor->data;
}

void PyTensorList::clear() {
  list_.clear();
  kept_.clear();
  labels_.clear();
  params_ = py::list();
}

std::vector<double> PyTensorList::reduce_grads(const std::string& reduction, int n_threads) {
  const ReductionId id = reduction_id(reduction);
  const py::gil_scoped_release release;
  return list_.reduce_grads(id, n_threads);
}

std::vector<std::array<double, 2>> PyTensorList::measure(int n_threads, double grad_factor) {
  check_overlap();
  std::vector<Norms> sums;
  {
    const py::gil_scoped_release release;
    sums = list_.measure(n_threads, grad_factor);
  }
  std::vector<std::array<double, 2>> result;
  for (const Norms& of_tensor : sums) result.push_back({of_tensor.param, of_tensor.other});
  return result;
}

py::tuple PyTensorList::step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite,
                             std::optional<double> sum_squares,
                             const std::optional<std::vector<std::array<double, 2>>>& measurement) {
  check_overlap();
  TensorList::Options options{grad_factor, max_norm, skip_nonfinite, sum_squares, std::nullopt};
  if (measurement) {
    if (measurement->size() != list_.size()) throw py::value_error("measurement needs a pair of sums for each tensor");
    options.measurement.emplace();
    for (const auto& [param, other] : *measurement) options.measurement->push_back({param, other});
  }
  StepResult result;
  {
    const py::gil_scoped_release release;
    result = list_.step(n_threads, options);
  }
  return py::make_tuple(max_norm ? py::object(py::float_(result.grad_norm)) : py::none(), result.stepped);
}

void PyTensorList::check_overlap() {
  const auto pair = list_.overlap();
  if (!pair) return;
  throw py::value_error(label(labels_[(*pair)[0]]) + " and " + label(labels_[(*pair)[1]]) +
                        " (or their states or gradients) overlap in memory, so the result would depend on the order "
                        "of updates; use one Parameter object for a shared weight");
}

}  // namespace gaudi3_rt
