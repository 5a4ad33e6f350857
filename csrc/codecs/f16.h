// IEEE binary16. Stored with round to nearest, ties to even; overflow gives infinity; a NaN stays a NaN (made quiet).
// Branch-free on integers, and no float on the way is denormal: equal bits to the F16C instructions, which ignore the
// flushing of denormal halves as well.
struct F16 {
  using Stored = std::uint16_t;

  static float load(Stored h) {
    const std::uint32_t sign = (h & 0x8000u) << 16;
    const std::uint32_t magnitude = h & 0x7fffu;
    const std::uint32_t special = (magnitude << 13) | 0x7f800000u;
    const std::uint32_t normal = (magnitude << 13) + ((127u - 15u) << 23);
    // A denormal half is an integer multiple of 2^-24.
    const float multiple = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
    const std::uint32_t denormal = bit_cast<std::uint32_t>(multiple);
    const std::uint32_t finite = magnitude < 0x0400u ? denormal : normal;
    return bit_cast<float>(sign | (magnitude >= 0x7c00u ? special : finite));
  }

  static Stored store(float x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    const std::uint32_t quiet = ((magnitude >> 13) & 0x03ffu) | 0x7e00u;
    // Rebias the exponent from 127 to 15, then round away the low 13 bits.
    const std::uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    const std::uint32_t denormal = bit_cast<std::uint32_t>(shifted) - bit_cast<std::uint32_t>(0.5f);
    const std::uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
    // 65520 and above rounds to infinity.
    const std::uint32_t number = magnitude >= 0x477ff000u ? 0x7c00u : finite;
    return static_cast<Stored>(sign | (magnitude > 0x7f800000u ? quiet : number));
  }

#ifdef __F16C__
  static void load8(const Stored* in, float* out) {
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))));
  }
  static void store8(Stored* out, const float* in) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(_mm256_loadu_ps(in), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
};
