// Which elements of a tensor an instruction reaches, and whether the member may touch them.
#pragma once
#include <algorithm>
#include <climits>
#include <type_traits>

#include "state.h"
#include "types.h"

namespace gaudi3_rt::tpc {

template <class E>
constexpr Element element_of() {
  if constexpr (std::is_same_v<E, float>) return Element::f32;
  if constexpr (std::is_same_v<E, bf16>) return Element::bf16;
  if constexpr (std::is_same_v<E, half>) return Element::f16;
  if constexpr (std::is_same_v<E, std::int32_t>) return Element::i32;
  if constexpr (std::is_same_v<E, std::uint32_t>) return Element::u32;
  if constexpr (std::is_same_v<E, std::int16_t>) return Element::i16;
  if constexpr (std::is_same_v<E, std::uint16_t>) return Element::u16;
  if constexpr (std::is_same_v<E, std::int8_t>) return Element::i8;
  if constexpr (std::is_same_v<E, std::uint8_t>) return Element::u8;
}

// Coordinates in the dimensions that the tensor has, and in those where the kernel has left it.
inline std::string coords_text(const Tensor& t, const int* c, int lane = 0) {
  int rank = t.rank;
  for (int d = rank; d < kMaxDims; ++d) rank = c[d] != 0 ? d + 1 : rank;
  std::string text = "(" + std::to_string(c[0] + lane);
  for (int d = 1; d < rank; ++d) text += ", " + std::to_string(c[d]);
  return text + ")";
}

inline std::string sizes_text(const Tensor& t) {
  std::string text = "(" + std::to_string(t.size[0]);
  for (int d = 1; d < t.rank; ++d) text += ", " + std::to_string(t.size[d]);
  return text + ")";
}

inline Tensor& tensor_at(int handle) {
  if (handle < 0 || handle >= machine.run->n_tensors) {
    fail("There is no tensor %d: main has %d of them.", handle, machine.run->n_tensors);
  }
  return machine.tensors[handle];
}

// The tensor, if its elements are as wide as the instruction's; another type of the same width is seen as bits.
template <class E>
Tensor& tensor_of(int handle) {
  Tensor& t = tensor_at(handle);
  if (bytes_of(t.element) != sizeof(E)) {
    fail("An instruction for %s elements was given %s, whose elements are %s: use that of %s or another tensor.",
         name_of(element_of<E>()), t.name, name_of(t.element), name_of(t.element));
  }
  return t;
}

// Lanes [first, last) of a vector whose lane 0 is at `c` are inside; lane 0 would be `offset` elements from the start.
struct Inside {
  std::int64_t offset;
  int first, last;
};

inline Inside lanes_inside(const Tensor& t, const int* c, int lanes) {
  std::int64_t offset = c[0] * t.stride[0];
  bool row_inside = true;
  for (int d = 1; d < kMaxDims; ++d) {
    row_inside = row_inside && c[d] >= 0 && c[d] < t.size[d];
    offset += c[d] * t.stride[d];
  }
  const std::int64_t begin = c[0];
  const int first = static_cast<int>(std::clamp<std::int64_t>(-begin, 0, lanes));
  const int last = static_cast<int>(std::clamp<std::int64_t>(t.size[0] - begin, first, lanes));
  Inside lanes_in = {offset, first, row_inside ? last : first};
  // A kernel may have set sizes and strides, but what it reaches is still this memory.
  if (lanes_in.first < lanes_in.last &&
      (offset + lanes_in.first * t.stride[0] < 0 || offset + (lanes_in.last - 1) * t.stride[0] >= t.span)) {
    fail("With the sizes and strides that the kernel has set, %s reaches past its memory at %s.", t.name,
         coords_text(t, c).c_str());
  }
  return lanes_in;
}

[[noreturn]] inline void refuse_access(int handle, const int* c, int lane, int dim, const char* verb) {
  const Tensor& t = machine.tensors[handle];
  const Range allowed = machine.allowed[handle][dim];
  const Mapping& m = t.mapping[dim];
  fail(
      "It %s %s at %s, but the access pattern of dimension %d, %g * i + %g to %g * i + %g of index-space dimension %d, "
      "allows elements %lld to %lld there.",
      verb, t.name, coords_text(t, c, lane).c_str(), dim, m.a, m.start, m.a, m.end, m.index_dim,
      static_cast<long long>(allowed.first), static_cast<long long>(allowed.last));
}

// That the member may touch lanes [first, last) at c by the pattern that was given.
inline void check_pattern(int handle, const int* c, int first, int last, const char* verb) {
  const Tensor& t = machine.tensors[handle];
  if (!t.mapped) return;
  for (int d = 0; d < kMaxDims; ++d) {
    if (t.mapping[d].all) continue;
    const Range allowed = machine.allowed[handle][d];
    const std::int64_t begin = c[d] + (d == 0 ? first : 0), end = c[d] + (d == 0 ? last - 1 : 0);
    if (begin < allowed.first) refuse_access(handle, c, first, d, verb);
    if (end > allowed.last) {
      const auto beyond = static_cast<int>(allowed.last + 1 - c[d]);
      refuse_access(handle, c, d == 0 ? std::max(first, beyond) : first, d, verb);
    }
  }
}

inline void check_load(int handle, const int* c, std::int64_t offset, int first, int last) {
  if (first >= last) return;
  check_pattern(handle, c, first, last, "loads");
  const Tensor& t = machine.tensors[handle];
  if (t.writers == nullptr) return;
  const auto self = static_cast<std::int32_t>(machine.box + 1);
  for (int i = first; i < last; ++i) {
    const std::int32_t writer = t.writers[offset + i * t.stride[0]];
    if (writer == self) {
      ++machine.outcome->reread[handle];
    } else if (writer != 0) {
      fail("It loads %s at %s, which %s has stored: members run in any order.", t.name, coords_text(t, c, i).c_str(),
           member_text(writer - 1).c_str());
    } else if (!t.starts_written) {
      fail("It loads %s at %s, an output that nothing has been stored to.", t.name, coords_text(t, c, i).c_str());
    }
  }
}

inline void check_store(int handle, const int* c, std::int64_t offset, int first, int last, bool read_modify_write) {
  if (first >= last) return;
  const Tensor& t = machine.tensors[handle];
  if (!t.is_output) {
    fail("It stores to %s, which is an input; outputs are the tensors of main after the inputs.", t.name);
  }
  if (!checking()) return;
  check_pattern(handle, c, first, last, "stores to");
  if (t.writers == nullptr || read_modify_write) return;
  const auto self = static_cast<std::int32_t>(machine.box + 1);
  for (int i = first; i < last; ++i) {
    std::int32_t& writer = t.writers[offset + i * t.stride[0]];
    if (writer != 0 && writer != self) {
      fail("It stores to %s at %s, and so does %s: members run in any order.", t.name, coords_text(t, c, i).c_str(),
           member_text(writer - 1).c_str());
    }
    writer = self;
  }
}

// A vector that no lane of has been computed: all bits set, which is NaN, in checking mode.
template <class V>
V unset() {
  V v;
  std::memset(static_cast<void*>(&v), checking() ? 0xff : 0, sizeof v);
  return v;
}

// Numbers of elements in partial loads and stores are given less one, in 8 bits.
inline int partial_lanes(std::int8_t size, std::int8_t offset, int lanes) {
  const int count = static_cast<std::uint8_t>(size) + 1;
  if (count > lanes) fail("A partial load or store of %d elements does not fit into %d lanes.", count, lanes);
  if (offset != 0) fail("What a partial load or store does with offset %d is not documented; use 0.", offset);
  return count;
}

}  // namespace gaudi3_rt::tpc
