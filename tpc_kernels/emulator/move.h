// Moves of whole lanes: v_<T>_mov_b, mov_dual_group_b, mov_dual_group_all_b, mov_group_b, shuffle_b, pack_b, unpack_b;
// lane numbers; predicates to and from other things (to_bool64, v_i1_mov_...). Bits are never changed.
// A vector is four dual groups of 64 bytes, a dual group two groups of 32.
#pragma once
#include "instruction.h"

namespace gaudi3_rt::tpc {

template <class E>
inline constexpr int kGroup = 32 / static_cast<int>(sizeof(E));
template <class E>
inline constexpr int kDualGroup = 2 * kGroup<E>;

// The mask of the bytes of a group that are written. Only the full one is known to work.
inline void check_byte_mask(std::uint32_t mask) {
  if (mask != 0xffffffffU && checking()) fail("Byte masks of group moves other than 0xffffffff are not documented.");
}
template <class E>
inline bool writes(std::uint32_t mask, int element) {
  return ((mask >> (element % kGroup<E> * static_cast<int>(sizeof(E)))) & 1) != 0;
}

// Dual group `from` of a, in place of dual group `to` of r; `groups` has a bit for its lower and one for its upper
// group.
template <class E, int N>
inline void put_dual_group(Vector<E, N>& r, const Vector<E, N>& a, std::uint32_t mask, int from, int to, int groups) {
  for (int i = 0; i < kDualGroup<E>; ++i) {
    if (((groups >> (i / kGroup<E>)) & 1) != 0 && writes<E>(mask, i)) {
      r.lane[to * kDualGroup<E> + i] = a.lane[from * kDualGroup<E> + i];
    }
  }
}

template <class V>
inline V mov_dual_group(const V& a, std::uint32_t mask, int from, int to, int switches, const V& income) {
  check_byte_mask(mask);
  allow(switches, SW_WR_LOWER_GROUP | SW_WR_UPPER_GROUP);
  V r = income;
  put_dual_group(r, a, mask, from & 3, to & 3, (switches >> 12) & 3);
  return r;
}

template <class V>
inline V mov_dual_group_all(const V& a, std::uint32_t mask, int d0, int d1, int d2, int d3, int switches,
                            const V& income) {
  check_byte_mask(mask);
  allow(switches, 0xff << 16);
  V r = income;
  const int from[4] = {d0, d1, d2, d3};
  for (int to = 0; to < 4; ++to) put_dual_group(r, a, mask, from[to] & 3, to, (switches >> (16 + 2 * to)) & 3);
  return r;
}

// The two groups of a dual group change places, where both the dual group and the written group are enabled.
template <class E, int N>
inline Vector<E, N> mov_group(const Vector<E, N>& a, std::uint32_t mask, int switches, const Vector<E, N>& income) {
  check_byte_mask(mask);
  allow(switches, 63);
  Vector<E, N> r = income;
  for (int i = 0; i < N; ++i) {
    const int group = i / kGroup<E> % 2;
    const int dual_group = i / kDualGroup<E>;
    if (((switches >> group) & (switches >> (2 + dual_group)) & 1) != 0 && writes<E>(mask, i)) {
      r.lane[i] = a.lane[group == 0 ? i + kGroup<E> : i - kGroup<E>];
    }
  }
  return r;
}

// Each element takes one of its dual group: bits 0 to 4 of its control are the element within a group, bit 5 the group,
// and without bit 7 it keeps the income. Of wide elements every byte has to hold the control.
template <class E, int N>
inline Vector<E, N> shuffle(const Vector<E, N>& a, const uchar256& control, int switches, const Vector<E, N>& income) {
  allow(switches, 0);
  constexpr int kBytes = sizeof(E);
  if (checking()) {
    for (int i = 0; i < N; ++i) {
      const int c = control.lane[i * kBytes];
      if ((c & 0x80) != 0 && ((c & 0x40) != 0 || (c & 31) >= kGroup<E>)) {
        fail("The shuffle control 0x%x selects no element: a group has %d.", static_cast<unsigned>(c), kGroup<E>);
      }
      for (int k = 1; k < kBytes; ++k) {
        if (control.lane[i * kBytes + k] != c) fail("Which byte of an element controls its shuffle is not documented.");
      }
    }
  }
  Vector<E, N> r;
  for (int i = 0; i < N; ++i) {
    const int c = control.lane[i * kBytes];
    const int from = i / kDualGroup<E> * kDualGroup<E> + ((c >> 5) & 1) * kGroup<E> + (c & (kGroup<E> - 1));
    r.lane[i] = (c & 0x80) != 0 ? a.lane[from] : income.lane[i];
  }
  return r;
}

// Spreads elements of one group over its dual group: with stride 2 all of them, with stride 4 (bytes) the chosen half.
template <class E, int N>
inline Vector<E, N> unpack(const Vector<E, N>& a, int switches, const Vector<E, N>& income) {
  allow(switches, SW_GROUP_1 | SW_STRIDE_4 | SW_GROUP_HALF_1 | SW_UNPACK_LANE_3);
  const int stride = (switches & SW_STRIDE_4) != 0 ? 4 : 2;
  const int lane = (switches >> 11) & 3;
  const int half = (switches & SW_GROUP_HALF_1) != 0 ? 1 : 0;
  if (checking() && (sizeof(E) * stride > 4 || lane >= stride || (stride == 2 && half != 0))) {
    fail("unpack of %d-byte elements with stride %d, half %d, lane %d is not documented.", static_cast<int>(sizeof(E)),
         stride, half, lane);
  }
  Vector<E, N> r = income;
  const int count = kDualGroup<E> / stride;
  const int start = ((switches & SW_GROUP_1) != 0 ? kGroup<E> : 0) + half * (stride == 4 ? count : 0);
  for (int d = 0; d < N; d += kDualGroup<E>) {
    for (int i = 0; i < count; ++i) r.lane[d + stride * i + lane % stride] = a.lane[d + start + i];
  }
  return r;
}

// Gathers every second or fourth element of a group of each dual group, at the lanes that unpack would take them from.
template <class E, int N>
inline Vector<E, N> pack(const Vector<E, N>& a, int switches, const Vector<E, N>& income) {
  if (checking()) fail("Where pack puts its elements is not documented.");
  const int stride = (switches & SW_STRIDE_4) != 0 ? 4 : 2;
  const int group = (switches & SW_GROUP_1) != 0 ? 1 : 0;
  Vector<E, N> r = income;
  const int count = kGroup<E> / stride;
  for (int d = 0; d < N; d += kDualGroup<E>) {
    for (int i = 0; i < count; ++i) r.lane[d + group * count + i] = a.lane[d + group * kGroup<E> + stride * i];
  }
  return r;
}

template <class V>
inline V lane_ids() {
  V r;
  for (int i = 0; i < V::kLanes; ++i) r.lane[i] = static_cast<typename V::Element>(i);
  return r;
}

// Hardware has 256 predicate bits; a wider element has four or two of them, which agree.
template <int N>
inline Predicate<N> to_bool(const bool256& x) {
  Predicate<N> r;
  constexpr int kBits = 256 / N;
  for (int i = 0; i < N; ++i) {
    r.lane[i] = x.lane[kBits * i];
    for (int k = 1; k < kBits && checking(); ++k) {
      if (x.lane[kBits * i + k] != r.lane[i]) fail("The predicate bits of lane %d of %d differ.", i, N);
    }
  }
  return r;
}
template <int N>
inline bool256 from_bool(const Predicate<N>& x) {
  bool256 r;
  for (int i = 0; i < 256; ++i) r.lane[i] = x.lane[i / (256 / N)];
  return r;
}

// Four predicate bits at the bottom of each 32-bit lane.
inline uint64 bits_of(const bool256& x) {
  uint64 r = 0;
  for (int i = 0; i < 256; ++i) r.lane[i / 4] |= static_cast<std::uint32_t>(x.lane[i]) << (i % 4);
  return r;
}
inline bool256 predicate_of(const uint64& x) {
  bool256 r;
  for (int i = 0; i < 256; ++i) r.lane[i] = static_cast<std::uint8_t>((x.lane[i / 4] >> (i % 4)) & 1);
  return r;
}

// The 32 bits of a scalar as predicate bits of eighth `flavor` of the vector, or of all eighths with 8.
inline bool256 mov_flavor(std::int32_t x, int flavor, const bool256& income) {
  if (checking()) fail("The order of the bits that v_i1_mov_flavor_b moves is not documented.");
  bool256 r = income;
  for (int i = 0; i < 256; ++i) {
    if (flavor == 8 || i / 32 == flavor) r.lane[i] = static_cast<std::uint8_t>((x >> (i % 32)) & 1);
  }
  return r;
}

inline uint64 blend(const uint64& a, const uint64& b, const bool256& predicate, bool polarity) {
  return blend(a, b, to_bool<64>(predicate), polarity);
}

}  // namespace gaudi3_rt::tpc

