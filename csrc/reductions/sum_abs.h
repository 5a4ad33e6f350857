// Sum of magnitudes, accumulated in double: it cannot overflow there, so it is finite exactly when every element is.

struct SumAbs {
  LaneSums sums;

  static double identity() { return 0; }
  static double fold(double a, double b) { return a + b; }
  static double reference(double x) { return __builtin_fabs(x); }

  void add(int stream, const float* x) {
    for (int part = 0; part < kParts; ++part) {
      Doubles wide;
      widen(x + part * kWidth, wide);
      sums.of[stream][part] += (Doubles)((Longs)wide & 0x7fffffffffffffff);
    }
  }

  double value() const { return sums.total(); }
};
