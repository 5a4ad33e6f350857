// Sum of squares, accumulated in double: the square of a float is exact there, so the sum neither overflows nor
// underflows, and it is finite exactly when every element is.

struct SumSquares {
  // An element's place in its chunk decides its stream and lane (isa/body.h): the order of the sum is fixed.
  Doubles sums[kStreams][kParts] = {};

  static double identity() { return 0; }
  static double fold(double a, double b) { return a + b; }
  static double reference(double x) { return x * x; }

  void add(int stream, const float* x) {
    for (int part = 0; part < kParts; ++part) {
      Floats narrow;
      __builtin_memcpy(&narrow, x + part * kWidth, sizeof(narrow));
      const Doubles wide = __builtin_convertvector(narrow, Doubles);
      sums[stream][part] += wide * wide;
    }
  }

  double value() const {
    double lanes[kLanes] = {};
    for (int stream = 0; stream < kStreams; ++stream) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += sums[stream][lane / kWidth][lane % kWidth];
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
};
