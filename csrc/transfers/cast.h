// factor * x, in the dtype of where it goes: a gradient into a bucket, or out of it.

struct Cast {
  static constexpr bool kReadsInto = false;

  static double reference(double factor, double from, double) { return factor * from; }

  float apply(float factor, float from, float) const { return factor * from; }
};
