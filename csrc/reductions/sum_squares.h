// Sum of squares, accumulated in double: the square of a float is exact there, so the sum neither overflows nor
// underflows, and it is finite exactly when every element is.

struct SumSquares {
  LaneSums sums;

  static double identity() { return 0; }
  static double fold(double a, double b) { return a + b; }
  static double reference(double x) { return x * x; }

  void add(int stream, const float* x) {
    for (int part = 0; part < kParts; ++part) {
      Doubles wide;
      widen(x + part * kWidth, wide);
      add_squares(wide, sums.of[stream][part]);
    }
  }

  double value() const { return sums.total(); }
};
