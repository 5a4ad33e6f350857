#include "shards.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../shards.h"
#include "describe.h"
#include "lookup.h"

namespace py = pybind11;

namespace gaudi3_rt {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;

// Of the tensors with torch's negation bit, which are views with gaps, only a single element can pass for dense.
bool is_negated(const Description& tensor, PyObject* object) {
  return tensor.length() == 1 && Describer::is_negated(object);
}

std::optional<Description> contiguous(Describer& describe, const py::object& object) {
  const auto tensor = describe(object.ptr());
  if (!tensor || !tensor->is_contiguous() || is_negated(*tensor, object.ptr())) return std::nullopt;
  return tensor;
}

// Describes the tensors of one call; nothing where the memory of one of them is not plain, dense and laid out like that
// of the tensor it belongs to.
class Memory {
 public:
  Memory(py::type tensor_type, bool use_exchange_table) : describe_(std::move(tensor_type), use_exchange_table) {}

  // The memory of a tensor to whose elements those of others correspond.
  std::optional<Operand> first(PyObject* object, std::size_t number) {
    const auto tensor = plain(object);
    if (!tensor) return std::nullopt;
    first_ = describe_.keep(*tensor);
    return operand(*tensor, number, read_);
  }

  // The memory of one that is shaped and laid out like the first.
  std::optional<Operand> like_first(PyObject* object, std::size_t number, bool written) {
    const auto tensor = plain(object);
    if (!tensor || !tensor->has_shape_of(first_) || !tensor->has_strides_of(first_)) return std::nullopt;
    return operand(*tensor, number, written ? written_ : read_);
  }

  std::int64_t length() const { return first_.length(); }

  void check_overlap(const char* what) const {
    if (overlap(written_, read_)) throw py::value_error(what);
  }

 private:
  std::optional<Description> plain(PyObject* object) {
    const auto tensor = describe_(object);
    if (!tensor || !tensor->codec() || !tensor->is_dense() || is_negated(*tensor, object)) return std::nullopt;
    return tensor;
  }

  static std::optional<Operand> operand(const Description& tensor, std::size_t number, std::vector<Stretch>& list) {
    const auto begin = reinterpret_cast<std::uintptr_t>(tensor.data);
    const auto bytes = static_cast<std::uintptr_t>(tensor.length() * (tensor.dtype.bits / 8));
    if (bytes > 0) list.push_back({begin, begin + bytes, number});
    return Operand{tensor.data, *tensor.codec(), nullptr};
  }

