// bfloat16: the upper half of a float. Stored with round to nearest, ties to even; a NaN stays a NaN (made quiet).
struct BF16 {
  using Stored = std::uint16_t;

  static float load(Stored h) { return bit_cast<float>(std::uint32_t{h} << 16); }

  static Stored store(float x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<Stored>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
};
