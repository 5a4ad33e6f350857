// 1 when no element is infinite or NaN, else 0. A float is not finite exactly when its exponent bits are all ones.

struct AllFinite {
  Int4 bad[kStreams] = {};

  static double identity() { return 1; }
  static double fold(double a, double b) { return a < b ? a : b; }
  static double reference(double x) { return x - x == 0 ? 1 : 0; }

  void add(int stream, const float* x) {
    for (int half = 0; half < 2; ++half) {
      Int4 bits;
      __builtin_memcpy(&bits, x + 4 * half, sizeof(bits));
      bad[stream] |= (bits & 0x7f800000) == 0x7f800000;
    }
  }

  double value() const {
    const Int4 any = (bad[0] | bad[1]) | (bad[2] | bad[3]);
    return (any[0] | any[1] | any[2] | any[3]) == 0 ? 1 : 0;
  }
};