  Describer describe_;
  Description first_{};
  std::vector<Stretch> written_, read_;
};

// Whether merges leave one sum of the nodes, without ever having more partial sums than there is room for.
void check_merges(const std::vector<std::uint8_t>& merges) {
  int depth = 0, deepest = 0;
  bool ok = !merges.empty();
  for (const std::uint8_t count : merges) {
    deepest = std::max(deepest, ++depth);
    ok = ok && count < depth;
    depth -= count;
  }
  if (!ok || depth != 1 || deepest > kMaxDepth) {
    throw py::value_error("merges have to leave one sum of " + std::to_string(merges.size()) + " nodes, with at most " +
                          std::to_string(kMaxDepth) +
                          " partial sums at a time; gaudi3_rt.reduce.merge_counts gives them");
  }
}

bool reduce_nodes(const std::string& isa, py::type tensor_type, const py::list& outs, const py::list& nodes,
                  const std::vector<std::uint8_t>& merges, float factor, std::optional<Doubles> chunk_sums,
                  int n_threads, bool use_exchange_table) {
  const IsaTable& table = isa_table(isa);
  check_merges(merges);
  if (nodes.size() != outs.size()) {
    throw py::value_error(std::to_string(outs.size()) + " sums have " + std::to_string(nodes.size()) +
                          " lists of nodes: there has to be one for each");
  }
  Memory memory(std::move(tensor_type), use_exchange_table);
  Chunks chunks;
  std::vector<Operand> operands;
  operands.reserve(outs.size() * merges.size());
  std::vector<TreeSum> sums;
  for (std::size_t i = 0; i < outs.size(); ++i) {
    const auto list = py::reinterpret_borrow<py::list>(item(nodes, i));
    if (list.size() != merges.size()) {
      throw py::value_error("sum " + std::to_string(i) + " has " + std::to_string(list.size()) +
                            " nodes, merges are for " + std::to_string(merges.size()));
    }
    const Operand* const first = operands.data() + operands.size();
    for (std::size_t j = 0; j < list.size(); ++j) {
      const auto node = j == 0 ? memory.first(item(list, j), i) : memory.like_first(item(list, j), i, false);
      if (!node) return false;
      operands.push_back(*node);
    }
    const auto out = memory.like_first(item(outs, i), i, true);
    if (!out) return false;
    chunks.add(memory.length());
    sums.push_back({first, merges.data(), static_cast<int>(merges.size()), factor, *out, false});
  }
  memory.check_overlap("out shares memory with another tensor; it may be one of its own shards, of its dtype, or none");
  if (chunk_sums && chunk_sums->size() != chunks.count()) {
    throw py::value_error("chunk_sums has " + std::to_string(chunk_sums->size()) + " elements, there are " +
                          std::to_string(chunks.count()) + " chunks");
  }
  double* const squares = chunk_sums ? chunk_sums->mutable_data() : nullptr;
  const py::gil_scoped_release release;
  tree_sums(table, chunks, sums, squares, n_threads);
  return true;
}

void reduce_nodes_reference(const std::vector<Doubles>& nodes, const std::vector<std::uint8_t>& merges, double factor,
                            Doubles& out) {
  check_merges(merges);
  if (nodes.size() != merges.size()) throw py::value_error("there have to be as many nodes as merges");
  for (const Doubles& node : nodes) {
    if (node.size() != out.size()) throw py::value_error("all arrays must have the same length");
  }
  for (py::ssize_t i = 0; i < out.size(); ++i) {
    std::vector<double> stack;
    for (std::size_t j = 0; j < nodes.size(); ++j) {
      stack.push_back(nodes[j].data()[i]);
      for (int merge = 0; merge < merges[j]; ++merge) {
        const double right = stack.back();
        stack.pop_back();
        stack.back() += right;
      }
    }
    out.mutable_data()[i] = factor * stack.back();
  }
}

// The indices of the pairs that the kernels cannot reach; all others are done.
std::vector<std::size_t> transfer_tensors(const std::string& isa, py::type tensor_type, const std::string& name,
                                          const py::list& from, const py::list& into, float factor, int n_threads,
                                          bool use_exchange_table) {
  const IsaTable& table = isa_table(isa);
  const TransferId id = transfer_id(name);
  if (from.size() != into.size()) {
    throw py::value_error(std::to_string(from.size()) + " tensors for " + std::to_string(into.size()) +
                          ": there has to be one for each");
  }
  Memory memory(std::move(tensor_type), use_exchange_table);
  Chunks chunks;
  std::vector<Pair> pairs;
  std::vector<std::size_t> left_over;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto source = memory.first(item(from, i), i);
    const auto target = source ? memory.like_first(item(into, i), i, true) : std::nullopt;
    if (!target) {
      left_over.push_back(i);
      continue;
    }
    chunks.add(memory.length());
    pairs.push_back({*source, *target});
  }
  memory.check_overlap("a tensor that is written shares memory with another one");
  const py::gil_scoped_release release;
  transfer(table, id, factor, chunks, pairs, n_threads);
  return left_over;
}

void transfer_reference(const std::string& name, double factor, const Doubles& from, Doubles& into) {
  if (from.size() != into.size()) throw py::value_error("both arrays must have the same length");
  const TransferInfo& transfer = info(transfer_id(name));
  double* const y = into.mutable_data();
  for (py::ssize_t i = 0; i < from.size(); ++i) y[i] = transfer.reference(factor, from.data()[i], y[i]);
}

// The bytes of a wire, which has to be a contiguous CPU tensor of so many.
char* wire_bytes(Describer& describe, const py::object& wire, std::int64_t bytes) {
  const auto tensor = contiguous(describe, wire);
  if (!tensor) return nullptr;
  if (tensor->length() * (tensor->dtype.bits / 8) != bytes) {
    throw py::value_error("the wire has " + std::to_string(tensor->length() * (tensor->dtype.bits / 8)) +
                          " bytes, these elements take " + std::to_string(bytes));
  }
  return static_cast<char*>(tensor->data);
}

