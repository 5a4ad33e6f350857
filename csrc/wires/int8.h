// A gradient on the wire as int8: blocks of 256 elements, each with the two floats of its code (codecs/int8_block.h)
// before its codes. The code is a logarithm fitted to the block, so that gradients of very different size within a
// block all keep a relative precision. Rounded to the nearest code, not stochastically: what that loses is sent with
// the next gradient. One element that is not finite makes its whole block NaN.

struct Int8Wire {
  using Code = LogCode<false>;
  using Codes = Block<Code, false>;
  static constexpr std::int64_t kBytes = 1;
  static constexpr std::int64_t kHeaderBytes = sizeof(Code::Scales);

  static void compress(const float* x, std::int64_t n, char* to) {
    Codes::for_each_block(n, [&](std::int64_t first, auto length) GAUDI3_RT_EARLY {
      char* const block = to + first / kBlock * (kHeaderBytes + kBlock);
      const Code::Scales scales = Code::fit(x + first, length);
      __builtin_memcpy(block, &scales, sizeof(scales));
      encode(x + first, scales, length, reinterpret_cast<std::uint8_t*>(block + kHeaderBytes));
    });
  }

  static void decompress(const char* from, std::int64_t n, float* x) {
    Codes::for_each_block(n, [&](std::int64_t first, auto length) GAUDI3_RT_EARLY {
      const char* const block = from + first / kBlock * (kHeaderBytes + kBlock);
      Code::Scales scales;
      __builtin_memcpy(&scales, block, sizeof(scales));
      Codes::decode(reinterpret_cast<const std::uint8_t*>(block + kHeaderBytes), Code(scales), length, x + first);
    });
  }

  // Replaces numbers by what they are once they have been on the wire.
  static void reference(double* x, std::int64_t n) {
    for (std::int64_t begin = 0; begin < n; begin += kBlock) {
      const std::int64_t length = n - begin < kBlock ? n - begin : kBlock;
      float narrow[kBlock];
      for (std::int64_t i = 0; i < length; ++i) narrow[i] = static_cast<float>(x[begin + i]);
      const Code::Scales scales = Code::fit(narrow, length);
      for (std::int64_t i = begin; i < begin + length; ++i) {
        x[i] = __builtin_copysign(nearest(scales, __builtin_fabs(x[i])), x[i]);
      }
    }
  }

 private:
  GAUDI3_RT_EARLY static void encode(const float* x, const Code::Scales& scales, std::int64_t n, std::uint8_t* codes) {
    const Code code(scales);
    const std::int32_t keep = scales.largest - scales.largest == 0 ? 0xff : 0;  // of a NaN's codes, nothing
    std::int32_t wide[kBlock];  // narrowed in a loop of its own: mixed widths in one would spill
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = bit_cast<std::int32_t>(x[i]);
      wide[i] = (code.code(bit_cast<float>(bits & 0x7fffffff), 0.5f) | ((bits >> 24) & 0x80)) & keep;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(wide[i]);
  }

  // The value whose code is nearest, of magnitudes. An octave has its codes evenly spaced.
  static double nearest(const Code::Scales& scales, double magnitude) {
    const double largest = scales.largest, per_octave = scales.codes_per_octave;
    if (largest != largest) return largest;
    const auto value = [&](double code) {
      const double octaves = (Code::kHighest - code) / per_octave;
      const double whole = __builtin_ceil(octaves);
      return largest * __builtin_ldexp(1 + whole - octaves, -static_cast<int>(whole));
    };
    if (magnitude < value(1)) return magnitude > value(1) / 2 ? value(1) : 0;
    int exponent;
    const double fraction = 2 * __builtin_frexp(magnitude / largest, &exponent) - 1;
    const double octaves = 1 - exponent - fraction;
    return value(Code::kHighest - __builtin_floor(octaves * per_octave + 0.5));
  }
};
