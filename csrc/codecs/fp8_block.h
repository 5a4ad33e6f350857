// The 8-bit floats of the OCP specification (e4m3fn, e5m2) in blocks, for moments; a block's scale is the power of two
// that brings its largest magnitude just below the format's.
//   e4m3fn: 3 bits of mantissa over 18 octaves. Too few octaves for a second moment, which spans twice those of its
//           gradients: of what is positive (kRoot), the root is stored.
//   e5m2:   2 bits of mantissa over 32 octaves
template <int kMantissa, int kBias, std::int32_t kHighest, bool kPositive, bool kRoot>
struct MiniFloat {
  static constexpr std::int32_t kFirstNormal = 1 << kMantissa;
  static constexpr std::int32_t kRebias = (127 - kBias) << 23;

  struct Scales {
    float scale;  // of magnitudes: those of code 1 and so on are multiplied by it
  };

  GAUDI3_RT_EARLY static Scales fit(const float* x, std::int64_t n) {
    std::int32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = bit_cast<std::int32_t>(x[i]) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    if (largest >= 0x7f800000) return {__builtin_nanf("")};
    if (largest == 0) return {1};
    // The smallest power of two with which the largest magnitude is not above the highest code's.
    const std::int32_t limit = bit_cast<std::int32_t>(unscaled(kHighest));
    const std::int32_t distance = largest - limit + (1 << 23) - 1;
    const std::int32_t exponent = distance >> 23;
    return {bit_cast<float>(((exponent < -126 ? -126 : exponent) + 127) << 23)};
  }

  explicit MiniFloat(const Scales& scales) : scale(scales.scale), per_scale(1 / scales.scale) {}

  // The magnitude of a code; the one above the highest code is the highest's. Near the largest float, where a number
  // may be rounded up to a code beyond it, that float.
  float value(std::int32_t code) const {
    const float x = unscaled(code < kHighest ? code : kHighest) * scale;
    return x > kLargestFloat ? kLargestFloat : x;
  }

  // The code of a magnitude, rounded up or down by u in [0, 1) such that the expected value is exact.
  std::int32_t code(float magnitude, float u) const {
    const float scaled = magnitude * per_scale;
    const float x = kRoot ? sqrt(scaled) : scaled;
    const std::int32_t normal = (bit_cast<std::int32_t>(x) - kRebias) >> (23 - kMantissa);
    const std::int32_t subnormal = static_cast<std::int32_t>(x * kPerSmallest);
    const std::int32_t found = normal < kFirstNormal ? subnormal : normal;
    const std::int32_t below = found < kHighest ? found : kHighest;
    const float low = unscaled(below);
    const float gap = unscaled(below < kHighest ? below + 1 : kHighest) - low;
    const std::int32_t code = below + (u * gap < scaled - low ? 1 : 0);
    return kPositive && code == 0 && magnitude != 0 ? 1 : code;
  }

 private:
  static constexpr float kLargestFloat = 0x1.fffffep127f;
  static constexpr float kSmallest = 1.0f / (1u << (kBias - 1 + kMantissa));
  static constexpr float kPerSmallest = 1u << (kBias - 1 + kMantissa);

  static float unscaled(std::int32_t code) {
    const float normal = bit_cast<float>((code << (23 - kMantissa)) + kRebias);
    const float x = code < kFirstNormal ? static_cast<float>(code) * kSmallest : normal;
    return kRoot ? x * x : x;
  }

  float scale, per_scale;
};
