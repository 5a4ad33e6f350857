// y + factor * x: the gradient of a micro-batch added to that of those before. The product is rounded first, as it is
// by the two operations of torch that do the same.

struct Accumulate {
  static constexpr bool kReadsInto = true;

  static double reference(double factor, double from, double into) { return into + factor * from; }

  float apply(float factor, float from, float into) const { return into + factor * from; }
};
