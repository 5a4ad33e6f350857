// Sum of squares, accumulated in double: the square of a float is exact there, so the sum neither overflows nor
// underflows, and it is finite exactly when every element is.

struct SumSquares {
  // Four streams of eight lanes; an element's place in its chunk decides its stream and lane (isa/body.h), the order
  // of the sum is therefore fixed.
  Double4 lanes[kStreams][2] = {};

  static double identity() { return 0; }
  static double fold(double a, double b) { return a + b; }
  static double reference(double x) { return x * x; }

  void add(int stream, const float* x) {
    for (int half = 0; half < 2; ++half) {
      Float4 narrow;
      __builtin_memcpy(&narrow, x + 4 * half, sizeof(narrow));
      const Double4 wide = __builtin_convertvector(narrow, Double4);
      lanes[stream][half] += wide * wide;
    }
  }

  double value() const {
    Double4 sum = {};
    for (int stream = 0; stream < kStreams; ++stream) sum += lanes[stream][0] + lanes[stream][1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
  }
};
