// What one lane becomes in a conversion between element types: all roundings, clipping, what saturates.
#pragma once
#include "move.h"

namespace gaudi3_rt::tpc {

constexpr int kRoundSwitches = 7 << 16;

// The rounding of an instruction, with the register's where it says so.
inline Round rounding(int switches) {
  const Round r = static_cast<Round>((switches >> 16) & 7);
  if (r != Round::csr) return r;
  const Round c = static_cast<Round>(convert_csr() & 7);
  return c == Round::csr ? Round::nearest : c;
}

inline std::uint16_t bf16_bits(std::uint32_t x, Round round, std::uint32_t random, bool clip) {
  switch (round) {
    case Round::zero:
      return bf16_bits<Round::zero>(x, random, clip);
    case Round::up:
      return bf16_bits<Round::up>(x, random, clip);
    case Round::down:
      return bf16_bits<Round::down>(x, random, clip);
    case Round::stochastic:
      return bf16_bits<Round::stochastic>(x, random, clip);
    case Round::away:
      return bf16_bits<Round::away>(x, random, clip);
    case Round::stochastic_nearest:
      return bf16_bits<Round::stochastic_nearest>(x, random, clip);
    default:
      return bf16_bits<Round::nearest>(x, random, clip);
  }
}
inline std::uint16_t half_bits(std::uint32_t x, Round round, std::uint32_t random, bool clip) {
  switch (round) {
    case Round::zero:
      return half_bits<Round::zero>(x, random, clip);
    case Round::up:
      return half_bits<Round::up>(x, random, clip);
    case Round::down:
      return half_bits<Round::down>(x, random, clip);
    case Round::stochastic:
      return half_bits<Round::stochastic>(x, random, clip);
    case Round::away:
      return half_bits<Round::away>(x, random, clip);
    case Round::stochastic_nearest:
      return half_bits<Round::stochastic_nearest>(x, random, clip);
    default:
      return half_bits<Round::nearest>(x, random, clip);
  }
}

// A finite float to a whole number.
inline double round_whole(double x, Round round, std::uint32_t random) {
  const double down = std::floor(x);
  const double part = x - down;  // exact: floats
  switch (round) {
    case Round::zero:
      return std::trunc(x);
    case Round::up:
      return std::ceil(x);
    case Round::down:
      return down;
    case Round::away:
      return x < 0 ? std::ceil(x - 0.5) : std::floor(x + 0.5);
    case Round::stochastic:
    case Round::stochastic_nearest:
      return part != 0 && part * 0x1p32 >= static_cast<double>(random) ? down + 1 : down;
    default:
      return part > 0.5 || (part == 0.5 && std::fmod(down, 2) != 0) ? down + 1 : down;
  }
}

// A float to an integer. What becomes of NaN and of numbers beyond the range is not documented: the checking mode
// stops, else NaN is 0 and the others saturate.
template <class To>
inline To whole(float x, Round round, std::uint32_t random) {
  constexpr double low = std::numeric_limits<To>::min();
  constexpr double high = std::numeric_limits<To>::max();
  const double y = x == x ? round_whole(std::fmin(std::fmax(x, -1e10), 1e10), round, random) : 0;
  if (checking() && (!(x == x) || y < low || y > high)) {
    fail("The conversion of %g to an integer of %d bits is not documented.", static_cast<double>(x),
         static_cast<int>(8 * sizeof(To)));
  }
  return static_cast<To>(y < low ? low : y > high ? high : y);
}

// An integer as a float: rounded once.
inline float float_of(std::int64_t x, Round round) {
  const double d = static_cast<double>(x);
  if (round == Round::away) {  // a float has 24 bits, and 32 bits leave nothing more than halves to decide
    const float f = static_cast<float>(d);
    const double error = d - static_cast<double>(f);
    const float other =
        std::nextafter(f, error > 0 ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity());
    const bool tie = error != 0 && std::fabs(error) == std::fabs(static_cast<double>(other) - d);
    return tie && std::fabs(other) > std::fabs(f) ? other : f;
  }
  if (checking() && (round == Round::stochastic || round == Round::stochastic_nearest)) {
    fail("Stochastic rounding of integers to float is not documented.");
  }
  return to_float(d, static_cast<int>(round));
}

template <class To, class From>
inline To convert_lane(From x, Round round, std::uint32_t random, bool clip) {
  if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, half>) {
    float f;
    if constexpr (kIsFloat<From>) {
      f = static_cast<float>(x);
    } else {
      f = to_odd(static_cast<double>(x));
    }
    if constexpr (std::is_same_v<To, bf16>) return bf16_from_bits(bf16_bits(bits(f), round, random, clip));
    if constexpr (std::is_same_v<To, half>) return half_from_bits(half_bits(bits(f), round, random, clip));
  } else if constexpr (std::is_same_v<To, float>) {
    if constexpr (kIsFloat<From>) {
      return static_cast<float>(x);
    } else {
      return float_of(x, round);
    }
  } else if constexpr (kIsFloat<From>) {
    return whole<To>(static_cast<float>(x), round, random);
  } else {
    const To y = saturate<To>(x);
    if (checking() && static_cast<std::int64_t>(y) != static_cast<std::int64_t>(x)) {
      fail("The conversion of %lld to an integer of %d bits is not documented.", static_cast<long long>(x),
           static_cast<int>(8 * sizeof(To)));
    }
    return y;
  }
}

// f32 to bf16 is what kernels do most, so it has loops of its own, one for each rounding.
template <Round kMode, int N>
inline Vector<bf16, N> bf16_lanes(const Vector<float, N>& a, const std::uint32_t* random, bool clip) {
  Vector<bf16, N> r;
  for (int i = 0; i < N; ++i) {
    constexpr bool kRandom = kMode == Round::stochastic || kMode == Round::stochastic_nearest;
    r.lane[i] = bf16_from_bits(bf16_bits<kMode>(bits(a.lane[i]), kRandom ? random[i] : 0, clip));
  }
  return r;
}

// All lanes of one vector; stochastic rounding takes the random registers, 64 words that advance once an instruction.
template <class To, class From, int N>
inline Vector<To, N> convert_lanes(const Vector<From, N>& a, int switches) {
  allow(switches, kRoundSwitches | SW_CLIP_FP);
  const Round round = rounding(switches);
  const bool clip = (switches & SW_CLIP_FP) != 0;
  const bool stochastic = round == Round::stochastic || round == Round::stochastic_nearest;
  std::uint32_t random[64];
  if (stochastic && N == 1) random[0] = random_bits();
  if (stochastic && N > 1) take_lfsr(random);
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bf16>) {
    switch (round) {
      case Round::zero:
        return bf16_lanes<Round::zero>(a, random, clip);
      case Round::stochastic:
        return bf16_lanes<Round::stochastic>(a, random, clip);
      case Round::nearest:
        return clip ? bf16_lanes<Round::nearest>(a, random, true) : bf16_lanes<Round::nearest>(a, random, false);
      default:
        break;
    }
  }
  if constexpr (std::is_same_v<From, bf16> && std::is_same_v<To, float>) {
    return map<Vector<To, N>>([](bf16 x) { return static_cast<float>(x); }, a);
  }
  Vector<To, N> r;
  for (int i = 0; i < N; ++i) r.lane[i] = convert_lane<To>(a.lane[i], round, stochastic ? random[i % 64] : 0, clip);
  return r;
}

}  // namespace gaudi3_rt::tpc
