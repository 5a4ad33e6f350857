// bfloat16, stored with stochastic rounding: up with the probability that makes the expected value exact, so that
// updates below half a unit are not lost but taken now and then. A number that bfloat16 has is stored as it is.
struct BF16Stochastic {
  static constexpr bool kDraws = true;
  using Stored = std::uint16_t;

  static float load(Stored h) { return BF16::load(h); }

  static void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* x, const Random& random) {
    Stored* const stored = static_cast<Stored*>(operand.data) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) stored[i] = store(x[i], (random.words[i] >> random.shift) & 0xffffu);
  }

  // random: 16 bits; x is moved away from zero if they and the 16 bits that are cut off carry.
  static Stored store(float x, std::uint32_t random) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<Stored>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : (bits + random) >> 16);
  }
};
