// 1 when no element is infinite or NaN, else 0. A float is not finite exactly when its exponent bits are all ones.

struct AllFinite {
  Ints bad[kStreams] = {};

  static double identity() { return 1; }
  static double fold(double a, double b) { return a < b ? a : b; }
  static double reference(double x) { return x - x == 0 ? 1 : 0; }

  void add(int stream, const float* x) {
    for (int part = 0; part < kParts; ++part) {
      Ints bits;
      __builtin_memcpy(&bits, x + part * kWidth, sizeof(bits));
      bad[stream] |= (bits & 0x7f800000) == 0x7f800000;
    }
  }

  double value() const {
    std::int32_t any = 0;
    for (int stream = 0; stream < kStreams; ++stream) {
      for (int lane = 0; lane < kWidth; ++lane) any |= bad[stream][lane];
    }
    return any == 0 ? 1 : 0;
  }
};
