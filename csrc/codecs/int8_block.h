// int8 in blocks, for moments: a logarithm whose basis the block chooses. Code L, the highest, is the block's largest
// magnitude; below it every octave has the same number of codes, evenly spaced; code 0 is zero. So gradients of very
// different size within a block all keep a relative precision, the better the less they differ.
//   positive (uint8): L = 255 over the octaves down to the smallest that occurs, at most 32 (and 32 if that is below
//                     2^-124); what is smaller is stored as code 1
//   signed (int8):    L = 127 over twice the distance from the largest to the geometric mean and one octave, at most 16
//                     in all; what is smaller is near zero, and stored as zero or code 1
template <bool kPositive>
struct LogCode {
  static constexpr std::int32_t kHighest = kPositive ? 255 : 127;
  static constexpr std::int32_t kOctaves = kPositive ? 32 : 16;
  static constexpr std::int32_t kOctave = 1 << 23;  // in units of a float's bits
  static constexpr std::int32_t kOne = 127 << 23;   // the bits of 1.0f
  // Magnitudes are encoded relative to a quarter of the largest: the factor for that is a normal number as long as
  // the largest is not below kLeast (as bits: 2^-124), which then stands for it.
  static constexpr std::int32_t kFour = 129 << 23;
  static constexpr std::int32_t kLeast = 3 << 23;

  struct Scales {
    float largest;
    float codes_per_octave;
  };

  GAUDI3_RT_EARLY static Scales fit(const float* x, std::int64_t n) {
    std::int32_t largest = 0, count = 0, sum = 0;
    std::uint32_t smallest = ~0u;
#pragma omp simd reduction(max : largest) reduction(min : smallest) reduction(+ : count, sum)
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = bit_cast<std::int32_t>(x[i]) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
      if constexpr (kPositive) {
        const std::uint32_t nonzero = static_cast<std::uint32_t>(bits) - 1u;  // zero becomes the largest of all
        smallest = nonzero < smallest ? nonzero : smallest;
      } else {
        count += bits != 0 ? 1 : 0;
        sum += bits >> 9;  // 256 of them fit
      }
    }
    if (largest >= 0x7f800000) return {__builtin_nanf(""), 1};
    // The bits of a float are, but for straight lines in each octave, its logarithm.
    std::int32_t range = largest - static_cast<std::int32_t>(smallest) - 1;
    if constexpr (kPositive) {
      if (smallest < kLeast) range = kOctaves * kOctave;  // the bits of a denormal are no logarithm
    } else {
      const std::int32_t to_mean = largest - (count == 0 ? largest : sum / count * (1 << 9));
      range = to_mean < kOctaves / 2 * kOctave ? 2 * to_mean + kOctave : kOctaves * kOctave;
    }
    std::int32_t octaves = (range + kOctave - 1) >> 23;
    octaves = octaves < 1 ? 1 : octaves < kOctaves ? octaves : kOctaves;
    return {bit_cast<float>(largest < kLeast ? kLeast : largest), static_cast<float>((kHighest - 1) / octaves)};
  }

  explicit LogCode(const Scales& scales)
      : largest(scales.largest),
        per_quarter(4 / scales.largest),
        step(kOctave / scales.codes_per_octave),
        per_step(scales.codes_per_octave / kOctave),
        smallest(bit_cast<float>(kFour - static_cast<std::int32_t>((kHighest - 1) * step))) {}

  float value(std::int32_t code) const {
    const std::int32_t bits = kOne - static_cast<std::int32_t>(static_cast<float>(kHighest - code) * step);
    return (code == 0 ? 0.0f : bit_cast<float>(bits)) * largest;
  }

  // The code of a magnitude, rounded up or down by u in [0, 1). Within an octave codes, bits and values are
  // proportional to one another, so that rounding the code stochastically leaves the expected value exact.
  std::int32_t code(float magnitude, float u) const {
    const float x = magnitude * per_quarter;
    // Less one unit, because the largest may come out as the float below 4.
    const float below_highest = static_cast<float>(kFour - 1 - bit_cast<std::int32_t>(x)) * per_step;
    const std::int32_t code = kHighest - static_cast<std::int32_t>(below_highest + u);
    if constexpr (kPositive) {
      return code > 0 ? code : magnitude == 0 ? 0 : 1;
    } else {
      return x < smallest ? (u * smallest < x ? 1 : 0) : code;
    }
  }

 private:
  float largest, per_quarter, step, per_step;
  float smallest;  // of code 1, relative to a quarter of the largest
};
