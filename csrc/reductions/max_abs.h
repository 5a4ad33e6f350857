// The largest magnitude; a NaN anywhere makes it NaN. Without its sign bit a float is ordered like the integer of the
// same bits, NaN after infinity, so that a maximum of integers does all of that, in any order of elements.

struct MaxAbs {
  Ints largest[kStreams] = {};

  static double identity() { return 0; }
  static double fold(double a, double b) { return nan_max(a, b); }
  static double reference(double x) { return __builtin_fabs(x); }

  void add(int stream, const float* x) {
    for (int part = 0; part < kParts; ++part) {
      Ints bits;
      __builtin_memcpy(&bits, x + part * kWidth, sizeof(bits));
      bits &= 0x7fffffff;
      largest[stream] = bits > largest[stream] ? bits : largest[stream];
    }
  }

  double value() const {
    std::int32_t result = 0;
    for (int stream = 0; stream < kStreams; ++stream) {
      for (int lane = 0; lane < kWidth; ++lane) {
        if (largest[stream][lane] > result) result = largest[stream][lane];
      }
    }
    return bit_cast<float>(result);
  }
};
