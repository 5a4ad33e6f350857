// What is known of kernels, reductions, maps, transfers and wires besides their loops: names, constants of a step,
// references in double.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "table.h"

namespace gaudi3_rt {

struct KernelInfo {
  std::string_view name;
  std::vector<std::string_view> hyper;  // names, in the order of the array that the functions below take
  std::vector<std::string_view> state;  // keys of the optimizer's state, in the order of the operands after param, grad
  bool two_passes;                      // needs norms of the whole tensor before it can step

  // Fills kConstantsBytes at `constants` for step number t (the first step is 1).
  void (*prepare)(const double* hyper, double t, void* constants);

  // The numbers in `constants`, in order: what a kernel elsewhere takes so as to form the same step.
  std::vector<float> (*constants)(const double* hyper, double t);

  // Updates the n elements of operands[0..] (param, grad, states...) in double.
  void (*reference)(const double* hyper, double t, double* const* operands, std::int64_t n);

  int operands() const { return 2 + static_cast<int>(state.size()); }
};

struct ReductionInfo {
  std::string_view name;
  double identity;
  double (*fold)(double, double);
  double (*reference)(const double* x, std::int64_t n);
};

struct MapInfo {
  std::string_view name;
  std::vector<std::string_view> parameters;  // names, in the order of the array that the map takes
  double (*reference)(const double* parameters, double x);
};

struct TransferInfo {
  std::string_view name;
  double (*reference)(double factor, double from, double into);
};

struct WireInfo {
  std::string_view name;
  std::int64_t (*bytes)(std::int64_t n);  // of n elements
  void (*reference)(double* x, std::int64_t n);
};

struct CodecInfo {
  std::string_view name;
  std::int64_t bytes;         // of one stored element
  std::int64_t second_bytes;  // at Operand::second: of one element, or of one block
  bool in_blocks;
};

const KernelInfo& info(KernelId id);
const ReductionInfo& info(ReductionId id);
const MapInfo& info(MapId id);
const TransferInfo& info(TransferId id);
const WireInfo& info(WireId id);
const CodecInfo& info(Codec id);

// Whether a state of this name cannot be negative: a mean or sum of squares.
bool is_positive(std::string_view state);

// The key of one tensor's random numbers in one step.
std::uint64_t draw_key(std::uint64_t seed, double t, std::uint64_t parameter);

// What a kernel elsewhere takes so as to draw the same numbers for an operand: two keys of its first 2^32 elements, and
// at which bit of a word its 16 bits begin.
std::array<std::uint32_t, 3> draw_keys(std::uint64_t seed, double t, std::uint64_t parameter, int operand);

}  // namespace gaudi3_rt