inline bool64 to_bool64(const bool256& x) { return gaudi3_rt::tpc::to_bool<64>(x); }
inline bool128 to_bool128(const bool256& x) { return gaudi3_rt::tpc::to_bool<128>(x); }
inline bool256 from_bool64(const bool64& x) { return gaudi3_rt::tpc::from_bool(x); }
inline bool256 from_bool128(const bool128& x) { return gaudi3_rt::tpc::from_bool(x); }

// The forms of an instruction that always has switches and income: `expression` of its arguments and them.
#define G3RT_MERGES(name, R, M, PARAMETERS, ARGUMENTS, expression)                                              \
  G3RT_INTRINSIC R name##_b(G3RT_LIST PARAMETERS, [[maybe_unused]] int switches, const R& income,               \
                            bool predicate = true, bool polarity = false) {                                     \
    using namespace gaudi3_rt::tpc;                                                                             \
    if (predicate == polarity) return income;                                                                   \
    return expression;                                                                                          \
  }                                                                                                             \
  G3RT_INTRINSIC R name##_vb(G3RT_LIST PARAMETERS, int switches, const R& income, const M& predicate,           \
                             bool polarity = false) {                                                           \
    return gaudi3_rt::tpc::blend(name##_b(G3RT_LIST ARGUMENTS, switches, income), income, predicate, polarity); \
  }

#define X(T, V, E, M)                                                                                                \
  G3RT_FORMS_1(v_##T##_mov, V, M, V, a)                                                                              \
  G3RT_FORMS_1(v_##T##_mov_x2, V##_##V, M, V##_##V, a)                                                               \
  G3RT_SCALAR_FORMS(s_##T##_mov, E, (E a), a)                                                                        \
  G3RT_MERGES(v_##T##_mov_dual_group, V, M, (const V& a, uint32_t mask, int from, int to), (a, mask, from, to),      \
              mov_dual_group(a, mask, from, to, switches, income))                                                   \
  G3RT_MERGES(                                                                                                       \
      v_##T##_mov_dg, V, M, (const V& a, uint32_t mask, uint32_t control), (a, mask, control),                       \
      mov_dual_group(a, mask, control & 3, (control >> 2) & 3, static_cast<int>((control >> 4) & 3) << 12, income))  \
  G3RT_MERGES(v_##T##_mov_dual_group_all, V, M, (const V& a, uint32_t mask, int d0, int d1, int d2, int d3),         \
              (a, mask, d0, d1, d2, d3), mov_dual_group_all(a, mask, d0, d1, d2, d3, switches, income))              \
  G3RT_MERGES(v_##T##_mov_dg_all, V, M, (const V& a, uint32_t mask, uint32_t control), (a, mask, control),           \
              mov_dual_group_all(a, mask, control, control >> 2, control >> 4, control >> 6, switches, income))      \
  G3RT_MERGES(v_##T##_mov_group, V, M, (const V& a, uint32_t mask), (a, mask), mov_group(a, mask, switches, income)) \
  G3RT_MERGES(v_##T##_shuffle, V, M, (const V& a, const uchar256& control), (a, control),                            \
              shuffle(a, control, switches, income))
G3RT_NUMBERS(X)
#undef X

#define X(T, V, E, M)                                                                               \
  G3RT_MERGES(v_##T##_unpack, V, M, (const V& a), (a), gaudi3_rt::tpc::unpack(a, switches, income)) \
  G3RT_MERGES(v_##T##_pack, V, M, (const V& a), (a), gaudi3_rt::tpc::pack(a, switches, income))
X(bf16, bfloat128, bf16, bool128)
X(f16, half128, half, bool128)
X(i16, short128, int16_t, bool128)
X(u16, ushort128, uint16_t, bool128)
X(i8, char256, int8_t, bool256)
X(u8, uchar256, uint8_t, bool256)
#undef X

// The control words of v_<T>_mov_dg_b and v_<T>_mov_dg_all_b.
inline unsigned MdgCtrlSingle(unsigned from, unsigned to, unsigned lower, unsigned upper) {
  return from | to << 2 | lower << 4 | upper << 5;
}
inline unsigned MdgCtrlAll(unsigned d0, unsigned d1, unsigned d2, unsigned d3) {
  return d0 | d1 << 2 | d2 << 4 | d3 << 6;
}

#define G3RT_LANE_ID(name, V, M)                                                                 \
  G3RT_INTRINSIC V name##_b(const V& income = 0, bool predicate = true, bool polarity = false) { \
    return predicate == polarity ? income : gaudi3_rt::tpc::lane_ids<V>();                       \
  }                                                                                              \
  G3RT_INTRINSIC V name##_vb(const V& income, const M& predicate, bool polarity = false) {       \
    return gaudi3_rt::tpc::blend(gaudi3_rt::tpc::lane_ids<V>(), income, predicate, polarity);    \
  }
G3RT_LANE_ID(read_lane_id_4b, uint64, bool64)
G3RT_LANE_ID(read_lane_id_2b, ushort128, bool128)
G3RT_LANE_ID(read_lane_id_1b, uchar256, bool256)
#undef G3RT_LANE_ID
#define V_LANE_ID_32 read_lane_id_4b_b()
#define V_LANE_ID_16 read_lane_id_2b_b()
#define V_LANE_ID_8 read_lane_id_1b_b()

G3RT_FORMS_1(v_i1_mov, bool256, bool256, bool256, a)
G3RT_SCALAR_FORMS(s_i1_mov, bool, (bool a), a)
G3RT_FORMS_1(v_i1_mov_i1, bool256, bool256, bool, bool256(a ? -1 : 0))
G3RT_FORMS_1(v_i1_mov_u32, bool256, bool256, uint64, predicate_of(a))
G3RT_FORMS_1(v_u32_mov_i1, uint64, bool256, bool256, bits_of(a))
G3RT_MERGES(v_i1_mov_flavor, bool256, bool256, (int32_t a, int flavor), (a, flavor), mov_flavor(a, flavor, income))
