// The tensors of one optimizer step as Python hands them over.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "../tensor_list.h"
#include "describe.h"

namespace gaudi3_rt {

// Keeps the lists it was given, and the gradients, alive until clear().
//
// A `rule` is an object with the attributes of gaudi3_rt.optim._rule.Rule. Besides parameter and gradient, tensors are
// called by their keys in an optimizer's state: "<state>" alone, or "<state>_codes" and "<state>_scales"; "param_low"
// or "param_master" for the parameter; "ema" for its average.
class PyTensorList {
 public:
  PyTensorList(const std::string& isa, pybind11::type tensor_type, bool use_exchange_table);

  // operands: params, grads, and one list for each key; numbers: of the params in their group. Returns the
  // positions of those it cannot take.
  std::vector<std::size_t> extend(const pybind11::object& rule, const std::vector<std::string>& keys,
                                  const std::vector<pybind11::list>& operands, const pybind11::list& steps,
                                  const std::vector<std::size_t>& numbers,
                                  std::optional<std::array<std::int64_t, 3>> elements);

  // Those params that have a gradient. Returns the positions of those it cannot take or that lack state.
  std::vector<std::size_t> extend_from_state(const pybind11::object& rule, const pybind11::list& params,
                                             const pybind11::dict& state);

  void clear();
  std::size_t size() const { return list_.size(); }
  pybind11::list params() const { return params_; }
  std::string isa() const { return list_.table().name; }
  // Refuses tensors of which one writes memory that another reads or writes.
  void check_overlap();
  std::vector<double> reduce_grads(const std::string& reduction, int n_threads);
  std::vector<std::array<double, 2>> measure(int n_threads, double grad_factor);
  pybind11::tuple step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite,
                       std::optional<double> sum_squares,
                       const std::optional<std::vector<std::array<double, 2>>>& measurement);

 private:
  // Tensors whose memory is asked for together, so that the waits for it overlap.
  static constexpr std::size_t kBlockOfRows = 32;

  // Where a row keeps its tensors: operands (param, grad, states...), what their codecs keep besides, average, counter.
  static constexpr std::size_t kSeconds = kMaxOperands;
  static constexpr std::size_t kAverage = 2 * kMaxOperands;
  static constexpr std::size_t kCounter = kAverage + 1;
  static constexpr std::size_t kSlots = kCounter + 1;

  // One tensor with all that belongs to it (borrowed references, null where there is none).
  struct Row {
    std::size_t position;  // in the list that was given
    std::size_t number;    // in its group
    std::array<PyObject*, kSlots> objects;
    PyObject* state;  // the parameter's dictionary of states, if that is where they are looked up
  };

  // The open group, beyond what the engine has to know.
  struct Rule {
    const KernelInfo* kernel;
    std::size_t group;             // number, for errors
    std::uint64_t first_number;    // of the group's parameters in their optimizer
    std::vector<bool> stochastic;  // by operand
    std::string beside_param;      // "param_low", "param_master" or nothing
    bool has_average;
    Elements elements;
  };

  Rule open_group(const pybind11::object& rule);
  void find_states(const Rule& rule, std::vector<Row>& rows, std::vector<std::size_t>& left_over);
  void append(const Rule& rule, std::vector<Row>& rows, std::vector<std::size_t>& left_over);
  bool append(const Rule& rule, const Row& row);
  // The operand in slot j of a row, described; nothing if its memory cannot be used as it is.
  std::optional<Operand> operand(const Rule& rule, const Row& row, std::size_t j, const Description& param);
  std::optional<void*> second(const Rule& rule, const Row& row, std::size_t j, Codec codec, const Description& param);
  std::optional<Codec> codec_of(const Rule& rule, const Row& row, std::size_t j, const Description& tensor);

  // How errors call a parameter: by its group and its place in the group.
  using Label = std::array<std::size_t, 2>;
  static std::string label(const Label& label) {
    return "parameter " + std::to_string(label[1]) + " of group " + std::to_string(label[0]);
  }

  TensorList list_;
  Describer describe_;
  std::vector<pybind11::object> kept_;
  std::vector<Label> labels_;
  pybind11::list params_;
};

}  // namespace gaudi3_rt
