// An exact float in two halves: the parameter is the nearest bfloat16 (ties away from zero), and int16 at
// Operand::second is what its bits lack. 4 bytes a parameter, as float alone, and nothing of the float is lost.
// A parameter that was written from outside keeps its old lower half, which is at most half a unit of its last place;
// a zero, an infinity or a NaN stays what it is. Above 3.39e38, where the nearest bfloat16 is infinite, a float becomes
// infinite too.
struct BF16Split {
  static constexpr std::int64_t kSecondBytes = 2;
  using Stored = std::uint16_t;

  static float* read(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
    const Stored* const upper = static_cast<const Stored*>(operand.data) + begin;
    const std::int16_t* const lower = static_cast<const std::int16_t*>(operand.second) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = static_cast<std::int32_t>(upper[i]) << 16;
      const std::int32_t magnitude = bits & 0x7fffffff;
      const std::int32_t least = magnitude == 0 ? 0 : -0x8000;  // below zero there are no bits of a float
      const std::int32_t low = lower[i] < least ? least : lower[i];
      buffer[i] = bit_cast<float>(bits + (magnitude < 0x7f800000 ? low : 0));
    }
    return buffer;
  }

  static void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* x, const Random&) {
    Stored* const upper = static_cast<Stored*>(operand.data) + begin;
    std::int16_t* const lower = static_cast<std::int16_t*>(operand.second) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint32_t bits = bit_cast<std::uint32_t>(x[i]);
      const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
      const std::uint32_t nearest = is_nan ? (bits >> 16) | 0x40u : (bits + 0x8000u) >> 16;
      upper[i] = static_cast<Stored>(nearest);
      lower[i] = static_cast<std::int16_t>(is_nan ? 0u : bits - (nearest << 16));
    }
  }
};
