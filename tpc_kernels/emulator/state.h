// The state of the emulated machine: the tensors of a run, the box that is executed now, its registers, its errors.
// A loaded library is one TPC engine: the runner loads a copy for each thread, so nothing here is shared.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <unordered_map>

#include "machine.h"

namespace gaudi3_rt::tpc {

constexpr int kMaxTensors = 16;
constexpr int kMaxScalars = 32;
constexpr int kMaxDims = 5;

// What the elements of a tensor are; the order is that of ELEMENTS in python/gaudi3_rt/tpc/_arrays.py.
enum class Element : std::int32_t { f32, bf16, f16, i32, u32, i16, u16, i8, u8 };

constexpr int bytes_of(Element e) {
  return e == Element::f32 || e == Element::i32 || e == Element::u32 ? 4 : e == Element::i8 || e == Element::u8 ? 1 : 2;
}

constexpr const char* name_of(Element e) {
  constexpr const char* names[] = {"f32", "bf16", "f16", "i32", "u32", "i16", "u16", "i8", "u8"};
  return names[static_cast<int>(e)];
}

// Run, Tensor, Mapping, Box and Outcome are filled and read by python/gaudi3_rt/tpc/_library.py, which restates them.

// The elements of one dimension of a tensor that member i of an index-space dimension may touch.
struct Mapping {
  double a, start, end;  // a * i + start to a * i + end, inclusive
  std::int32_t index_dim;
  std::int32_t all;  // all elements, whatever the member
};

struct Tensor {
  char* data;
  const char* name;
  std::int32_t* writers;  // by place in memory: 1 + the number of the box that wrote it; null where nobody asks
  std::int64_t size[kMaxDims];
  std::int64_t stride[kMaxDims];  // in elements
  std::int64_t span;              // places from the first element to the last
  Mapping mapping[kMaxDims];
  Element element;
  std::int32_t is_output;
  std::int32_t starts_written;  // has values before the run: an input, or an output in the memory of one
  std::int32_t mapped;
  std::int32_t rank;
  std::uint32_t pad;  // its low bits are the value read outside
};

struct Box {
  std::int32_t offset[kMaxDims];
  std::int32_t size[kMaxDims];
};

struct Run {
  const char* name;
  const Box* boxes;
  std::int32_t* lock;  // held during a read-modify-write
  Tensor tensors[kMaxTensors];
  std::uint32_t scalars[kMaxScalars];
  std::int32_t n_tensors, n_scalars, index_rank;
  std::uint64_t seed;
  double special_ulps, fast_special_ulps;
};

struct Outcome {
  std::int64_t dropped[kMaxTensors];  // lanes that were stored outside
  std::int64_t padded[kMaxTensors];   // lanes that were loaded from outside
  std::int64_t reread[kMaxTensors];   // lanes that were loaded after the same box had stored them
  std::int32_t order_matters;         // bits may depend on the order of boxes: random numbers, sums in memory
  char error[4096];
};

class Failure : public std::exception {};

struct Range {
  std::int64_t first, last;
};

// Where an address made by gen_addr points to.
struct Place {
  int tensor;
  int coords[kMaxDims];
};

struct Machine {
  const Run* run = nullptr;
  Outcome* outcome = nullptr;
  std::int64_t box = 0;         // its number
  Tensor tensors[kMaxTensors];  // as the kernel sees them: it may set sizes, strides and pad values
  Range allowed[kMaxTensors][kMaxDims];
  std::uint32_t vector_lfsr[64];
  std::uint32_t scalar_lfsr = 1;
  std::uint64_t random_calls = 0;
  int fma_csr = 0, convert_csr = 0, semaphore = 0;
  std::unordered_map<const void*, Place> places;  // in checking mode
  std::uint32_t prefetch_stride[kMaxTensors] = {};
  Place outside = {};  // the last address that was made of coordinates outside
  std::string printed;
  alignas(256) unsigned char vector_local[80 * 1024];
  alignas(256) unsigned char scalar_local[16 * 1024];
};

inline Machine machine;

// What an address outside a tensor points to, so that reading through it gives no memory of others.
alignas(256) inline unsigned char outside_page[256];

inline std::string member_text(const Box& box) {
  const int rank = machine.run->index_rank;
  std::string first, last;
  bool one = true;
  for (int d = 0; d < rank; ++d) {
    const char* comma = d == 0 ? "" : ", ";
    first += comma + std::to_string(box.offset[d]);
    last += comma + std::to_string(box.offset[d] + box.size[d] - 1);
    one = one && box.size[d] == 1;
  }
  return one ? "member (" + first + ")" : "members (" + first + ") to (" + last + ")";
}

inline std::string member_text(std::int64_t number) { return member_text(machine.run->boxes[number]); }

[[noreturn]] inline void fail(const char* format, ...) {
  char text[2048];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (machine.outcome != nullptr) {
    std::snprintf(machine.outcome->error, sizeof machine.outcome->error, "kernel %s, %s: %s", machine.run->name,
                  member_text(machine.box).c_str(), text);
  }
  throw Failure();
}

inline int convert_csr() { return machine.convert_csr; }
inline int fma_csr() { return machine.fma_csr; }
inline double special_ulps() { return machine.run->special_ulps; }
inline double fast_special_ulps() { return machine.run->fast_special_ulps; }

// Of this run and the place of this box, so that it does not depend on when or on which thread the box runs.
inline std::uint64_t box_seed() {
  std::uint64_t x = machine.run->seed;
  for (const int i : machine.run->boxes[machine.box].offset) x = hash_bits(x ^ static_cast<std::uint32_t>(i));
  return x;
}

inline std::uint32_t random_bits() {
  machine.outcome->order_matters = 1;
  return static_cast<std::uint32_t>(hash_bits(box_seed() ^ (machine.random_calls++ << 20)) >> 32);
}

// One step of a Galois register that shifts right, with the polynomial that hardware has after reset.
constexpr std::uint32_t lfsr_step(std::uint32_t x) { return (x >> 1) ^ ((x & 1) != 0 ? 0x800002ccU : 0U); }

inline void take_lfsr(std::uint32_t (&words)[64]) {
  machine.outcome->order_matters = 1;
  std::memcpy(words, machine.vector_lfsr, sizeof words);
  for (std::uint32_t& x : machine.vector_lfsr) x = lfsr_step(x);
}

inline std::uint64_t run_seed() { return machine.run->seed; }

// Registers, descriptors and local memory of the emulator itself, as a box finds them.
inline void begin_box(std::int64_t number) {
  machine.box = number;
  machine.random_calls = 0;
  machine.fma_csr = machine.convert_csr = machine.semaphore = 0;
  machine.places.clear();
  const std::uint64_t seed = box_seed();
  for (int i = 0; i < 64; ++i) machine.vector_lfsr[i] = static_cast<std::uint32_t>(hash_bits(seed + 1 + i)) | 1;
  machine.scalar_lfsr = static_cast<std::uint32_t>(hash_bits(seed)) | 1;
  const Box& box = machine.run->boxes[number];
  for (int i = 0; i < machine.run->n_tensors; ++i) {
    machine.tensors[i] = machine.run->tensors[i];
    for (int d = 0; d < kMaxDims; ++d) {
      const Mapping& m = machine.tensors[i].mapping[d];
      const double first = box.offset[m.index_dim], last = first + box.size[m.index_dim] - 1;
      const double low = std::fmin(m.a * first, m.a * last), high = std::fmax(m.a * first, m.a * last);
      machine.allowed[i][d] = {static_cast<std::int64_t>(std::floor(low + m.start)),
                               static_cast<std::int64_t>(std::ceil(high + m.end))};
    }
  }
  if (checking()) {
    std::memset(machine.vector_local, 0xff, sizeof machine.vector_local);
    std::memset(machine.scalar_local, 0xff, sizeof machine.scalar_local);
  }
}

}  // namespace gaudi3_rt::tpc
