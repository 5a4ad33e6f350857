// Codes of 8 bits in blocks of 256 elements. What a code means is a Format: a monotonic map from codes 0, 1, 2, ... to
// magnitudes, fitted to the block. Stored with stochastic rounding between neighbouring codes, so that the expected
// value of what is stored is the value itself: a moment decays by 0.1 % a step although its codes are 6 % apart. Blocks
// begin at multiples of 256 elements. One element that is not finite makes its whole block NaN.
//
// kPositive: for what cannot be negative (a second moment). Such a number is never stored as zero unless it is zero:
// an update divides by its root.
template <class Format, bool kPositive>
struct Block {
  static constexpr std::int64_t kSecondBytes = sizeof(typename Format::Scales);  // of a block
  static constexpr bool kDraws = true;
  using Stored = std::uint8_t;
  using Scales = typename Format::Scales;
  static constexpr std::int32_t kSign = kPositive ? 0 : 0x80;

  static float* read(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
    const Stored* const codes = static_cast<const Stored*>(operand.data) + begin;
    const Scales* const scales = static_cast<const Scales*>(operand.second) + begin / kBlock;
    for_each_block(n, [&](std::int64_t first, auto length) GAUDI3_RT_EARLY {
      decode(codes + first, Format(scales[first / kBlock]), length, buffer + first);
    });
    return buffer;
  }

  // All blocks are fitted before one is encoded: what a fit ends with (divisions, sums across a vector) takes long but
  // little of a core, so that fits in a row go on side by side.
  static void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* x, const Random& random) {
    Stored* const codes = static_cast<Stored*>(operand.data) + begin;
    Scales* const scales = static_cast<Scales*>(operand.second) + begin / kBlock;
    for_each_block(n, [&](std::int64_t first, auto length)
                          GAUDI3_RT_EARLY { scales[first / kBlock] = Format::fit(x + first, length); });
    for_each_block(n, [&](std::int64_t first, auto length) GAUDI3_RT_EARLY {
      encode(x + first, Format(scales[first / kBlock]), length, random.words + first, random.shift, codes + first);
    });
  }

  // Calls work(first, length) for the blocks of [0, n); of a whole block, the compiler knows the length.
  template <class Work>
  GAUDI3_RT_EARLY static void for_each_block(std::int64_t n, const Work& work) {
    std::int64_t first = 0;
    for (; first + kBlock <= n; first += kBlock) work(first, std::integral_constant<std::int64_t, kBlock>());
    if (first < n) work(first, n - first);
  }

  GAUDI3_RT_EARLY static void decode(const Stored* codes, const Format& format, std::int64_t n, float* out) {
    const Format f = format;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t code = codes[i];
      const std::int32_t magnitude = bit_cast<std::int32_t>(f.value(code & ~kSign));
      out[i] = bit_cast<float>(magnitude | ((code & kSign) << 24));
    }
  }

 private:
  GAUDI3_RT_EARLY static void encode(const float* x, const Format& format, std::int64_t n, const std::uint32_t* words,
                                     int shift, Stored* codes) {
    const Format f = format;
    std::int32_t wide[kBlock];  // narrowed in a loop of its own: mixed widths in one would spill
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = bit_cast<std::int32_t>(x[i]);
      const std::int32_t code = f.code(bit_cast<float>(bits & 0x7fffffff), uniform(words[i], shift));
      wide[i] = code | ((bits >> 24) & kSign);
    }
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<Stored>(wide[i]);
  }
};
