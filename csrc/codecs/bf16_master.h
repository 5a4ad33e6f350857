// A bfloat16 parameter with a float master copy at Operand::second. The copy holds as long as the parameter is its
// nearest bfloat16; a parameter that was written from outside (a checkpoint of the model, a clamp) wins over its copy.
struct BF16Master {
  static constexpr std::int64_t kSecondBytes = 4;
  using Stored = std::uint16_t;

  static float* read(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
    const Stored* const param = static_cast<const Stored*>(operand.data) + begin;
    const float* const master = static_cast<const float*>(operand.second) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      buffer[i] = BF16::store(master[i]) == param[i] ? master[i] : BF16::load(param[i]);
    return buffer;
  }

  static void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* x, const Random&) {
    Stored* const param = static_cast<Stored*>(operand.data) + begin;
    float* const master = static_cast<float*>(operand.second) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      master[i] = x[i];
      param[i] = BF16::store(x[i]);
    }
  }
};
