// The product with a factor, as torch's mul_ by a number: in float, rounded once more where it is stored in less.

struct Scale {
  static constexpr const char* kParameters[] = {"factor"};

  float factor;

  explicit Scale(const float* parameters) : factor(parameters[0]) {}

  static double reference(const double* parameters, double x) { return x * parameters[0]; }

  float apply(float x) const { return x * factor; }
};