bool compress_tensor(const std::string& isa, py::type tensor_type, const std::string& name, const py::object& x,
                     const py::object& residual, const py::object& wire, float factor, int n_threads,
                     bool use_exchange_table) {
  const IsaTable& table = isa_table(isa);
  const WireId id = wire_id(name);
  Memory memory(tensor_type, use_exchange_table);
  Describer describe(std::move(tensor_type), use_exchange_table);
  if (!contiguous(describe, x)) return false;
  const auto operand = memory.first(x.ptr(), 0);
  if (!operand) return false;
  const std::int64_t n = memory.length();
  float* rest = nullptr;
  if (!residual.is_none()) {
    const auto beside = contiguous(describe, residual);
    if (!beside || beside->codec() != Codec::f32 || beside->length() != n) return false;
    rest = static_cast<float*>(beside->data);
  }
  char* const to = wire_bytes(describe, wire, info(id).bytes(n));
  if (to == nullptr) return false;
  const auto stretch = [](const void* data, std::int64_t bytes, std::size_t number) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    return Stretch{begin, begin + static_cast<std::uintptr_t>(bytes), number};
  };
  std::vector<Stretch> written;
  if (n > 0) written.push_back(stretch(to, info(id).bytes(n), 0));
  if (n > 0 && rest != nullptr) written.push_back(stretch(rest, 4 * n, 1));
  if (n > 0 && overlap(written, {stretch(operand->data, (operand->codec == Codec::f32 ? 4 : 2) * n, 2)})) {
    throw py::value_error("out and residual may not share memory with the tensor or with one another");
  }
  const py::gil_scoped_release release;
  compress(table, id, factor, *operand, rest, to, n, n_threads);
  return true;
}

bool decompress_tensor(const std::string& isa, py::type tensor_type, const std::string& name, const py::object& wire,
                       const py::object& x, float factor, int n_threads, bool use_exchange_table) {
  const IsaTable& table = isa_table(isa);
  const WireId id = wire_id(name);
  Describer describe(std::move(tensor_type), use_exchange_table);
  const auto tensor = contiguous(describe, x);
  if (!tensor || !tensor->codec()) return false;
  const Operand operand{tensor->data, *tensor->codec(), nullptr};
  const std::int64_t n = tensor->length();
  const std::int64_t stored = n * (tensor->dtype.bits / 8), sent = info(id).bytes(n);
  const char* const from = wire_bytes(describe, wire, sent);
  if (from == nullptr) return false;
  const auto* const out = static_cast<const char*>(operand.data);
  if (n > 0 && out < from + sent && from < out + stored) {
    throw py::value_error("out may not share memory with what is decompressed into it");
  }
  const py::gil_scoped_release release;
  decompress(table, id, factor, from, operand, n, n_threads);
  return true;
}

void wire_reference(const std::string& name, Doubles& x) { info(wire_id(name)).reference(x.mutable_data(), x.size()); }

}  // namespace

void bind_shards(py::module_& m) {
  m.def(
      "transfers", [] { return names<TransferId>(kTransfers); }, "Names of the functions from one tensor to another.");
  m.def("wires", [] { return names<WireId>(kWires); }, "Names of the forms in which gradients are sent.");
  m.def("reduce_nodes", reduce_nodes, py::arg("isa"), py::arg("tensor_type"), py::arg("outs"), py::arg("nodes"),
        py::arg("merges"), py::arg("factor"), py::arg("chunk_sums"), py::arg("n_threads"),
        py::arg("use_exchange_table") = true,
        "Adds up each list of nodes along one tree; False, and nothing done, if a tensor's memory is not plain.");
  m.def("reduce_nodes_reference", reduce_nodes_reference, py::arg("nodes"), py::arg("merges"), py::arg("factor"),
        py::arg("out"), "The same of float64 arrays.");
  m.def("transfer", transfer_tensors, py::arg("isa"), py::arg("tensor_type"), py::arg("transfer"), py::arg("from_"),
        py::arg("into"), py::arg("factor"), py::arg("n_threads"), py::arg("use_exchange_table") = true,
        "Applies a transfer to pairs of tensors; returns the indices of those whose memory it cannot use.");
  m.def("transfer_reference", transfer_reference, py::arg("transfer"), py::arg("factor"), py::arg("from_"),
        py::arg("into"), "The same of float64 arrays.");
  m.def(
      "wire_bytes", [](const std::string& name, std::int64_t n) { return info(wire_id(name)).bytes(n); },
      py::arg("wire"), py::arg("n"), "How many bytes n elements take on a wire.");
  m.def("compress", compress_tensor, py::arg("isa"), py::arg("tensor_type"), py::arg("wire"), py::arg("x"),
        py::arg("residual"), py::arg("out"), py::arg("factor"), py::arg("n_threads"),
        py::arg("use_exchange_table") = true,
        "What is sent; False, and nothing done, if a tensor's memory is not plain.");
  m.def("decompress", decompress_tensor, py::arg("isa"), py::arg("tensor_type"), py::arg("wire"), py::arg("compressed"),
        py::arg("out"), py::arg("factor"), py::arg("n_threads"), py::arg("use_exchange_table") = true,
        "What was sent; False, and nothing done, if a tensor's memory is not plain.");
  m.def("wire_reference", wire_reference, py::arg("wire"), py::arg("x"),
        "Replaces the elements of a float64 array by what arrives of them.");
}

}  // namespace gaudi3_rt
