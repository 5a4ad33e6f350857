// A gradient on the wire as bfloat16, rounded to nearest.

struct Bfloat16Wire {
  static constexpr std::int64_t kBytes = 2;        // of an element
  static constexpr std::int64_t kHeaderBytes = 0;  // of a block, before its elements

  static void compress(const float* x, std::int64_t n, char* to) {
    auto* const stored = reinterpret_cast<std::uint16_t*>(to);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) stored[i] = BF16::store(x[i]);
  }

  static void decompress(const char* from, std::int64_t n, float* x) {
    const auto* const stored = reinterpret_cast<const std::uint16_t*>(from);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) x[i] = BF16::load(stored[i]);
  }

  // Replaces numbers by what they are once they have been on the wire.
  static void reference(double* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (x[i] - x[i] != 0) continue;
      int exponent;
      __builtin_frexp(x[i], &exponent);
      const double unit = __builtin_ldexp(1, exponent < -125 ? -133 : exponent - 8);
      x[i] = __builtin_nearbyint(x[i] / unit) * unit;
      if (__builtin_fabs(x[i]) >= 0x1p128) x[i] = __builtin_copysign(__builtin_inf(), x[i]);
    }
  }
};
